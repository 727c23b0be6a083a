"""What the portal says to whoever needs help, or when something goes wrong, in Romanian and in English."""

HELP_WORDS: dict[str, tuple[str, str]] = {
    # Help.
    "help-what": ("Ce este această pagină?", "What is this page?"),
    "help-what-text": (
        "Spitalele din regiune vă țin imaginile medicale (radiografii, tomografii și altele), fiecare pe ale sale. Aici"
        " hotărâți ce spital poate vedea imaginile făcute la celelalte și vedeți cine s-a uitat.",
        "The hospitals of the region keep your medical images (X-rays, CT scans and others), each its own. Here you"
        " decide which hospital may see those of the others, and see who looked.",
    ),
    "help-passkey": ("Ce este o cheie de acces?", "What is a passkey?"),
    "help-passkey-text": (
        "O semnătură care se află în telefonul dumneavoastră. O folosiți cu amprenta, fața sau codul de deblocare. Nu"
        " are parolă pe care să o uitați sau pe care să v-o fure cineva.",
        "A signature that is in your phone. You use it by your finger, your face or the unlock code. It has no password"
        " that you could forget or somebody could steal.",
    ),
    "help-lost": ("Mi-am pierdut telefonul", "I have lost my phone"),
    "help-lost-text": (
        "Mergeți cât mai repede cu un act de identitate la ghișeul oricărui spital din regiune. Cheia veche se oprește"
        " pe loc, iar dumneavoastră primiți una nouă. Ce ați hotărât rămâne valabil.",
        "Go to the desk of any hospital of the region with an identity document, as soon as you can. The old passkey is"
        " stopped at once, and you get a new one. What you have decided stays.",
    ),
    "help-new-phone": ("Am un telefon nou", "I have a new phone"),
    "help-new-phone-text": (
        "Dacă telefonul nou este legat de același cont, cheia poate veni cu el: încercați să intrați. Dacă nu merge,"
        " mergeți la ghișeul unui spital.",
        "If the new phone belongs to the same account, the passkey may have come with it: try to log in. If that does"
        " not work, go to the desk of a hospital.",
    ),
    "help-consent": ("Ce se întâmplă dacă permit?", "What happens if I permit it?"),
    "help-consent-text": (
        "Medicii spitalului pe care l-ați numit vă pot vedea imaginile mai vechi, ca să nu repete investigații și să vă"
        " îngrijească mai bine. Ceilalți nu află nici că există.",
        "The physicians of the hospital that you named can see your earlier images, so as not to repeat studies, and to"
        " care for you better. Others do not even learn that there are any.",
    ),
    "help-emergency": ("Și în caz de urgență?", "And in an emergency?"),
    "help-emergency-text": (
        "Dacă nu puteți fi întrebat(ă), doi membri ai personalului pot cere împreună imaginile, cu un motiv scris."
        " Apare aici la „Cine a văzut”. Puteți interzice și asta.",
        "If you cannot be asked, two members of staff together can get the images, for a reason in writing. It appears"
        " here under “Who looked”. You can forbid that, too.",
    ),
    "help-withdraw": ("Pot să mă răzgândesc?", "Can I change my mind?"),
    "help-withdraw-text": (
        "Oricând. Deschideți permisiunea și apăsați „Retrag”. Pagina vă arată cum află serverele și spitalele, până"
        " când nimeni nu mai poate obține nimic. Ce s-a văzut deja nu se poate lua înapoi.",
        "At any time. Open the permission and press “Take back”. The page shows you how servers and hospitals learn of"
        " it, until nobody can get anything. What was seen already cannot be undone.",
    ),
    # What is wrong, and what to do.
    "problem": ("Nu a mers", "That did not work"),
    "to-home": ("Spre prima pagină", "To the first page"),
    "not-there": ("Această pagină nu există.", "There is no such page."),
    "no-portal": (
        "În această regiune pacienții nu au o pagină proprie.",
        "In this region patients have no page of their own.",
    ),
    "another-site": (
        "Cererea a venit de pe altă pagină. Nu s-a schimbat nimic. Deschideți pagina din nou de aici.",
        "This came from another site. Nothing has changed. Open the page again from here.",
    ),
    "session-over": (
        "Ați fost plecat(ă) prea mult și v-am scos din motive de siguranță. Nu s-a schimbat nimic. Intrați din nou.",
        "You were away for too long and were logged out for safety. Nothing has changed. Log in again.",
    ),
    "form-of-another-session": (
        "Pagina era dintr-o intrare mai veche. Nu s-a schimbat nimic. Reîncărcați pagina.",
        "The page was of an earlier log-in. Nothing has changed. Load the page again.",
    ),
    "not-understood": (
        "Nu am înțeles ce a trimis browserul. Nu s-a schimbat nimic. Încercați din nou.",
        "We did not understand what the browser has sent. Nothing has changed. Try again.",
    ),
    "too-large": (
        "Ce a trimis browserul este prea mare. Nu s-a schimbat nimic.",
        "What the browser has sent is too large. Nothing has changed.",
    ),
    "unavailable": (
        "Serverul nu răspunde acum. Nu s-a schimbat nimic. Încercați din nou peste câteva minute.",
        "The server does not answer now. Nothing has changed. Try again in a few minutes.",
    ),
    "too-many": (
        "Prea multe încercări nereușite. Așteptați zece minute și încercați din nou.",
        "Too many attempts have failed. Wait for ten minutes and try again.",
    ),
    "login-failed": (
        "Nu v-am putut recunoaște cheia de acces. Nu s-a schimbat nimic. Încercați din nou.",
        "We could not recognise your passkey. Nothing has changed. Try again.",
    ),
    "passkey-unknown": (
        "Nu cunoaștem această cheie de acces. Dacă tocmai ați creat-o, ghișeul trebuie să o confirme mai întâi.",
        "We do not know this passkey. If you have just made it, the desk has to confirm it first.",
    ),
    "passkey-copied": (
        "Telefonul a răspuns ca o copie mai veche a cheii de acces. Nu s-a schimbat nimic. Încercați din nou; dacă se"
        " repetă, mergeți cu un act de identitate la ghișeul unui spital și cereți o cheie nouă.",
        "The phone answered like an older copy of the passkey. Nothing has changed. Try again; if it happens once more,"
        " go to the desk of a hospital with an identity document and ask for a new passkey.",
    ),
    "passkey-over": (
        "Această cheie de acces nu mai este valabilă. Mergeți cu un act de identitate la ghișeul unui spital.",
        "This passkey does not count any more. Go to the desk of a hospital with an identity document.",
    ),
    "passkey-failed": (
        "Cheia de acces nu a putut fi creată. Nu s-a schimbat nimic. Încercați din nou.",
        "The passkey could not be made. Nothing has changed. Try again.",
    ),
    "birth-date-first": (
        "Spuneți mai întâi data nașterii. Scanați din nou codul de la ghișeu.",
        "Tell the birth date first. Scan the desk's code once more.",
    ),
    "sign-failed": (
        "Semnătura nu a putut fi verificată. Nu s-a schimbat nimic. Încercați din nou.",
        "The signature could not be checked. Nothing has changed. Try again.",
    ),
    "draft-over": (
        "Acest text a fost deja semnat, sau a trecut prea mult timp. Uitați-vă la „Permisiuni”.",
        "This was signed already, or it took too long. Look under “Permissions”.",
    ),
    "not-taken": (
        "Hotărârea nu a putut fi înregistrată. Nu s-a schimbat nimic. Poate a fost schimbată între timp: uitați-vă la"
        " „Permisiuni”.",
        "The decision could not be recorded. Nothing has changed. Perhaps it was changed meanwhile: look under"
        " “Permissions”.",
    ),
    "request-over": (
        "La această cerere s-a răspuns deja, sau timpul ei a trecut. Ce ați hotărât vedeți la „Permisiuni”.",
        "This request was answered already, or its time is over. What you decided is under “Permissions”.",
    ),
    "refused": ("Nu se poate. Nu s-a schimbat nimic.", "That cannot be done. Nothing has changed."),
    "refused-bad-code": (
        "Codul de la ghișeu este greșit, a fost folosit sau a expirat. Cereți la ghișeu unul nou. Dacă telefonul a"
        " creat deja o cheie de acces, intrați cu ea.",
        "The desk's code is wrong, was used or has expired. Ask the desk for a new one. If the phone has made a passkey"
        " already, log in with it.",
    ),
    "refused-wrong-birth-date": (
        "Data nașterii a fost greșită de prea multe ori. Cereți la ghișeu un cod nou.",
        "The birth date was wrong too often. Ask the desk for a new code.",
    ),
    "refused-passkey-taken": (
        "Această cheie de acces este deja înscrisă. Creați una nouă.",
        "This passkey is enrolled already. Make a new one.",
    ),
    "refused-unknown-request": (
        "La această cerere s-a răspuns deja, sau timpul ei a trecut.",
        "This request was answered already, or its time is over.",
    ),
}
