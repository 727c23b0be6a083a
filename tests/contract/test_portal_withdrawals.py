"""What a patient takes back reaches key servers, whoever brought it; and the portal never says more than is known."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from contract.hub_region import attested
from contract.key_servers import SERVERS, Servers
from contract.portal_patients import Patient
from contract.portal_region import PortalRegion, running_portal_region
from usmed.domain.consent_record import consent_document
from usmed.domain.enrolment import enrol
from usmed.hub import consents

ANA, LOCAL = ("RO-CNP", "1630615123457"), ("SF-SPIRIDON", "77")


@pytest.fixture
def region(on_sqlite: Servers, tmp_path: Path) -> Iterator[PortalRegion]:
    with running_portal_region(on_sqlite, lambda: f"sqlite:///{tmp_path / uuid4().hex}.db") as running:
        yield running


@pytest.fixture
def ana(region: PortalRegion) -> Patient:
    return Patient(region, ANA, LOCAL).enrolled()


def taken_back_at_a_desk(region: PortalRegion, consent: str) -> None:
    """Let a hospital bring a withdrawal to the hub alone."""
    with region.database.read() as connection:
        held = consents.current(connection, consent)
    assert held is not None
    document = consent_document({**held.resource, "status": "inactive"}, id=consent, version=held.version + 1)
    record = attested(region.manifest, region.keys, document, region.clock())
    assert region.post("iasi", "/v1/consents/records", {"records": [record], "enrolments": []}) == {"problems": []}


def delivered(region: PortalRegion, consent: str) -> None:
    """Let the hub bring what is open."""
    found = region.deliveries.latest(consent)
    assert found is not None
    region.deliveries.deliver(found.item)


def forgotten(region: PortalRegion) -> None:
    """Let the hub hold what nobody knows the way of."""
    with region.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM delivery")
        connection.exec_driver_sql("DELETE FROM attested_record")


def test_what_a_hospital_brings_to_the_hub_alone_is_done_only_once_the_key_servers_know_it(ana: Patient) -> None:
    region, consent = ana.region, ana.permit(recipients="bacau")
    taken_back_at_a_desk(region, consent)
    page = ana.read(f"/consents/{consent}")
    assert "0 din 3 servere de chei știu" in page
    assert "Se retrage: <s>" in page
    assert "Gata" not in page
    delivered(region, consent)
    assert region.holding(consent, 2) == set(SERVERS)
    page = ana.read(f"/consents/{consent}")
    assert "3 din 3 servere de chei știu" in page
    assert "Retras: <s>" in page


def test_what_a_patient_signed_and_a_hospital_brings_goes_out_with_what_proves_it(ana: Patient) -> None:
    region = ana.region
    where = ana.choose(recipients="bacau").headers["Location"].removeprefix("/portal")
    region.down.update(SERVERS)
    consent = str(ana.sign(where).json["next"]).rpartition("/")[2]  # type: ignore[index]
    found = region.deliveries.latest(consent)
    assert found is not None
    with region.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM consent")
    forgotten(region)
    body = {"records": [found.item.record], "enrolments": []}
    assert region.post("bacau", "/v1/consents/records", body) == {"problems": []}
    region.down.clear()
    delivered(region, consent)
    assert region.holding(consent) == set(SERVERS)


def test_of_what_the_hub_does_not_know_the_way_it_says_so(ana: Patient) -> None:
    region, consent = ana.region, ana.permit(recipients="bacau")
    forgotten(region)
    page = ana.read(f"/consents/{consent}")
    assert "Nu știm câte servere de chei cunosc" in page
    assert "pe drum" in page
    taken_back_at_a_desk(region, consent)
    forgotten(region)
    page = ana.read(f"/consents/{consent}")
    assert "Nu știm câte servere de chei cunosc" in page
    assert "Retras: <s>" not in page


def test_a_withdrawal_that_the_hub_holds_already_still_goes_to_the_key_servers(ana: Patient) -> None:
    region, consent = ana.region, ana.permit(recipients="bacau")
    draft = ana.submit(f"/consents/{consent}/withdraw").headers["Location"]
    taken_back_at_a_desk(region, consent)
    forgotten(region)
    assert ana.sign(draft).status_code == 200
    assert region.holding(consent, 2) == set(SERVERS)
    assert "3 din 3 servere de chei știu" in ana.read(f"/consents/{consent}")


def test_another_document_under_a_version_that_is_on_its_way_holds_nothing_up(ana: Patient) -> None:
    region, consent = ana.region, ana.permit(recipients="bacau")
    draft = ana.submit(f"/consents/{consent}/withdraw").headers["Location"]
    with region.database.read() as connection:
        held = consents.current(connection, consent)
    assert held is not None
    region.down.update(SERVERS)
    document = consent_document(
        {**held.resource, "status": "inactive", "dateTime": "2026-11-22"}, id=consent, version=held.version + 1
    )
    record = attested(region.manifest, region.keys, document, region.clock())
    assert region.post("iasi", "/v1/consents/records", {"records": [record], "enrolments": []}) == {"problems": []}
    region.down.clear()
    region.down.add("keys-1")
    delivered(region, consent)
    region.down.clear()
    assert ana.sign(draft).status_code == 200
    # Two that say the same of it: whoever holds either will release nothing.
    assert "3 din 3 servere de chei știu" in ana.read(f"/consents/{consent}")


def test_what_key_servers_refuse_is_signed_again_and_then_done(ana: Patient) -> None:
    region, consent = ana.region, ana.permit(recipients="bacau")
    region.down.update(SERVERS)
    assert ana.withdraw(consent).status_code == 200
    assert "Semnez din nou retragerea" in ana.read(f"/consents/{consent}")
    assert "Nu acceptă semnătura" not in ana.read(f"/consents/{consent}")
    # The phone is reported as lost before the key servers get what it signed.
    lost = enrol(region.keys["iasi"], hospital="iasi", patient=ana.numbers, now=region.clock(), revoked=[ana.phone.id])
    body = {"records": [], "enrolments": [{"hospital": "iasi", "token": lost}]}
    for one in SERVERS:
        assert region.servers.send("iasi", one, "/v1/records", body).json == {"problems": []}
    assert region.post("iasi", "/v1/consents/records", body) == {"problems": []}
    region.down.clear()
    delivered(region, consent)
    assert region.holding(consent, 2) == set()
    again = Patient(region, ANA, LOCAL, name="another-passkey!").enrolled()
    page = again.read(f"/consents/{consent}")
    assert "Nu acceptă semnătura retragerii" in page
    assert "keys-1" in page
    assert "încercăm mai departe" not in page
    assert again.withdraw(consent).status_code == 200
    assert region.holding(consent, 2) == set(SERVERS)
    page = again.read(f"/consents/{consent}")
    assert "Retras: <s>" in page
    assert "Semnez din nou" not in page


def test_a_withdrawal_signed_again_does_no_harm_to_servers_that_have_it(ana: Patient) -> None:
    region, consent = ana.region, ana.permit(recipients="bacau")
    region.down.update(("keys-2", "keys-3"))
    assert ana.withdraw(consent).status_code == 200
    region.down.clear()
    assert ana.withdraw(consent).status_code == 200
    assert region.holding(consent, 2) == set(SERVERS)
    # What is done needs no other signature.
    assert ana.submit(f"/consents/{consent}/withdraw").headers["Location"] == f"/portal/consents/{consent}"
