"""The words of the page of arrivals."""

ARRIVALS_WORDS: dict[str, tuple[str, str]] = {
    "arrivals-lead": (
        "Who comes today, by the hospital information system and the worklists, and how far their studies from other"
        " hospitals are.",
        "Cine vine astăzi, după sistemul informatic al spitalului și listele de lucru, și cât din studiile lor de la"
        " alte spitale a ajuns.",
    ),
    "arrivals-day": ("Day", "Ziua"),
    "arrivals-show": ("Show", "Arată"),
    "arrivals-by-state": ("By state", "După stare"),
    "arrivals-all": ("All", "Toți"),
    "prefetch-waiting": ("Waiting", "În așteptare"),
    "prefetch-asking": ("Asking the region", "Se întreabă regiunea"),
    "prefetch-nothing": ("Nothing to bring", "Nimic de adus"),
    "prefetch-not-permitted": ("No permission, or nothing", "Fără acord, sau nimic"),
    "prefetch-found": ("Not brought", "Neaduse"),
    "prefetch-arriving": ("Arriving", "Se aduc"),
    "prefetch-here": ("All here", "Toate aici"),
    "prefetch-failed": ("Failed", "Eșuat"),
    "arrivals-found-hint": ("Brought when somebody asks for one.", "Se aduc când cineva cere unul."),
    "arrivals-not-permitted-hint": (
        "Without the patient's permission nothing tells whether there is anything.",
        "Fără acordul pacientului nimic nu spune dacă există ceva.",
    ),
    "arrivals-again-at": ("Tried again at", "Se reîncearcă la"),
    "arrivals-studies-here": ("studies here", "studii aici"),
    "arrivals-studies-elsewhere": ("studies elsewhere", "studii în altă parte"),
    "arrivals-time": ("Time", "Ora"),
    "arrival-patient": ("Patient", "Pacient"),
    "arrivals-number": ("Number", "Număr"),
    "arrivals-expected": ("Expected", "Se așteaptă"),
    "arrivals-place": ("Where", "Unde"),
    "arrivals-source": ("Told by", "Sursa"),
    "source-hl7": ("Admission", "Internare"),
    "source-worklist": ("Worklist", "Listă de lucru"),
    "arrivals-from-elsewhere": ("Studies from elsewhere", "Studii din altă parte"),
    "no-arrivals": ("Nobody, so far.", "Nimeni, deocamdată."),
    "arrivals-shown": ("Shown", "Afișați"),
    "arrivals-earlier": ("Earlier", "Mai devreme"),
    "arrivals-later": ("Later", "Mai târziu"),
    "merges-open": (
        "The hospital information system says of some numbers that they are one patient's:",
        "Sistemul informatic al spitalului spune despre unele numere că sunt ale aceluiași pacient:",
    ),
    "merges-look": ("Look at them", "Verificați-le"),
    "merges": ("Numbers of one patient", "Numere ale aceluiași pacient"),
    "merges-lead": (
        "Nothing was joined here or in the region. Check who it is. If it is one patient: correct the studies in the"
        " archive, or ask the region's registrar to link the two; then note it here.",
        "Nimic nu a fost unit aici sau în regiune. Verificați cine este. Dacă este un singur pacient: corectați"
        " studiile în arhivă sau cereți registratorului regiunii să le lege; apoi notați aici.",
    ),
    "merges-none": ("There is nothing to look at.", "Nu este nimic de verificat."),
    "arrivals-stays": ("Number that stays", "Numărul care rămâne"),
    "arrivals-replaced": ("Numbers it takes the place of", "Numerele pe care le înlocuiește"),
    "arrivals-told": ("Told", "Anunțat"),
    "merge-done": ("One patient, seen to", "Același pacient, rezolvat"),
    "merge-not-one": ("Not one patient", "Nu este același pacient"),
    "arrivals-back": ("To the arrivals", "La sosiri"),
    "fault-unknown-merge": ("Somebody has looked at this already.", "Cineva a verificat deja acest lucru."),
}
