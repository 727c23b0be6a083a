"""What the page says on which people choose where and of what they are told, in Romanian and in English."""

NOTICE_WORDS: dict[str, tuple[str, str]] = {
    "notices": ("Notificări", "Notices"),
    "notices-lead": (
        "Vă putem anunța când este ceva nou aici, ca să nu tot verificați.",
        "We can tell you when there is something new here, so that you need not look all the time.",
    ),
    "notices-promise": (
        "Mesajele spun doar că aveți ceva de văzut în portal: niciodată spitalul, investigația sau numele. Adresa"
        " rămâne numai aici și se șterge când o scoateți.",
        "The messages say only that there is something to see on the portal: never the hospital, the study or your"
        " name. The address stays here only, and is deleted when you take it out.",
    ),
    "notices-none-here": (
        "Regiunea dumneavoastră nu trimite încă notificări. Uitați-vă din când în când în portal.",
        "Your region does not send notices yet. Look at the portal now and then.",
    ),
    "notices-email": ("Prin e-mail", "By e-mail"),
    "notices-sms": ("Prin SMS", "By SMS"),
    "address-email": ("Adresa de e-mail", "E-mail address"),
    "address-sms": ("Numărul de telefon mobil", "Mobile telephone number"),
    "address-confirmed": ("confirmată", "confirmed"),
    "address-waits": ("așteaptă codul", "waits for the code"),
    "address-troubled": ("probleme la trimitere", "trouble with sending"),
    "address-troubled-means": (
        "Ultima notificare nu a putut fi trimisă. Verificați adresa. Dacă e bună, nu aveți nimic de făcut: încercăm și"
        " data viitoare.",
        "The last notice could not be delivered. Check the address. If it is right, there is nothing for you to do: we"
        " try the next time, too.",
    ),
    "address-other": ("Altă adresă sau alt număr", "Another address or number"),
    "address-remove": ("Scoate", "Take out"),
    "send-code": ("Trimite codul", "Send the code"),
    "code-email": (
        "Codul din 6 cifre pe care l-am trimis acolo (bun {minutes} minute; uitați-vă și la „Spam”)",
        "The code of 6 digits that we sent there (good for {minutes} minutes; look under “Spam”, too)",
    ),
    "code-sms": (
        "Codul din 6 cifre pe care l-am trimis acolo (bun {minutes} minute)",
        "The code of 6 digits that we sent there (good for {minutes} minutes)",
    ),
    "code-is-over": (
        "Codul nu mai este bun. Cereți altul.",
        "The code is not good any more. Ask for another one.",
    ),
    "code-again": ("Trimite alt cod", "Send another code"),
    "confirm": ("Confirmă", "Confirm"),
    "topics-title": ("Vreau să fiu anunțat când", "I want to be told when"),
    "topic-asked": ("un spital așteaptă răspunsul meu", "a hospital waits for my answer"),
    "topic-looked": (
        "cineva s-a uitat la imagini (cel mult o dată pe zi)", "somebody looked at images (once a day at most)"
    ),
    "topic-consent": (
        "o permisiune a fost dată, schimbată sau luată înapoi", "a permission was given, changed or taken back"
    ),
    "topic-phone": ("un telefon a fost înscris sau oprit", "a phone was enrolled or blocked"),
    "topic-emergency": (
        "cineva s-a uitat în regim de urgență (întotdeauna)", "somebody looked in an emergency (always)"
    ),
    "topics-kept": ("Am reținut.", "We will keep to it."),
    "keep": ("Salvează", "Save"),
    "fault-email": (
        "Aceasta nu este o adresă de e-mail. Scrieți-o ca în exemplul: ana@exemplu.ro.",
        "This is no e-mail address. Write it as in this example: ana@exemplu.ro.",
    ),
    "fault-sms": (
        "La acest număr nu putem trimite SMS. Scrieți un număr de mobil, de exemplu 0722 000 000 sau, din altă țară,"
        " +49 151 00000000.",
        "We cannot send an SMS to this number. Write a mobile number, such as 0722 000 000 or, from another country,"
        " +49 151 00000000.",
    ),
    "fault-code": ("Codul are 6 cifre. Scrieți-l încă o dată.", "The code has 6 digits. Type it once more."),
    "fault-code-wrong": (
        "Nu este codul pe care l-am trimis. Verificați cifrele.",
        "This is not the code that we sent. Check the digits.",
    ),
    "fault-code-over": (
        "Codul nu mai este bun: au trecut {minutes} minute sau a fost greșit de prea multe ori. Cereți altul.",
        "The code is not good any more: {minutes} minutes have passed, or it was wrong too often. Ask for another one.",
    ),
    "fault-codes-many": (
        "Ați cerut prea multe coduri. Încercați din nou peste o oră.",
        "You have asked for too many codes. Try again in an hour.",
    ),
    "fault-address-busy": (
        "La această adresă s-au trimis azi prea multe coduri. Încercați din nou mâine.",
        "Too many codes were sent to this address today. Try again tomorrow.",
    ),
    "invite-notices": (
        "Vreți să fiți anunțat când este ceva nou aici?", "Do you want to be told when there is something new here?"
    ),
}
