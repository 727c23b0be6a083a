"""The words of the log-in page and of what the gate turns away."""

LOG_IN_WORDS: dict[str, tuple[str, str]] = {
    "log-in": ("Log in", "Autentificare"),
    "log-out": ("Log out", "Ieșire"),
    "log-in-lead": (
        "For Orthanc Explorer and the pages of this hospital's staff.",
        "Pentru Orthanc Explorer și paginile personalului acestui spital.",
    ),
    "log-in-name": ("Name", "Nume"),
    "log-in-password": ("Password", "Parolă"),
    "log-in-hint": (
        "Password forgotten? Whoever administers this archive gives you a new one.",
        "Ați uitat parola? Administratorul acestei arhive vă dă una nouă.",
    ),
    "go-on": ("You are logged in again", "Sunteți din nou autentificat"),
    "go-on-lead": (
        "What you had typed is still here and was not sent yet.",
        "Ce ați scris este încă aici și nu a fost trimis.",
    ),
    "go-on-send": ("Send it now", "Trimite acum"),
    "fault-log-in": (
        "Log in first: this is for members of staff.",
        "Autentificați-vă întâi: aceasta este pentru personal.",
    ),
    "fault-no-permission": (
        "Your role does not allow this. Whoever administers this archive can say why.",
        "Rolul dumneavoastră nu permite aceasta. Administratorul acestei arhive vă poate spune de ce.",
    ),
    "fault-session-over": (
        "Your session is over, and nothing was sent. Log in again; what you typed is not lost. A form with a file you"
        " find again by going back in the browser.",
        "Sesiunea s-a încheiat și nu s-a trimis nimic. Autentificați-vă din nou; ce ați scris nu s-a pierdut. Un"
        " formular cu fișier îl regăsiți cu butonul Înapoi al browserului.",
    ),
    "fault-wrong-password": (
        "This name and password do not fit, or were tried too often. Then wait 15 minutes.",
        "Numele și parola nu se potrivesc, sau au fost încercate de prea multe ori. Atunci așteptați 15 minute.",
    ),
}
