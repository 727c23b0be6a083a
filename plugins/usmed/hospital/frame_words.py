"""The words of what all pages share: the navigation, the languages, what every page may refuse."""

FRAME_WORDS: dict[str, tuple[str, str]] = {
    "pages": ("Pages", "Pagini"),
    "to-content": ("To the content", "La conținut"),
    "entry-patient": ("Patient", "Pacient"),
    "entry-transfers": ("Transfers", "Transferuri"),
    "entry-arrivals": ("Arrivals", "Sosiri"),
    "entry-desk": ("Desk", "Ghișeu"),
    "entry-audit": ("Audit", "Audit"),
    "entry-statistics": ("Statistics", "Statistici"),
    "entry-region": ("Region", "Regiune"),
    "entry-settings": ("Settings", "Setări"),
    "logged-in": ("Logged in as", "Autentificat ca"),
    "explorer": ("Orthanc Explorer", "Orthanc Explorer"),
    "look": ("Colours", "Culori"),
    "look-auto": ("As the device", "Ca dispozitivul"),
    "look-light": ("Light", "Deschis"),
    "look-dark": ("Dark", "Închis"),
    "problem": ("That did not work", "Nu a mers"),
    "back-to-start": ("Back", "Înapoi"),
    "fault-nobody": (
        "These pages are for members of staff who have logged in. Switch log-ins on in Orthanc's configuration.",
        "Aceste pagini sunt pentru personal autentificat. Activați autentificarea în configurația Orthanc.",
    ),
    "fault-stale-form": (
        "This form is not from this log-in, or the archive was restarted. Load the page again.",
        "Acest formular nu este din această sesiune, sau arhiva a fost repornită. Încărcați pagina din nou.",
    ),
    "fault-away": (
        "It could not be done now, because others of the region do not answer. Nothing has happened; try again.",
        "Acum nu s-a putut, fiindcă alții din regiune nu răspund. Nu s-a întâmplat nimic; încercați din nou.",
    ),
    "fault-other": ("It was refused", "A fost refuzat"),
}
