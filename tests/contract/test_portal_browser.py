"""The portal in a real browser: enrol, be asked, permit, see who looked, take back; on a phone and at a desk."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from selenium.common.exceptions import WebDriverException
from werkzeug.serving import make_server

from contract.hub_region import study
from contract.key_servers import Servers
from contract.portal_patients import Patient
from contract.portal_region import PortalRegion, running_portal_region
from support.browser import DESK, PHONE, Browser
from support.process import eventually, free_port
from usmed.domain.enrolment import Credential, comparison_code
from usmed.platform.keys import generate_certificate
from usmed.platform.mail import MailServer
from usmed.platform.sms import SmsGateway

ANA, LOCAL = ("RO-CNP", "1630615123457"), ("SF-SPIRIDON", "77")


@pytest.fixture
def region(on_sqlite: Servers, tmp_path: Path) -> Iterator[PortalRegion]:
    mail = MailServer("mail.example", 587, "starttls", "usmed@regiune.example", ())
    sms = SmsGateway("https://sms.example/", "POST", (), "form", "to={to}&text={text}")
    urls = lambda: f"sqlite:///{tmp_path / uuid4().hex}.db"  # noqa: E731
    with running_portal_region(on_sqlite, urls, mail=mail, sms=sms) as running:
        running.feed(
            "iasi", study("1.2.3", ANA, LOCAL), study("1.2.4", ANA, LOCAL, modality="MR", study_date="20250310"),
            study("1.2.6", ANA, LOCAL, modality="DX", study_date="20250309"),
        )  # fmt: skip
        running.feed("bacau", study("1.2.5", ANA, ("BACAU", "5"), modality="US", study_date="20240704"))
        yield running


class Site:
    """The hub over TLS, which can be out of reach for a while."""

    def __init__(self, region: PortalRegion, folder: Path) -> None:
        self.region, self.port = region, free_port()
        self.host = region.manifest.portal.removeprefix("https://")
        self.certificate, self.key = folder / "tls.pem", folder / "tls.key"
        generate_certificate(self.host, certificate=self.certificate, key=self.key, now=datetime.now(UTC))
        self.start()

    def start(self) -> None:
        """Answer."""
        self.server = make_server(
            "127.0.0.1", self.port, self.region.client.application, threaded=True,
            ssl_context=(str(self.certificate), str(self.key)),
        )  # fmt: skip
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def stop(self) -> None:
        """Answer no more."""
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def site(region: PortalRegion, tmp_path: Path) -> Iterator[Site]:
    one = Site(region, tmp_path)
    yield one
    one.stop()


@pytest.fixture
def open_browser(site: Site, tmp_path: Path) -> Iterator[Callable[..., Browser]]:
    opened: list[Browser] = []

    def new(**options: Any) -> Browser:
        folder, place = tmp_path / f"chromium-{len(opened)}", (site.host, f"127.0.0.1:{site.port}")
        opened.append(Browser(folder, [site.certificate], language="ro", resolve=[place], **options))
        return opened[-1]

    yield new
    for one in opened:
        one.close()


def looked(region: PortalRegion, *consents: str) -> None:
    """Let a source tell who had what."""
    now = int(region.clock().timestamp())
    accesses = [
        {"sequence": number, "at": now - 3600 * number, "patient": {"issuer": "RO-CNP", "value": ANA[1]},
         "recipient": "bacau", "role": role, "purpose": purpose, "study_instance_uid": uid, "consents": list(ids)}
        for number, (role, purpose, uid, ids) in enumerate(
            [("radiolog", "TREAT", "1.2.3", consents), ("radiolog", "TREAT", "1.2.4", consents),
             ("medic UPU", "ETREAT", "1.2.6", ())], start=1,
        )
    ]  # fmt: skip
    assert region.post("iasi", "/v1/accesses", {"accesses": accesses})["taken"] == 3
    opened = {**accesses[2], "at": now - 4 * 3600, "role": "", "study_instance_uid": ""}
    assert region.post("bacau", "/v1/accesses", {"accesses": [opened]})["taken"] == 1


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_a_patient_goes_all_the_way(
    region: PortalRegion, open_browser: Callable[..., Browser], size: tuple[int, int]
) -> None:
    browser, portal = open_browser(size=size), region.manifest.portal
    wrong: dict[str, list[str]] = {}

    def seen(name: str) -> None:
        """Keep a picture; note what is wrong with the page."""
        browser.picture(f"portal-{name}")
        faults = browser.barriers() + [f"{browser.overflow()} px too wide"] * (browser.overflow() > 0)
        if faults:
            wrong[name] = faults

    def press(selector: str) -> None:
        """Touch something as a person does: with it in sight, not behind the row of pages."""
        browser.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", browser.one(selector))
        browser.click(selector)

    ana = Patient(region, ANA, LOCAL)
    browser.open(f"{portal}/")
    browser.until("Bine ați venit")
    seen("01-login")
    # Enrolment.
    browser.open(f"{portal}/portal/enrol/{ana.invited()}")
    browser.until("v-a invitat")
    seen("02-enrol")
    press(".button.main")
    browser.until("Când v-ați născut?")
    for name, text in (("day", "16"), ("month", "iunie"), ("year", "1963")):
        browser.type(name, text)
    press("button.main")
    browser.until("mai puteți încerca de 4 ori")
    seen("03-birth-date")
    assert len(browser.faults()) == 1  # That the page came with the status 403.
    browser.one("input[name=day]").clear()
    browser.type("day", "15")
    press("button.main")
    browser.until("Telefonul devine cheia")
    seen("04-passkey")
    press("button.main")
    browser.until("Arătați acest număr")
    state = region.post("iasi", "/v1/enrolments/state", {"id": ana.invitation})["credential"]
    made = Credential(bytes.fromhex(state["id"]), bytes.fromhex(state["public_key"]))
    for part in comparison_code(made).split():
        assert part in browser.text()
    seen("05-waiting")
    ana.bring("iasi", credentials=[made])
    browser.until("Gata, sunteți înscris")
    seen("06-done")
    press(".button.main")
    browser.until("Nu ați permis încă nimănui nimic")
    seen("07-home-empty")
    # A hospital asks.
    id = str(uuid4())
    body = {"id": id, "identifier": {"issuer": "RO-CNP", "value": ANA[1]}, "purpose": "TREAT",
            "department": "Radiologie și imagistică", "role": "medic"}  # fmt: skip
    region.post("bacau", "/v1/requests", body)
    browser.open(f"{portal}/portal/")
    press(f"a[href$='{id}']")
    browser.until("vrea să vă vadă imaginile")
    seen("08-request")
    press("button.main")
    browser.until("Este ceea ce doriți?")
    seen("09-sign")
    press(".ceremony button")
    browser.until("Este valabil.")
    browser.until("3 din 3 servere de chei știu")
    seen("10-consent")
    consent = browser.driver.current_url.rpartition("/")[2]
    assert region.holding(consent) == {"keys-1", "keys-2", "keys-3"}
    looked(region, consent)
    # A refusal, chosen in the form.
    browser.open(f"{portal}/portal/consents/new")
    browser.until("Ce doriți?")
    seen("11-choose")
    press("a[href*='kind=deny']")
    browser.until("Cine nu poate vedea")
    press("details.card summary")
    seen("12-form")
    press("form.choices > button")
    browser.until("Alegeți cel puțin un spital")
    seen("13-form-fault")
    assert len(browser.faults()) == 1
    press("input[name=recipients][value=suceava]")
    press("form.choices > button")
    browser.until("Spitalul Județean Suceava nu poate vedea")
    press(".ceremony button")
    browser.until("Gata: nimeni nu mai poate obține nimic")
    for path, text in (("", "Ce am hotărât"), ("consents", "Tot ce ați permis"), ("access", "De fiecare dată"),
                       ("studies", "rezonanță magnetică"), ("help", "pierdut telefonul")):  # fmt: skip
        browser.open(f"{portal}/portal/{path}")
        browser.until(text) if path != "studies" else browser.until("Rezonanță")
        seen(f"20-{path or 'home'}")
    # By night, and so enlarged that a page is as narrow as it gets (WCAG 2.2, 1.4.10).
    browser.driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    for path in ("", f"consents/{consent}", "consents/new?kind=permit", "access"):
        browser.open(f"{portal}/portal/{path}")
        browser.until("Ieșire")
        seen(f"25-dark-{path.partition('/')[0].partition('?')[0] or 'home'}")
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    browser.resize((320, 256))
    for path in ("", f"consents/{consent}", "consents/new?kind=permit", "access", "studies"):
        browser.open(f"{portal}/portal/{path}")
        browser.until("Ieșire")
        seen(f"26-enlarged-{path.partition('/')[0].partition('?')[0] or 'home'}")
    browser.resize(size)
    # Taken back, while a key server and a hospital are out of reach.
    region.down = {"keys-3", "suceava"}
    browser.open(f"{portal}/portal/consents/{consent}")
    press("form .danger")
    browser.until("Retrageți acest acord?")
    seen("30-take-back")
    press(".ceremony button")
    browser.until("2 din 3 servere de chei știu")
    browser.until("Spitale care nu au aflat încă: Spitalul Județean Suceava")
    seen("31-under-way")
    region.down = set()
    region.deliveries.start()
    browser.until("Gata: nimeni nu mai poate obține nimic", 30)
    region.deliveries.stop(5)
    assert "Se retrage" not in browser.text(), "the heading follows"
    seen("32-done")
    assert region.holding(consent, 2) == {"keys-1", "keys-2", "keys-3"}
    assert browser.faults() == []
    assert wrong == {}


def test_without_a_network_the_last_first_page_is_shown_and_says_so(
    region: PortalRegion, open_browser: Callable[..., Browser], site: Site
) -> None:
    browser, portal = open_browser(size=PHONE), region.manifest.portal
    ana = Patient(region, ANA, LOCAL)
    browser.open(f"{portal}/portal/enrol/{ana.invited()}")
    browser.click(".button.main")
    for name, text in (("day", "15"), ("month", "06"), ("year", "1963")):
        browser.type(name, text)
    browser.click("button.main")
    browser.click(".ceremony button")
    browser.until("Arătați acest număr")
    state = region.post("iasi", "/v1/enrolments/state", {"id": ana.invitation})["credential"]
    ana.bring("iasi", credentials=[Credential(bytes.fromhex(state["id"]), bytes.fromhex(state["public_key"]))])
    browser.until("Gata, sunteți înscris")
    browser.click(".button.main")
    browser.until("Ce am hotărât")

    def inside(path: str) -> bool:
        with suppress(WebDriverException):
            browser.open(f"{portal}/portal/{path}")
        return "data-inside" in browser.driver.page_source

    def kept() -> list[str]:
        script = "const done = arguments[0]; caches.keys().then(done)"
        return list(browser.driver.execute_async_script(script))

    eventually(lambda: browser.driver.execute_async_script(
        "const done = arguments[0]; navigator.serviceWorker.ready.then((one) => done(!!one.active))"), 20, "worker")
    browser.open(f"{portal}/portal/")
    eventually(lambda: "pages" in kept(), 20, "the first page is kept")

    site.stop()
    browser.open(f"{portal}/portal/")
    browser.until("Fără rețea")
    browser.until("Ce am hotărât")
    browser.picture("portal-40-offline")
    assert not inside("studies")
    site.start()
    browser.open(f"{portal}/portal/")
    browser.until("Ce am hotărât")
    assert "Fără rețea" not in browser.text()
    browser.click(".out button")
    browser.until("Ați ieșit")
    eventually(lambda: kept() == [], 20, "nothing is kept")
    site.stop()
    assert not inside("")
    site.start()


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_a_patient_chooses_where_to_be_told(
    region: PortalRegion, open_browser: Callable[..., Browser], size: tuple[int, int]
) -> None:
    browser, portal = open_browser(size=size), region.manifest.portal
    wrong: dict[str, list[str]] = {}

    def seen(name: str) -> None:
        browser.picture(f"portal-notices-{name}")
        faults = browser.barriers() + [f"{browser.overflow()} px too wide"] * (browser.overflow() > 0)
        if faults:
            wrong[name] = faults

    def press(selector: str) -> None:
        browser.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", browser.one(selector))
        browser.click(selector)

    def sent() -> str:
        with region.database.read() as connection:
            texts = list(connection.exec_driver_sql("SELECT body FROM notice ORDER BY queued, ends").scalars())
        return re.findall(r"\b\d{6}\b", " ".join(texts))[-1]

    ana = Patient(region, ANA, LOCAL)
    browser.open(f"{portal}/portal/enrol/{ana.invited()}")
    press(".button.main")
    for name, text in (("day", "15"), ("month", "6"), ("year", "1963")):
        browser.type(name, text)
    press("button.main")
    browser.until("Telefonul devine cheia")
    press("button.main")
    browser.until("Arătați acest număr")
    state = region.post("iasi", "/v1/enrolments/state", {"id": ana.invitation})["credential"]
    ana.bring("iasi", credentials=[Credential(bytes.fromhex(state["id"]), bytes.fromhex(state["public_key"]))])
    browser.until("Gata, sunteți înscris")
    press(".button.main")
    browser.until("Vreți să fiți anunțat")
    seen("00-home")
    press(".invite a")
    browser.until("Prin e-mail")
    seen("01-none")
    browser.one("#sms [name=address]").send_keys("0232 123 456")
    press("#sms .enter button")
    browser.until("La acest număr nu putem trimite SMS")
    seen("02-no-number")
    browser.one("#sms [name=address]").clear()
    browser.one("#sms [name=address]").send_keys("0722 123 456")
    press("#sms .enter button")
    browser.until("Codul din 6 cifre")
    seen("03-code")
    assert [one for one in browser.faults() if "400" not in one] == []
    browser.one("[name=code]").send_keys(f"{(int(sent()) + 1) % 1_000_000:06}")
    press("#sms .typed button")
    browser.until("Nu este codul")
    seen("04-wrong-code")
    browser.one("[name=code]").send_keys(sent())
    press("#sms .typed button")
    browser.until("confirmată")
    press("#topics [value=looked]")
    press("#topics button")
    browser.until("Am reținut")
    with region.database.write() as connection:
        connection.exec_driver_sql("UPDATE contact SET failed = 1")
    browser.open(f"{portal}/portal/notices")
    browser.until("nu a putut fi trimisă")
    assert not browser.one("#topics [value=looked]").is_selected()
    seen("05-confirmed")
    press("#sms .address .danger")
    eventually(lambda: "+40" not in browser.text(), 20, "it is gone")
    assert wrong == {}
