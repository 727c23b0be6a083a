"""The words of the desk's pages that enrol patients, in English and in Romanian."""

ENROLMENT_WORDS: dict[str, tuple[str, str]] = {
    "desk": ("Patient portal desk", "Ghișeul portalului pacienților"),
    "enrol-title": ("Enrol a patient for the portal", "Înrolează un pacient la portal"),
    "start-lead": (
        "On the region's portal patients see who received their studies, and sign consents with their phone.",
        "Pe portalul regiunii pacienții văd cine le-a primit studiile și semnează acorduri cu telefonul.",
    ),
    "patient-number": ("Patient's number, as the archive has it", "Numărul pacientului, așa cum este în arhivă"),
    "open": ("Open", "Deschide"),
    "start-hint": (
        "Or open the patient in Orthanc Explorer and choose “Enrol for the portal” there.",
        "Sau deschideți pacientul în Orthanc Explorer și alegeți acolo „Înrolează la portal”.",
    ),
    "recent": ("The last days", "Ultimele zile"),
    "steps": ("Steps", "Pași"),
    "step-document": ("Document", "Document"),
    "step-phone": ("Phone", "Telefon"),
    "step-compare": ("Compare", "Comparare"),
    "step-done": ("Done", "Gata"),
    "patient": ("The patient, as the archive has it", "Pacientul, așa cum este în arhivă"),
    "no-name": ("No name", "Fără nume"),
    "years": ("years", "ani"),
    "sex-M": ("male", "bărbat"),
    "sex-F": ("female", "femeie"),
    "no-birth-date-here": ("The archive has no birth date", "Arhiva nu are data nașterii"),
    "numbers": ("Numbers", "Numere"),
    "numbers-hint": (
        "Leave only those that are this patient's for certain. What has them can be seen and permitted on the portal.",
        "Lăsați numai numerele care sunt sigur ale acestui pacient. Ce le poartă se vede și se permite pe portal.",
    ),
    "national-number": ("National number (CNP)", "Codul numeric personal (CNP)"),
    "if-document-has-it": ("if the identity document has it", "dacă este pe actul de identitate"),
    "birth-date": ("Birth date, from the identity document", "Data nașterii, din actul de identitate"),
    "who-signs": ("Who signs on the portal", "Cine semnează pe portal"),
    "signs-patient": ("The patient", "Pacientul"),
    "signs-parent": ("A parent, for a child", "Un părinte, pentru copil"),
    "signs-guardian": ("A guardian", "Un tutore"),
    "signs-court": ("Somebody whom a court has named", "O persoană numită de instanță"),
    "by-parent": ("by a parent", "prin părinte"),
    "by-guardian": ("by a guardian", "prin tutore"),
    "by-court": ("by court order", "prin hotărârea instanței"),
    "until": ("Until and including", "Până la, inclusiv"),
    "until-short": ("until", "până la"),
    "until-hint": (
        "For a parent at most the day before the child is 18; otherwise as the document says that names the person.",
        "Pentru un părinte cel mult ziua dinaintea majoratului; altfel, cum spune actul care numește persoana.",
    ),
    "phone": ("Phone", "Telefon"),
    "lost-phone": ("The earlier phone is lost", "Telefonul de dinainte este pierdut"),
    "lost-phone-hint": (
        "All earlier passkeys of this patient stop counting, a guardian's too. This cannot be undone.",
        "Nicio cheie de acces de până acum a acestui pacient nu mai este valabilă, nici a unui tutore. Este definitiv.",
    ),
    "lost-phone-chosen": ("The earlier passkeys stop counting", "Cheile de acces de dinainte nu mai sunt valabile"),
    "document-seen": (
        "I have seen the identity document, and it is this patient's",
        "Am văzut actul de identitate și este al acestui pacient",
    ),
    "document-seen-hint": (
        "Name, birth date and face fit. If somebody else signs: that person's document, and what names the person.",
        "Numele, data nașterii și fața se potrivesc. Dacă semnează altcineva: actul său și cel care îl numește.",
    ),
    "make-code": ("Make the QR code", "Generează codul QR"),
    "only-block": ("Only block earlier phones", "Doar blochează telefoanele vechi"),
    "qr": ("QR code for the patient's phone", "Cod QR pentru telefonul pacientului"),
    "scan-code": ("The patient scans this with the phone", "Pacientul scanează acest cod cu telefonul"),
    "scan-1": (
        "Open the phone's camera and point it at the code.",
        "Deschide camera telefonului și o îndreaptă spre cod.",
    ),
    "scan-2": ("Type the birth date that is asked for.", "Scrie data nașterii care este cerută."),
    "scan-3": (
        "Save the passkey with fingerprint, face or the phone's code.",
        "Salvează cheia de acces cu amprenta, fața sau codul telefonului.",
    ),
    "or-type": ("Or open this address on the phone:", "Sau deschide pe telefon această adresă:"),
    "ends": ("Holds once, until", "Valabil o singură dată, până la"),
    "code-gone": (
        "The code is not known any more: the archive was restarted. Cancel, and make a new one.",
        "Codul nu mai este cunoscut: arhiva a fost repornită. Renunțați și generați altul.",
    ),
    "waits-for-phone": ("Waiting for the patient's phone…", "Se așteaptă telefonul pacientului…"),
    "hub-away": (
        "The regional hub does not answer just now. This page goes on asking.",
        "Centrul regional nu răspunde acum. Pagina întreabă mai departe.",
    ),
    "print": ("Print", "Tipărește"),
    "cancel": ("Cancel", "Renunță"),
    "compare-lead": ("The patient's phone has answered.", "Telefonul pacientului a răspuns."),
    "same-question": ("Does the phone show the same number?", "Telefonul arată același număr?"),
    "same-yes": ("Yes, the same", "Da, același"),
    "same-no": ("No, another one", "Nu, altul"),
    "compare-hint": (
        "Look at the phone yourself. If it shows another number, somebody else has used the code.",
        "Uitați-vă chiar dumneavoastră la telefon. Dacă arată alt număr, altcineva a folosit codul.",
    ),
    "begun": ("Begun", "Început"),
    "enrolled": ("Enrolled", "Înrolare încheiată"),
    "enrolled-lead": (
        "From now on this phone signs for the patient on the region's portal.",
        "De acum acest telefon semnează pentru pacient pe portalul regiunii.",
    ),
    "key-servers-have-it": ("Key servers that know it", "Servere de chei care știu"),
    "of": ("of", "din"),
    "goes-on": ("It goes on by itself.", "Continuă de la sine."),
    "enough-goes-on": (
        "That is enough; the others are told as soon as they answer.",
        "Este de ajuns; celelalte află de îndată ce răspund.",
    ),
    "enough": ("Everybody knows it.", "Toate știu."),
    "next-patient": ("Next patient", "Următorul pacient"),
    "state-waiting": ("waits for the phone", "așteaptă telefonul"),
    "state-answered": ("to be compared", "de comparat"),
    "state-enrolled": ("enrolled", "încheiată"),
    "state-void": ("cancelled", "anulată"),
    "state-expired": ("expired", "expirată"),
    "over-void": (
        "It was cancelled here, or the birth date was wrong five times on the phone. Nothing was enrolled.",
        "S-a renunțat aici, sau data nașterii a fost greșită de cinci ori pe telefon. Nu s-a înrolat nimic.",
    ),
    "over-expired": (
        "Its time is over. Nothing was enrolled.",
        "Timpul a trecut. Nu s-a înrolat nimic.",
    ),
    "begin-anew": ("Begin anew", "Începe din nou"),
    "blocked": ("Earlier phones are blocked", "Telefoanele vechi sunt blocate"),
    "blocked-row": ("earlier phones blocked", "telefoane vechi blocate"),
    "blocking": (
        "Earlier phones are not blocked everywhere yet",
        "Telefoanele vechi nu sunt încă blocate peste tot",
    ),
    "not-delivered": (
        "Not everybody has taken it. If this stays so, call the region's administrators.",
        "Nu a fost preluat de toți. Dacă rămâne așa, sunați administratorii regiunii.",
    ),
    "blocked-count": ("Passkeys that stop counting", "Chei de acces care nu mai sunt valabile"),
    "blocked-lead": (
        "The key servers are being told; what was not reached is told again by itself.",
        "Serverele de chei sunt anunțate; cele neajunse sunt anunțate din nou de la sine.",
    ),
    "enrol-new-phone": ("Enrol a new phone", "Înrolează un telefon nou"),
    "no-portal": (
        "The region has no portal yet: nobody can be enrolled.",
        "Regiunea nu are încă portal: nimeni nu poate fi înrolat.",
    ),
    "fault-no-portal": (
        "The region has no portal yet: nobody can be enrolled.",
        "Regiunea nu are încă portal: nimeni nu poate fi înrolat.",
    ),
    "fault-no-patient": (
        "No study of this hospital is filed under this number. Patients are enrolled where studies of theirs are.",
        "Niciun studiu al acestui spital nu are acest număr. Un pacient se înrolează acolo unde are studii.",
    ),
    "fault-contradiction": (
        "Under this number the archive has different names, birth dates, sexes or national numbers: perhaps two people."
        " Nobody is enrolled under it before the archive is corrected.",
        "Sub acest număr arhiva are nume, date de naștere, sexe sau coduri numerice diferite: poate sunt două persoane."
        " Nimeni nu este înrolat cu el înainte ca arhiva să fie corectată.",
    ),
    "fault-no-number": (
        "This number was given out by another hospital. The patient is enrolled there.",
        "Acest număr a fost dat de alt spital. Pacientul se înrolează acolo.",
    ),
    "fault-document-unseen": (
        "Nobody is enrolled whose identity document was not seen.",
        "Nimeni nu este înrolat fără să i se fi văzut actul de identitate.",
    ),
    "fault-no-birth-date": (
        "Give the birth date, as the identity document has it.",
        "Scrieți data nașterii, așa cum este pe actul de identitate.",
    ),
    "fault-no-number-chosen": ("Choose at least one number.", "Alegeți cel puțin un număr."),
    "fault-bad-national-number": (
        "This is no valid national number, or it does not fit birth date and sex. Compare it with the document.",
        "Acesta nu este un CNP valid, sau nu se potrivește cu data nașterii și sexul. Comparați-l cu actul.",
    ),
    "fault-nothing-to-compare": (
        "The archive has neither birth date nor sex of this patient, so nothing tells whose national number this is."
        " Leave it out, or have the archive completed first.",
        "Arhiva nu are nici data nașterii, nici sexul pacientului, deci nimic nu arată al cui este acest CNP."
        " Lăsați-l deoparte, sau completați întâi arhiva.",
    ),
    "fault-child": (
        "The patient is younger than 16: a parent or a guardian signs.",
        "Pacientul are sub 16 ani: semnează un părinte sau un tutore.",
    ),
    "fault-no-end": (
        "Say until when that person acts for the patient.",
        "Scrieți până când acea persoană acționează pentru pacient.",
    ),
    "fault-bad-end": (
        "That person's time is over already, or ends more than 20 years ahead.",
        "Timpul acelei persoane a trecut deja, sau se încheie peste mai mult de 20 de ani.",
    ),
    "fault-majority": (
        "Parents sign for a child at most until the day before it is 18.",
        "Părinții semnează pentru copil cel mult până în ziua dinaintea majoratului.",
    ),
    "fault-unknown-enrolment": ("There is no such enrolment here.", "Nu există o astfel de înrolare aici."),
    "fault-not-answered": (
        "No phone has answered, or it is over. Begin anew.",
        "Niciun telefon nu a răspuns, sau timpul a trecut. Începeți din nou.",
    ),
    "fault-other-digits": (
        "What you compared is not what would be signed. Compare again.",
        "Ce ați comparat nu este ce s-ar semna. Comparați din nou.",
    ),
    "fault-record-changed": (
        "The archive says something else of this patient now than when the code was made. Nothing was signed: cancel,"
        " compare the patient with the document, and begin again.",
        "Arhiva spune acum altceva despre acest pacient decât la generarea codului. Nu s-a semnat nimic: renunțați,"
        " comparați pacientul cu actul și începeți din nou.",
    ),
    "fault-no-passkey": (
        "No passkey of this patient counts: there is nothing to block.",
        "Nicio cheie de acces a acestui pacient nu este valabilă: nu este nimic de blocat.",
    ),
    "fault-too-few-key-servers": (
        "Not enough key servers answer to know which phones have to be blocked. Nothing has happened; try again.",
        "Nu răspund destule servere de chei pentru a ști ce telefoane trebuie blocate. Nu s-a întâmplat nimic;"
        " încercați din nou.",
    ),
    "fault-too-many-passkeys": (
        "Too many passkeys count for this patient. Call the region's administrators.",
        "Pentru acest pacient sunt valabile prea multe chei de acces. Sunați administratorii regiunii.",
    ),
    "fault-too-many": (
        "Too many invitations are open or were made within an hour. Cancel some, or wait.",
        "Prea multe invitații sunt deschise sau au fost făcute într-o oră. Renunțați la unele, sau așteptați.",
    ),
}
