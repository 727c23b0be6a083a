"""The words of the desk's pages for consents on paper, in English and in Romanian."""

PAPER_WORDS: dict[str, tuple[str, str]] = {
    "papers": ("Consents on paper", "Acorduri pe hârtie"),
    "papers-lead": (
        "One clerk writes down what the patient has signed, with the scan; another one reads it and attests.",
        "Un angajat scrie ce a semnat pacientul, cu scanarea; un altul citește și atestă.",
    ),
    "papers-waiting": ("Waiting for a second person", "Așteaptă a doua persoană"),
    "papers-none": ("Nothing waits.", "Nu așteaptă nimic."),
    "paper-title": ("Consent on paper", "Acord pe hârtie"),
    "paper-number": ("Number", "Numărul"),
    "paper-says": ("What does the paper say?", "Ce spune hârtia?"),
    "paper-permit": ("It permits treatment to be planned with the images", "Permite folosirea imaginilor la tratament"),
    "paper-deny": ("It forbids to see the images", "Interzice vederea imaginilor"),
    "paper-emergency": ("It forbids it even in an emergency", "Interzice vederea chiar și în urgențe"),
    "paper-who": ("Which hospitals", "Ce spitale"),
    "paper-all-hospitals": ("All of the region", "Toate din regiune"),
    "paper-these-hospitals": ("These:", "Acestea:"),
    "paper-what": ("Which studies", "Ce investigații"),
    "paper-all-studies": ("All", "Toate"),
    "paper-these-studies": ("These kinds:", "Aceste feluri:"),
    "study-kind-radiograph": ("X-rays", "radiografii"),
    "study-kind-ct": ("CT", "tomografii (CT)"),
    "study-kind-mr": ("MR", "rezonanță magnetică (RMN)"),
    "study-kind-ultrasound": ("ultrasound", "ecografii"),
    "study-kind-mammography": ("mammograms", "mamografii"),
    "study-kind-nuclear": ("nuclear medicine and PET", "medicină nucleară și PET"),
    "study-kind-angiography": ("angiography and fluoroscopy", "angiografii și radioscopii"),
    "paper-until-hint": (
        "A permission on paper holds for a year at most. What is forbidden may stay forbidden: leave it empty.",
        "O permisiune pe hârtie ține cel mult un an. Ce se interzice poate rămâne interzis: lăsați gol.",
    ),
    "scan": ("Scan", "Scanarea"),
    "scan-hint": ("PDF, 10 MB and 50 pages at most", "PDF, cel mult 10 MB și 50 de pagini"),
    "scan-open": ("Open the scan", "Deschide scanarea"),
    "scan-none": ("No scan", "Fără scanare"),
    "scan-again": (
        "Nothing else is lost, but choose the file again.", "Restul s-a păstrat, dar alegeți fișierul din nou."
    ),
    "paper-write": ("Give it to a second person", "Dă mai departe celei de-a doua persoane"),
    "paper-not-sent": (
        "It could not be sent. Nothing has happened and nothing typed is lost: try again.",
        "Nu s-a putut trimite. Nu s-a întâmplat nimic și nu s-a pierdut nimic: încercați din nou.",
    ),
    "paper-no-script": (
        "To send the scan the browser needs JavaScript, which is switched off. Switch it on and load the page again.",
        "Ca să trimită scanarea, browserul are nevoie de JavaScript, care este oprit. Porniți-l și reîncărcați pagina.",
    ),
    "paper-then": (
        "Nothing holds before another member of staff has attested it. It waits for two days.",
        "Nimic nu este valabil până când nu atestă un alt angajat. Așteaptă două zile.",
    ),
    "paper-waiting": ("waits for a second person", "așteaptă a doua persoană"),
    "paper-attested": ("attested", "atestat"),
    "paper-refused": ("refused", "refuzat"),
    "paper-expired": ("expired", "expirat"),
    "paper-cancelled": ("cancelled", "anulat"),
    "paper-withdrawn": ("taken back", "luat înapoi"),
    "paper-takes-back": (
        "The patient takes this consent back. Once attested that is final.",
        "Pacientul ia acest acord înapoi. Odată atestat, este definitiv.",
    ),
    "rule-permits": ("Permits", "Permite"),
    "rule-denies": ("Forbids", "Interzice"),
    "rule-sources": ("Images of", "Imaginile de la"),
    "rule-named": ("Studies named one by one", "Investigații numite una câte una"),
    "rule-dates": ("Studies made", "Investigații făcute"),
    "rule-purpose": ("For", "Pentru"),
    "purpose-TREAT": ("treatment", "tratament"),
    "purpose-ETREAT": ("emergencies", "urgențe"),
    "purpose-HRESCH": ("research", "cercetare"),
    "purpose-any": ("any purpose", "orice scop"),
    "for-ever": ("no end", "fără sfârșit"),
    "paper-written-by": ("Written down by", "Scris de"),
    "paper-ended": ("Ended", "Încheiat"),
    "paper-needs-another": (
        "Another member of staff has to open this page with a log-in of their own, read the scan, and attest.",
        "Un alt angajat trebuie să deschidă această pagină cu autentificarea proprie, să citească și să ateste.",
    ),
    "paper-cancel": ("Cancel it", "Anulează"),
    "paper-read": (
        "I have read the scan: it says this, the patient has signed it, and it is this patient's.",
        "Am citit scanarea: spune acest lucru, este semnată de pacient și este a acestui pacient.",
    ),
    "paper-attest": ("Attest", "Atest"),
    "paper-why": ("Why not?", "De ce nu?"),
    "paper-refuse": ("Refuse", "Refuz"),
    "paper-withdraw": ("The patient takes it back", "Pacientul îl ia înapoi"),
    "paper-withdraw-hint": (
        "This, too, needs a second person. Then it is final.",
        "Și pentru aceasta e nevoie de a doua persoană. Apoi este definitiv.",
    ),
    "fault-choose-number": ("Choose a number.", "Alegeți numărul."),
    "fault-choose-kind": (
        "Choose whether the paper permits or forbids.", "Alegeți dacă hârtia permite sau interzice."
    ),
    "fault-choose-hospitals": ("Choose hospitals, or all.", "Alegeți spitale, sau toate."),
    "fault-choose-studies": ("Choose kinds of study, or all.", "Alegeți feluri de investigații, sau toate."),
    "fault-choose-end": ("Choose until when it holds.", "Alegeți până când este valabil."),
    "fault-end-too-far": (
        "A permission on paper ends within a year, and not before today.",
        "O permisiune pe hârtie se încheie într-un an, și nu înainte de azi.",
    ),
    "fault-not-read": (
        "Read the scan first, and say that it says the same.", "Citiți întâi scanarea și bifați că spune același lucru."
    ),
    "fault-no-reason": ("Say why you refuse it.", "Spuneți de ce refuzați."),
    "fault-second-person": (
        "Another member of staff than the one who wrote it has to attest or refuse it.",
        "Trebuie să ateste sau să refuze un alt angajat decât cel care a scris.",
    ),
    "fault-first-person": (
        "Only who wrote it down can do this. You can refuse it.",
        "Numai cine l-a scris poate face asta. Îl puteți refuza.",
    ),
    "fault-no-reader": (
        "This node cannot read PDF files. Tell the hospital's administrator: python3-pypdf has to be installed.",
        "Acest nod nu poate citi fișiere PDF. Spuneți administratorului: trebuie instalat python3-pypdf.",
    ),
    "fault-scan-none": ("There is no file. Choose the scan.", "Lipsește fișierul. Alegeți scanarea."),
    "fault-scan-large": (
        "The file has more than 10 MB. Scan with fewer dots (200 dpi, black and white).",
        "Fișierul are peste 10 MB. Scanați cu mai puține puncte (200 dpi, alb-negru).",
    ),
    "fault-scan-no-pdf": (
        "This file is no PDF. Scan the paper as PDF; the scanner can do that.",
        "Acest fișier nu este PDF. Scanați hârtia ca PDF; scanerul poate face asta.",
    ),
    "fault-scan-broken": (
        "This PDF does not open; it may have been cut off. Scan the paper again.",
        "Acest PDF nu se deschide; poate a fost întrerupt. Scanați hârtia din nou.",
    ),
    "fault-scan-encrypted": (
        "This PDF wants a password. Save it without one, or scan the paper again.",
        "Acest PDF cere o parolă. Salvați-l fără parolă sau scanați hârtia din nou.",
    ),
    "fault-scan-no-pages": (
        "This PDF has no pages. Scan the paper again.", "Acest PDF nu are pagini. Scanați hârtia din nou."
    ),
    "fault-scan-active": (
        "This PDF does more than show pages (a program, a form or another file in it). Print it and scan the paper.",
        "Acest PDF face mai mult decât să arate pagini (un program, un formular sau alt fișier). Tipăriți-l și scanați"
        " hârtia.",
    ),
    "fault-scan-too-much": (
        "This PDF is made of too many parts to be a scan. Print it and scan the paper.",
        "Acest PDF are prea multe părți ca să fie o scanare. Tipăriți-l și scanați hârtia.",
    ),
    "fault-scan-pages": (
        "The scan has more than 50 pages. Scan the consent alone.",
        "Scanarea are peste 50 de pagini. Scanați numai acordul.",
    ),
}
