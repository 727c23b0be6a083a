"""A patient's phone before a hub that runs: a browser over TLS, with a passkey in software."""

import http.client
import json
import re
import secrets
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from stdnum.ro import cnp

from simulators.authenticator import Authenticator
from support.region import Hub
from usmed.domain.enrolment import Credential

_COOKIES = ("__Host-usmed-portal", "__Host-usmed-invitation")


def national_number(person: int) -> str:
    """Return a valid CNP of one of up to 300,000 men born on the 1st of a month, from 1970 on."""
    digits = f"1{70 + person // 12000:02d}{1 + person // 1000 % 12:02d}0122{person % 1000:03d}"
    return digits + str(cnp.calc_check_digit(digits))


class PageError(Exception):
    """A page that is none: its `status` and `text`."""

    def __init__(self, status: int, path: str, text: str) -> None:
        super().__init__(f"{status} {re.sub('[0-9a-f-]{36}', '…', path)}: {text[:200]}")
        self.status = status
        self.text = text


@dataclass(frozen=True)
class PageAnswer:
    """What came: the text, and where it leads (below `/portal`)."""

    text: str
    leads_to: str

    def document(self) -> Any:
        """Return it as JSON."""
        return json.loads(self.text)


class PortalPhone:
    """One phone: it keeps its connection, its cookies and its passkey."""

    def __init__(self, hub: Hub) -> None:
        self.key = Authenticator(hub.portal, secrets.token_bytes(16))
        self._hub, self._origin = hub, hub.portal
        self._context = ssl.create_default_context(cafile=str(hub.certificate_file))
        self._connection: http.client.HTTPSConnection | None = None
        self._cookies: dict[str, str] = {}
        self._csrf = ""

    @property
    def credential(self) -> Credential:
        """Return the passkey as a hospital enrols it."""
        return Credential(self.key.id, self.key.public_key)

    def get(self, path: str) -> PageAnswer:
        """Open a page."""
        return self._call("GET", path, None, {})

    def post(self, path: str, document: Any) -> PageAnswer:
        """Send JSON, as the page's script does."""
        return self._call("POST", path, json.dumps(document), {"Content-Type": "application/json"})

    def submit(self, path: str, **fields: str) -> PageAnswer:
        """Send a form."""
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return self._call("POST", path, urlencode({"csrf": self._csrf, **fields}), headers)

    def log_in(self) -> PageAnswer:
        """Log in with the passkey; return the page that follows."""
        options = self.post("/login/options", {}).document()
        return self.follow(self.post("/login", {"response": self.key.get(options)}))

    def follow(self, answer: PageAnswer) -> PageAnswer:
        """Go where a script was told to go."""
        return self.get(answer.document()["next"].removeprefix("/portal"))

    def sign(self, path: str) -> PageAnswer:
        """Sign what a page shows; return the page that follows."""
        self.get(path)
        options = self.post(f"{path}/options", {}).document()
        return self.follow(self.post(path, {"response": self.key.get(options)}))

    def hang_up(self) -> None:
        """Close the connection; the next page opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _call(self, method: str, path: str, body: str | None, headers: Mapping[str, str]) -> PageAnswer:
        """Ask.

        Raises:
            PageError: neither a page nor one that leads on.
            OSError, http.client.HTTPException: the connection broke; it is closed.
        """
        if self._connection is None:
            self._connection = http.client.HTTPSConnection(
                self._hub.address, self._hub.port, context=self._context, timeout=60
            )
        cookies = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        own = {"Host": self._origin.removeprefix("https://"), "Cookie": cookies, "Accept-Language": "ro"}
        if method == "POST":
            own |= {"Origin": self._origin, "X-CSRF-Token": self._csrf}
        try:
            self._connection.request(method, f"/portal{path}", body, {**own, **headers})
            answer = self._connection.getresponse()
            text = answer.read().decode()
        except (OSError, http.client.HTTPException):
            self.hang_up()
            raise
        for cookie in answer.headers.get_all("Set-Cookie", []):
            name, _, value = cookie.partition(";")[0].partition("=")
            if name in _COOKIES:
                self._cookies[name] = value
        if answer.status not in (200, 302):
            raise PageError(answer.status, path, text)
        if found := re.search(r'data-csrf="([0-9a-f]{64})"', text):
            self._csrf = found[1]
        return PageAnswer(text, answer.headers.get("Location", "").removeprefix("/portal"))
