"""People before the portal: a patient with a phone, and the clerk who enrols."""

import re
import secrets
from typing import Any
from uuid import uuid4

from werkzeug.test import Client, TestResponse

from contract.hub_region import Region
from simulators.authenticator import Authenticator
from usmed.domain.enrolment import Credential, Guardian, enrol
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.invitation import code_digest

BORN = "19630615"
ADDRESS = "198.51.100.20"


class Patient:
    """A person with a browser and a phone that makes passkeys."""

    def __init__(
        self, region: Region, *numbers: tuple[str, str], name: str = "credential-0001!", address: str = ADDRESS
    ) -> None:
        self.region = region
        self.numbers = [PatientIdentifier(*one) for one in numbers]
        self.phone = Authenticator(region.manifest.portal, name.encode())
        self.browser = Client(region.client.application)
        self.origin = region.manifest.portal
        self.address = address
        self.csrf = ""
        self.invitation = ""

    # ---- the browser ----

    def get(self, path: str, **options: Any) -> TestResponse:
        return self.browser.get(f"/portal{path}", base_url=self.origin, environ_base=self._from(), **options)

    def read(self, path: str, language: str = "ro") -> str:
        """Return a page that has to be there."""
        answer = self.get(path, headers={"Accept-Language": language})
        assert answer.status_code == 200, (answer.status_code, answer.headers.get("Location"), answer.text)
        return answer.text

    def post(self, path: str, document: Any, **headers: str) -> TestResponse:
        given = {"Origin": self.origin, "X-CSRF-Token": self.csrf, **headers}
        return self.browser.post(
            f"/portal{path}", base_url=self.origin, json=document, headers=given, environ_base=self._from()
        )

    def submit(self, path: str, /, **fields: Any) -> TestResponse:
        """Send a form."""
        return self.browser.post(
            f"/portal{path}", base_url=self.origin, data={"csrf": self.csrf, **fields},
            headers={"Origin": self.origin}, environ_base=self._from(),
        )  # fmt: skip

    def _from(self) -> dict[str, str]:
        return {"REMOTE_ADDR": self.address}

    # ---- enrolment and log-in ----

    def invited(self, hospital: str = "iasi", *, guardian: dict[str, Any] | None = None) -> str:
        """Let a clerk invite; return the code."""
        code, self.invitation = secrets.token_urlsafe(24), str(uuid4())
        body = {
            "id": self.invitation, "code_sha256": code_digest(code), "birth_date": BORN, "guardian": guardian,
            "patient": [{"issuer": one.issuer, "value": one.value} for one in self.numbers],
        }  # fmt: skip
        answer = self.region.post(hospital, "/v1/enrolments/invite", body)
        assert answer["address"] == f"{self.origin}/portal/enrol/"
        return code

    def tell_birth_date(self, day: str = "15", month: str = "6", year: str = "1963") -> TestResponse:
        return self.submit("/enrol/birth-date", day=day, month=month, year=year)

    def make_passkey(self) -> TestResponse:
        options = self.post("/enrol/passkey/options", {})
        if options.status_code != 200:
            return options
        return self._in(self.post("/enrol/passkey", {"response": self.phone.create(options.json)}))

    def answered(self, hospital: str = "iasi", **more: Any) -> "Patient":
        """Go through the enrolment up to the number that is compared."""
        code = self.invited(hospital, **more)
        assert self.get(f"/enrol/{code}").headers["Location"] == "/portal/enrol"
        assert self.tell_birth_date().headers["Location"] == "/portal/enrol/passkey"
        made = self.make_passkey()
        assert made.json == {"next": "/portal/enrol/waiting"}, made.text
        return self

    def credential(self, hospital: str = "iasi") -> Credential:
        """Return the passkey as the clerk's node gets it from the hub."""
        state = self.region.post(hospital, "/v1/enrolments/state", {"id": self.invitation})
        assert state["state"] == "answered"
        return Credential(*(bytes.fromhex(state["credential"][name]) for name in ("id", "public_key")))

    def confirmed(self, hospital: str = "iasi", guardian: Guardian | None = None) -> "Patient":
        """Let the clerk confirm: the hospital enrols."""
        self.bring(hospital, credentials=[self.credential(hospital)], guardian=guardian)
        return self

    def bring(self, hospital: str, **enrolment: Any) -> None:
        """Let a hospital bring an enrolment of this patient to the hub."""
        token = enrol(
            self.region.keys[hospital], hospital=hospital, patient=self.numbers, now=self.region.clock(), **enrolment
        )
        body = {"records": [], "enrolments": [{"hospital": hospital, "token": token}]}
        assert self.region.post(hospital, "/v1/consents/records", body) == {"problems": []}

    def enrolled(self, hospital: str = "iasi") -> "Patient":
        """Enrol, and be logged in."""
        self.answered(hospital).confirmed(hospital)
        self.read("/enrol/done")
        return self

    def log_in(self, **client: Any) -> TestResponse:
        options = self.post("/login/options", {}).json
        return self._in(self.post("/login", {"response": self.phone.get(options, **client)}))

    # ---- consents ----

    def choose(self, **fields: Any) -> TestResponse:
        """Send the form of a new consent."""
        form = {"kind": "permit", "who": "some", "where": "all", "what": "all", "term": "year", **fields}
        return self.submit("/consents/new", **form)

    def sign(self, path: str, **client: Any) -> TestResponse:
        """Sign what a page shows."""
        path = path.removeprefix("/portal")
        options = self.post(f"{path}/options", {})
        if options.status_code != 200:
            return options
        return self.post(path, {"response": self.phone.get(options.json, **client)})

    def permit(self, **fields: Any) -> str:
        """Choose and sign; return the consent's id."""
        chosen = self.choose(**fields)
        assert chosen.status_code == 302, chosen.text
        signed = self.sign(chosen.headers["Location"])
        assert signed.status_code == 200, signed.text
        return str(signed.json["next"]).rpartition("/")[2]

    def withdraw(self, consent: str) -> TestResponse:
        chosen = self.submit(f"/consents/{consent}/withdraw")
        assert chosen.status_code == 302, chosen.text
        return self.sign(chosen.headers["Location"])

    def _in(self, answer: TestResponse) -> TestResponse:
        if answer.status_code == 200:
            where = answer.json["next"].removeprefix("/portal")  # type: ignore[index]
            found = re.search(r'data-csrf="([0-9a-f]{64})"', self.get(where).text)
            assert found is not None
            self.csrf = found[1]
        return answer
