"""What the portal's pages say, in Romanian and in English. Plain words: a person of eighty reads them on a phone."""

PAGE_WORDS: dict[str, tuple[str, str]] = {
    # Every page.
    "portal": ("Imaginile mele medicale", "My medical images"),
    "portal-short": ("Imaginile mele", "My images"),
    "pages": ("Pagini", "Pages"),
    "to-content": ("Treci la conținut", "Go to the content"),
    "home": ("Acasă", "Home"),
    "permissions": ("Permisiuni", "Permissions"),
    "who-looked": ("Cine a văzut", "Who looked"),
    "my-studies": ("Investigații", "Studies"),
    "help": ("Ajutor", "Help"),
    "log-out": ("Ieșire", "Log out"),
    "go-on": ("Continuă", "Continue"),
    "not-now": ("Nu acum", "Not now"),
    "one-moment": ("O clipă…", "One moment…"),
    "offline": (
        "Fără rețea. Vedeți pagina așa cum era la {moment}; între timp se poate să se fi schimbat ceva.",
        "No network. You see the page as it was on {moment}; something may have changed since.",
    ),
    "number-ends": ("număr …{end}", "number …{end}"),
    "for-child": ("pentru un copil", "for a child"),
    "for-other": ("pentru altcineva", "for somebody else"),
    "for-child-born": ("pentru un copil, născut {day}", "for a child, born {day}"),
    "for-other-born": ("pentru altcineva, născut {day}", "for somebody else, born {day}"),
    "sign-for": ("Semnați:", "You sign:"),
    "acting": (
        "Acționați pentru altcineva, până la {until}. Tot ce vedeți aici este al acelei persoane.",
        "You act for somebody else, until {until}. All that you see here is that person's.",
    ),
    # What the browser's script says.
    "no-script": (
        "Pentru acest pas, browserul are nevoie de JavaScript, care este oprit. Porniți-l și reîncărcați pagina.",
        "This step needs JavaScript, which is switched off in your browser. Switch it on and load the page again.",
    ),
    "script-failed": (
        "Nu a mers. Nu s-a schimbat nimic. Încercați din nou.",
        "That did not work. Nothing has changed. Try again.",
    ),
    "script-cancelled": (
        "Ați întrerupt sau a durat prea mult. Nu s-a schimbat nimic. Puteți încerca din nou.",
        "It was cancelled or took too long. Nothing has changed. You can try again.",
    ),
    "no-passkeys": (
        "Acest browser nu cunoaște cheile de acces. Folosiți un telefon mai nou sau alt browser.",
        "This browser does not know passkeys. Use a newer phone or another browser.",
    ),
    "no-network": (
        "Nu există legătură la rețea. Nu s-a schimbat nimic. Încercați din nou când aveți semnal.",
        "There is no network. Nothing has changed. Try again when you have a signal.",
    ),
    # In and out.
    "log-in": ("Intrare", "Log in"),
    "welcome": ("Bine ați venit", "Welcome"),
    "log-in-lead": (
        "Aici vedeți cine s-a uitat la imaginile dumneavoastră medicale și hotărâți cine are voie.",
        "Here you see who looked at your medical images, and decide who may.",
    ),
    "with-passkey": ("Intră", "Log in"),
    "with-passkey-how": (
        "Telefonul vă cere amprenta, fața sau codul cu care îl deblocați.",
        "Your phone asks for your finger, your face or the code by which you unlock it.",
    ),
    "first-time": ("Prima dată aici?", "Here for the first time?"),
    "first-time-how": (
        "Mergeți cu un act de identitate la ghișeul oricărui spital din regiune. Veți primi acolo un cod de scanat.",
        "Go to the desk of any hospital of the region with an identity document. You will get a code to scan there.",
    ),
    "log-in-trouble": ("Nu puteți intra?", "You cannot log in?"),
    "logged-out": ("Ați ieșit. Pe acest telefon nu a rămas nimic.", "You are logged out. Nothing stays on this phone."),
    # Enrolment.
    "step": ("Pasul {number} din 4", "Step {number} of 4"),
    "enrol": ("Înscriere", "Enrolment"),
    "enrol-welcome": ("Imaginile dumneavoastră, hotărârea dumneavoastră", "Your images, your decision"),
    "enrol-lead": (
        "{hospital} v-a invitat să vă înscrieți. Durează două minute.",
        "{hospital} has invited you to enrol. It takes two minutes.",
    ),
    "enrol-guardian": (
        "Vă înscrieți pentru o persoană pe care o reprezentați, până la {until}.",
        "You enrol for a person whom you represent, until {until}.",
    ),
    "enrol-you-decide": (
        "Hotărâți ce spitale vă pot vedea radiografiile, tomografiile și celelalte imagini.",
        "You decide which hospitals may see your X-rays, CT scans and other images.",
    ),
    "enrol-you-see": (
        "Vedeți cine s-a uitat la ele, când și de ce.",
        "You see who looked at them, when and why.",
    ),
    "enrol-no-password": (
        "Fără parolă: telefonul vă recunoaște după amprentă, față sau codul de deblocare.",
        "No password: your phone knows you by your finger, your face or its unlock code.",
    ),
    "begin": ("Începe", "Begin"),
    "birth-date": ("Data nașterii", "Birth date"),
    "birth-date-question": ("Când v-ați născut?", "When were you born?"),
    "birth-date-child-question": (
        "Când s-a născut persoana pe care o reprezentați?",
        "When was the person born whom you represent?",
    ),
    "birth-date-why": (
        "Așa știm că acest cod de la {hospital} a ajuns la dumneavoastră.",
        "That is how we know that this code of {hospital} has reached you.",
    ),
    "day": ("Ziua", "Day"),
    "month": ("Luna", "Month"),
    "month-example": ("martie", "March"),
    "year": ("Anul", "Year"),
    "birth-date-unclear": (
        "Nu am înțeles data. Scrieți de exemplu 5, martie, 1946.",
        "We did not understand the date. Write for example 5, March, 1946.",
    ),
    "birth-date-wrong": (
        "Spitalul are altă dată. Verificați ce ați scris; mai puteți încerca de {left} ori.",
        "The hospital has another date. Check what you typed; you can try {left} more times.",
    ),
    "make-passkey": ("Creează cheia de acces", "Make the passkey"),
    "make-passkey-title": ("Telefonul devine cheia dumneavoastră", "Your phone becomes your key"),
    "make-passkey-lead": (
        "Telefonul creează acum o cheie de acces. Ea nu pleacă niciodată de la dumneavoastră.",
        "Your phone now makes a passkey. It never leaves you.",
    ),
    "make-passkey-1": ("Apăsați butonul de mai jos.", "Press the button below."),
    "make-passkey-2": (
        "Telefonul întreabă dacă vreți o cheie de acces: alegeți „Continuă”.",
        "The phone asks whether you want a passkey: choose “Continue”.",
    ),
    "make-passkey-3": (
        "Folosiți amprenta, fața sau codul cu care deblocați telefonul.",
        "Use your finger, your face or the code by which you unlock the phone.",
    ),
    "make-passkey-safe": (
        "Amprenta și fața rămân în telefon. Nimeni altcineva nu le vede.",
        "Your finger and face stay in the phone. Nobody else sees them.",
    ),
    "show-clerk": ("Arătați acest număr la ghișeu", "Show this number at the desk"),
    "show-clerk-lead": (
        "{hospital}: persoana de la ghișeu vede un număr pe ecranul ei.",
        "{hospital}: the clerk sees a number on the screen.",
    ),
    "comparison-code": ("Numărul de comparat", "The number to compare"),
    "show-clerk-same": (
        "Trebuie să fie același număr. Dacă nu este, spuneți „Nu” și cereți un cod nou.",
        "It must be the same number. If it is not, say “No” and ask for a new code.",
    ),
    "waiting-for-clerk": ("Așteptăm confirmarea de la ghișeu…", "Waiting for the desk to confirm…"),
    "invitation-over": (
        "Ghișeul a încheiat această înscriere, sau a durat prea mult. Cereți la ghișeu un cod nou.",
        "The desk has ended this enrolment, or it took too long. Ask the desk for a new code.",
    ),
    "enrolled": ("Gata, sunteți înscris(ă)", "Done, you are enrolled"),
    "enrolled-lead": (
        "De acum intrați aici oricând, cu telefonul dumneavoastră.",
        "From now on you can come here at any time, with your phone.",
    ),
    "to-my-page": ("Spre pagina mea", "To my page"),
    # Home.
    "asked-title": ("Vă întreabă", "You are asked"),
    "asks-to-see": ("{hospital} vrea să vă vadă imaginile", "{hospital} would like to see your images"),
    "answer": ("Răspunde", "Answer"),
    "what-holds": ("Ce am hotărât", "What I have decided"),
    "what-is-over": ("Ce nu mai este valabil", "What does not hold any more"),
    "nothing-allowed": ("Nu ați permis încă nimănui nimic.", "You have not permitted anything to anybody yet."),
    "nothing-allowed-means": (
        "Alte spitale nu vă pot vedea imaginile, decât în urgențe, când nu puteți fi întrebat(ă).",
        "Other hospitals cannot see your images, but in emergencies, when you cannot be asked.",
    ),
    "allow-or-forbid": ("Permit sau interzic", "Permit or forbid"),
    "who-looked-lately": ("Cine a văzut în ultima vreme", "Who looked lately"),
    "nobody-looked": (
        "Niciun alt spital nu v-a văzut încă imaginile.",
        "No other hospital has seen your images yet.",
    ),
    "see-all": ("Vezi tot", "See all"),
    # Who looked.
    "who-looked-lead": (
        "De fiecare dată când un spital dă altuia imagini ale dumneavoastră, aici apare un rând.",
        "Each time that a hospital gives images of yours to another one, a line appears here.",
    ),
    "saw": ("a primit:", "received:"),
    "why": ("Pentru", "For"),
    "given-by": ("De la", "From"),
    "by-consent": ("cu acordul meu", "by my permission"),
    "opened-emergency": (
        "a deschis accesul de urgență la imaginile dumneavoastră.",
        "opened emergency access to your images.",
    ),
    "opened-emergency-means": (
        "Doi angajați ai spitalului au cerut asta. Ce s-a dat atunci, dacă s-a dat ceva, apare în rânduri proprii.",
        "Two members of its staff asked for it. What was given then, if anything was, stands in lines of its own.",
    ),
    "without-consent": ("urgență, fără acord", "emergency, without permission"),
    "newest": ("Cele mai noi", "Newest"),
    "older": ("Mai vechi", "Older"),
    "who-looked-wrong": (
        "Vedeți ceva ce nu vă explicați? Întrebați spitalul numit: este obligat să vă răspundă.",
        "You see something that you cannot explain? Ask the hospital that is named: it has to answer you.",
    ),
    # Studies.
    "my-studies-lead": (
        "Ce investigații aveți și la care spital se află. Imaginile însele rămân la spitale.",
        "Which studies you have, and at which hospital they are. The images themselves stay at the hospitals.",
    ),
    "no-studies": (
        "Nu știm de nicio investigație a dumneavoastră în regiune.",
        "We know of no study of yours in the region.",
    ),
    "no-day": ("fără dată", "no date"),
    "study-of": ("{kind} din {day}, {hospital}", "{kind} of {day}, {hospital}"),
    "a-study": ("investigație", "study"),
    "another-kind": ("investigație ({codes})", "study ({codes})"),
    "a-radiograph": ("radiografie", "X-ray"),
    "a-ct": ("tomografie", "CT scan"),
    "a-mr": ("rezonanță magnetică", "MRI scan"),
    "an-ultrasound": ("ecografie", "ultrasound"),
    "a-mammogram": ("mamografie", "mammogram"),
    "a-nuclear-scan": ("PET sau scintigrafie", "PET or nuclear scan"),
    "an-angiography": ("angiografie sau fluoroscopie", "angiography or fluoroscopy"),
    # Permissions.
    "permissions-lead": (
        "Tot ce ați permis și ce ați interzis. O interdicție este întotdeauna mai tare decât o permisiune.",
        "All that you have permitted and forbidden. What you forbid is always stronger than what you permit.",
    ),
    "permission": ("Permisiune", "Permission"),
    "on-paper": ("pe hârtie", "on paper"),
    "on-paper-at": (
        "Dată pe hârtie și înregistrată de {hospital}; aici din {moment}. Dacă nu ați semnat-o, luați-o înapoi și"
        " spuneți spitalului.",
        "Given on paper and recorded by {hospital}; here since {moment}. If you did not sign it, take it back and tell"
        " the hospital.",
    ),
    "state-in-force": ("valabil", "holds"),
    "state-on-its-way": ("pe drum", "on its way"),
    "state-later": ("va începe", "will begin"),
    "state-over": ("a expirat", "is over"),
    "state-withdrawn": ("retras", "taken back"),
    "state-withdrawing": ("se retrage", "being taken back"),
    "gone-over": ("A expirat", "It is over"),
    "gone-withdrawn": ("Retras", "Taken back"),
    "gone-withdrawing": ("Se retrage", "Being taken back"),
    "limited-short": ("limitat de o interdicție", "limited by something forbidden"),
    "what-do-you-want": ("Ce doriți?", "What would you like?"),
    "want-permit": ("Permit", "Permit"),
    "want-permit-means": (
        "Un spital poate vedea imaginile făcute în altă parte, ca să vă îngrijească.",
        "A hospital may see images that were made elsewhere, to care for you.",
    ),
    "want-deny": ("Interzic", "Forbid"),
    "want-deny-means": (
        "Un spital nu le poate vedea, chiar dacă ați permis altundeva. Urgențele rămân permise.",
        "A hospital may not see them, even if you permitted it elsewhere. Emergencies stay permitted.",
    ),
    "want-no-emergency": ("Interzic în urgențe", "Forbid in emergencies"),
    "want-no-emergency-means": (
        "Nici atunci când nu puteți vorbi, iar medicii ar avea nevoie de ele. Gândiți-vă bine.",
        "Not even when you cannot speak and physicians would need them. Think it over well.",
    ),
    # The form.
    "form-faults": (
        "Mai lipsește ceva. Ce ați ales a rămas; uitați-vă la locurile marcate.",
        "Something is missing. What you chose is still there; look at the marked places.",
    ),
    "some-hospitals": ("Numai aceste spitale:", "These hospitals only:"),
    "all-hospitals": ("Toate spitalele din regiune", "All hospitals of the region"),
    "until-when": ("Până când", "Until when"),
    "term-month": ("O lună", "One month"),
    "term-half-year": ("Șase luni", "Six months"),
    "term-year": ("Un an", "One year"),
    "term-five-years": ("Cinci ani", "Five years"),
    "term-none": ("Fără termen, până retrag", "No end, until I take it back"),
    "term-date": ("Până la o zi anume", "Until a certain day"),
    "first-day": ("Prima zi", "First day"),
    "last-day": ("Ultima zi", "Last day"),
    "which-images": ("Numai anumite imagini?", "Certain images only?"),
    "which-images-all": ("Dacă nu alegeți nimic: toate.", "If you choose nothing: all."),
    "all-kinds": ("Toate felurile", "All kinds"),
    "some-kinds": ("Numai acestea:", "These only:"),
    "form-kind-radiograph": ("Radiografii", "X-rays"),
    "form-kind-ct": ("Tomografii (CT)", "CT scans"),
    "form-kind-mr": ("Rezonanță magnetică (RMN)", "MRI scans"),
    "form-kind-ultrasound": ("Ecografii", "Ultrasound"),
    "form-kind-mammography": ("Mamografii", "Mammograms"),
    "form-kind-nuclear": ("PET și scintigrafii", "PET and nuclear scans"),
    "form-kind-angiography": ("Angiografii și fluoroscopii", "Angiography and fluoroscopy"),
    "dates-empty": (
        "Lăsați gol dacă nu contează când au fost făcute.",
        "Leave it empty if it does not matter when they were made.",
    ),
    "nothing-signed-yet": (
        "Pe pagina următoare citiți totul încă o dată. Abia acolo semnați.",
        "On the next page you read all of it once more. Only there you sign.",
    ),
    "fault-kind": ("Alegeți ce doriți.", "Choose what you would like."),
    "fault-hospitals": ("Alegeți cel puțin un spital, sau toate.", "Choose one hospital at least, or all."),
    "fault-kinds": ("Alegeți cel puțin un fel, sau toate.", "Choose one kind at least, or all."),
    "fault-term": ("Alegeți până când.", "Choose until when."),
    "fault-date": ("Nu am înțeles data. Scrieți de exemplu 5.3.2027.", "This is no date. Write for example 5.3.2027."),
    "fault-past": ("Această zi a trecut deja.", "This day is over already."),
    "fault-far": (
        "Această zi este prea departe. Alegeți „Fără termen”.",
        "This day is too far away. Choose “No end”.",
    ),
    "fault-order": ("Ultima zi este înaintea primei zile.", "The last day is before the first day."),
    # The signature.
    "sign": ("Semnez", "Sign"),
    "sign-question": ("Este ceea ce doriți?", "Is this what you want?"),
    "sign-lead": (
        "Citiți în liniște. Exact acest text îl semnați cu telefonul.",
        "Read it in peace. Exactly this is what you sign with your phone.",
    ),
    "sign-with-passkey": ("Da, semnez", "Yes, I sign"),
    "take-back": ("Retrag", "Take back"),
    "take-back-question": ("Retrageți acest acord?", "Do you take this back?"),
    "take-back-lead": (
        "De atunci nimeni nu mai poate obține nimic pe baza lui. O retragere este definitivă.",
        "From then on nobody can get anything by it. Taking back is final.",
    ),
    "take-back-with-passkey": ("Da, retrag", "Yes, I take it back"),
    "denied-before": (
        "Atenție: o interdicție mai veche rămâne mai tare. Dacă nu o mai doriți, retrageți-o:",
        "Mind: something that you forbade before stays stronger. If you do not want that any more, take it back:",
    ),
    "wins-over": (
        "Va fi mai tare decât ceea ce ați permis aici:",
        "It will be stronger than what you permitted here:",
    ),
    "exact-document": ("Documentul exact", "The exact document"),
    "exact-document-means": (
        "Așa arată pentru calculatoare ceea ce semnați (HL7 FHIR Consent).",
        "This is how computers read what you sign (HL7 FHIR Consent).",
    ),
    # One permission.
    "permit-done": ("Este valabil.", "It holds."),
    "permit-under-way": ("Este pe drum. Încă nu este valabil.", "It is on its way. It does not hold yet."),
    "permit-needs": (
        "Devine valabil când îl cunosc {needed} servere de chei.",
        "It holds as soon as {needed} key servers know it.",
    ),
    "take-away-done": (
        "Gata: nimeni nu mai poate obține nimic împotriva acestei hotărâri.",
        "Done: nobody can get anything against this decision any more.",
    ),
    "take-away-under-way": (
        "Hotărârea dumneavoastră este pe drum.",
        "Your decision is on its way.",
    ),
    "key-servers": ("Servere de chei care știu", "Key servers that know"),
    "servers-know": ("{known} din {all} servere de chei știu.", "{known} of {all} key servers know."),
    "hospitals-not-told": ("Spitale care nu au aflat încă", "Hospitals that were not reached yet"),
    "hospitals-told": ("Toate spitalele au aflat.", "All hospitals know."),
    "certain-at": (
        "Cel târziu la {moment} nimeni nu mai poate obține nimic împotriva ei, orice s-ar întâmpla.",
        "From {moment} at the latest nobody can get anything against it, whatever happens.",
    ),
    "not-certain-yet": (
        "Trebuie să știe cel puțin {needed}; până atunci cineva mai poate obține imagini.",
        "At least {needed} have to know; until then somebody may still get images.",
    ),
    "goes-on-alone": (
        "Puteți închide pagina: încercăm mai departe până reușim.",
        "You can close the page: we go on trying until it is done.",
    ),
    "progress-unknown": (
        "Nu știm câte servere de chei cunosc această hotărâre. Întrebați spitalul la care ați luat-o.",
        "We do not know how many key servers know this decision. Ask the hospital at which you made it.",
    ),
    "limited-by": (
        "Ceva ce ați interzis este mai tare:",
        "Something that you forbade is stronger:",
    ),
    "take-back-means": (
        "Puteți retrage oricând, fără să spuneți de ce.",
        "You can take it back at any time, without saying why.",
    ),
    "take-back-again": ("Semnez din nou retragerea", "Sign again that I take it back"),
    "take-back-again-means": (
        "Semnați din nou doar dacă un server de chei nu acceptă, sau dacă retragerea nu mai înaintează.",
        "Sign again only if a key server does not accept it, or if it gets no further.",
    ),
    "refused-by-servers": (
        "Nu acceptă semnătura retragerii, poate pentru că telefonul a fost blocat între timp. Semnați din nou mai jos;"
        " dacă nici așa nu reușește, mergeți cu un act de identitate la spital",
        "Do not accept the signature, perhaps because the phone was blocked meanwhile. Sign again below; if that does"
        " not help either, go to a hospital with an identity document",
    ),
    "permit-refused": (
        "Nu acceptă semnătura, poate pentru că telefonul a fost blocat între timp. Retrageți acest acord și dați unul"
        " nou; dacă nu reușește, mergeți cu un act de identitate la spital",
        "Do not accept the signature, perhaps because the phone was blocked meanwhile. Take this back and give a new"
        " one; if that does not help, go to a hospital with an identity document",
    ),
    "take-back-denial-means": (
        "Dacă retrageți o interdicție, ce ați permis în altă parte devine iar valabil.",
        "If you take back what you forbade, what you permitted elsewhere holds again.",
    ),
    "not-mine": (
        "Acest acord a fost dat sub numărul altui spital, pe care telefonul dumneavoastră nu îl poate semna. Mergeți cu"
        " un act de identitate la acel spital ca să îl retrageți.",
        "This was given under another hospital's number, for which your phone cannot sign. Go to that hospital with"
        " an identity document to take it back.",
    ),
    # Requests.
    "request": ("Cererea unui spital", "A hospital's request"),
    "who-asks": ("Cine întreabă", "Who asks"),
    "asked-when": ("Când a întrebat", "Asked when"),
    "answer-until": ("Puteți răspunde până la", "You can answer until"),
    "request-means": (
        "Dacă permiteți, {hospital} vă poate vedea imaginile făcute la orice spital din regiune.",
        "If you permit it, {hospital} may see your images that were made at any hospital of the region.",
    ),
    "yes-permit": ("Da, permit", "Yes, I permit it"),
    "no": ("Nu", "No"),
    "request-no-hurry": (
        "Nu vă grăbiți. Cât timp nu răspundeți, spitalul nu primește nimic.",
        "Take your time. As long as you do not answer, the hospital gets nothing.",
    ),
    "say-no": ("{hospital} nu primește nimic", "{hospital} gets nothing"),
    "say-no-means": (
        "Aveți dreptul să spuneți nu, fără explicații. Îngrijirea dumneavoastră nu depinde de asta.",
        "You have the right to say no without a reason. Your care does not depend on it.",
    ),
    "just-no": ("Nu, de data aceasta", "No, not this time"),
    "just-no-means": (
        "Cererea dispare. {hospital} poate întreba din nou altă dată.",
        "The request goes away. {hospital} can ask again another time.",
    ),
    "no-and-forbid": ("Nu, și interzic", "No, and I forbid it"),
    "no-and-forbid-means": (
        "{hospital} nu le poate vedea nici dacă ați permis tuturor. Semnați asta pe pagina următoare.",
        "{hospital} may not see them even if you permitted it to all. You sign that on the next page.",
    ),
}
