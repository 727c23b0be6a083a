"""FHIR R4 at the hub: what is answered is FHIR by the published definitions, and no wider than the rest of the hub."""

from typing import Any

import pytest
from werkzeug.test import TestResponse

from contract.hub_region import CNP, Region, consent, study
from usmed.domain.canonical import canonical_json
from usmed.hub.fhir import CONTENT_TYPE, PATH, capability_statement

OF_CNP = f"urn:usmed:issuer:RO-CNP|{CNP}"


def get(region: Region, sender: str, path: str, query: str = "") -> TestResponse:
    """Ask by a signed GET."""
    target = f"{PATH}{path}" + (f"?{query}" if query else "")
    headers = {"Authorization": region.authorization(sender, target, b"", method="GET")}
    return region.client.get(target, headers=headers)


def valid(resource: dict[str, Any]) -> dict[str, Any]:
    """Check a resource against the published definitions of FHIR R4B, where these resources are as in R4."""
    definitions = pytest.importorskip("fhir.resources.R4B")
    definitions.get_fhir_model_class(resource["resourceType"]).model_validate(resource)
    return resource


def read(answer: TestResponse, status: int = 200) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.mimetype == CONTENT_TYPE
    return valid(answer.json)


def match(region: Region, sender: str, *identifiers: tuple[str, str], **changes: Any) -> TestResponse:
    listed = [{"system": f"urn:usmed:issuer:{issuer}", "value": value} for issuer, value in identifiers]
    patient = {"resourceType": "Patient", "identifier": listed}
    body = {"resourceType": "Parameters", "parameter": [{"name": "resource", "resource": patient}], **changes}
    return region.send(sender, f"{PATH}/Patient/$match", canonical_json(body))


@pytest.fixture
def known(region: Region) -> Region:
    """Return a region in which iasi and bacau know one patient, who lets bacau have what iasi has."""
    region.feed("iasi", study("1.1", ("SF-SPIRIDON", "7"), ("RO-CNP", CNP)))
    region.feed("bacau", study("2.1", ("BACAU", "9"), ("RO-CNP", CNP)))
    region.permit("RO-CNP", CNP, to="bacau")
    return region


def test_it_says_what_it_can_do_to_anybody(region: Region) -> None:
    said = read(region.client.get(f"{PATH}/metadata"))
    assert said == capability_statement()
    described = {f"/{one['type']}" for one in said["rest"][0]["resource"]}
    assert described == {"/AuditEvent", "/Consent", "/Patient"}


def test_a_patients_consents_are_read_by_a_hospital_that_knows_the_patient(known: Region) -> None:
    for number in (OF_CNP, "urn:usmed:issuer:BACAU|9"):
        found = read(get(known, "bacau", "/Consent", f"patient:identifier={number}"))
        assert found["total"] == 1
        (entry,) = found["entry"]
        expected = {**consent("RO-CNP", CNP, to="bacau"), "id": "consent-0"}
        assert {name: value for name, value in entry["resource"].items() if name != "meta"} == expected
        assert entry["resource"]["meta"]["versionId"] == "1"
    one = get(known, "iasi", "/Consent/consent-0")
    assert read(one) == entry["resource"]
    assert one.headers["ETag"] == 'W/"1"'
    events = [event for event in known.audit.tail() if event.get("detail", {}).get("what") == "consents read"]
    assert [event["agent"] for event in events] == ["bacau", "bacau", "iasi"]


def test_who_does_not_know_the_patient_reads_what_is_read_of_nobody(known: Region) -> None:
    for number in (OF_CNP, "urn:usmed:issuer:BACAU|9", "urn:usmed:issuer:BACAU|nobody"):
        answer = get(known, "suceava", "/Consent", f"patient:identifier={number}")
        assert read(answer) == {"resourceType": "Bundle", "type": "searchset", "total": 0}
    refused = read(get(known, "suceava", "/Consent/consent-0"), 404)
    assert refused == read(get(known, "suceava", "/Consent/consent-none"), 404)


def listed(region: Region, sender: str) -> list[str]:
    found = read(get(region, sender, "/Consent", f"patient:identifier={OF_CNP}"))
    return [one["resource"]["id"] for one in found.get("entry", [])]


def test_who_invents_a_study_of_a_patient_does_not_read_what_others_may(known: Region) -> None:
    known.feed("suceava", study("3.1", ("SUCEAVA", "3"), ("RO-CNP", CNP)))
    assert listed(known, "suceava") == []
    refused = read(get(known, "suceava", "/Consent/consent-0"), 404)
    assert refused == read(get(known, "suceava", "/Consent/consent-none"), 404)


def test_consents_are_read_by_whom_they_concern(known: Region) -> None:
    known.feed("suceava", study("3.1", ("SUCEAVA", "3"), ("RO-CNP", CNP)))
    everybody = known.permit("RO-CNP", CNP)
    nobody = known.permit("RO-CNP", CNP, type="deny")
    attested = known.permit("SUCEAVA", "3", to="bacau")
    named = consent("RO-CNP", CNP, to="bacau")
    (actor,) = named["provision"]["actor"]
    source = {"role": {"coding": [{**actor["role"]["coding"][0], "code": "CST"}]},
              "reference": {"identifier": {"system": "urn:usmed:hospital", "value": "suceava"}}}  # fmt: skip
    by_source = known.permit("RO-CNP", CNP, provision={"actor": [actor, source]})
    assert listed(known, "suceava") == [everybody, nobody, attested, by_source]
    # Iași attests what is given under the national number.
    assert listed(known, "iasi") == ["consent-0", everybody, nobody, by_source]
    assert listed(known, "bacau") == ["consent-0", everybody, nobody, attested, by_source]
    for id in (everybody, nobody, attested, by_source):
        assert read(get(known, "suceava", f"/Consent/{id}"))["id"] == id
    assert get(known, "iasi", f"/Consent/{attested}").status_code == 404


def test_a_withdrawn_consent_is_inactive(known: Region) -> None:
    known.withdraw("consent-0")
    one = read(get(known, "bacau", "/Consent/consent-0"))
    assert (one["status"], one["meta"]["versionId"]) == ("inactive", "2")
    for status, total in (("active", 0), ("inactive", 1)):
        query = f"patient:identifier={OF_CNP}&status={status}"
        assert read(get(known, "bacau", "/Consent", query))["total"] == total


def test_match_tells_what_a_lookup_tells(known: Region) -> None:
    found = read(match(known, "bacau", ("BACAU", "9"), ("RO-CNP", CNP)))
    assert found["total"] == 1
    (entry,) = found["entry"]
    assert entry["search"]["score"] == 1
    assert entry["search"]["extension"][0]["valueCode"] == "certain"
    numbers = {(one["system"].rpartition(":")[2], one["value"]) for one in entry["resource"]["identifier"]}
    assert numbers == {("BACAU", "9"), ("RO-CNP", CNP), ("SF-SPIRIDON", "7")}
    # iasi may have nothing of bacau's, and suceava nothing at all: as for an unknown patient.
    nobody = match(known, "suceava", ("SUCEAVA", "nobody")).data
    assert match(known, "iasi", ("RO-CNP", CNP)).data == match(known, "suceava", ("RO-CNP", CNP)).data == nobody


def test_who_had_what_is_read_by_the_two_who_took_part(known: Region) -> None:
    def access(sequence: int, recipient: str, *consents: str) -> dict[str, Any]:
        return {
            "sequence": sequence, "at": int(known.clock().timestamp()), "recipient": recipient, "role": "medic",
            "patient": {"issuer": "RO-CNP", "value": CNP}, "purpose": "TREAT" if consents else "ETREAT",
            "study_instance_uid": "1.1", "consents": list(consents),
        }  # fmt: skip

    given = [access(1, "bacau", "consent-0"), access(2, "suceava")]
    assert known.post("iasi", "/v1/accesses", {"accesses": given})["taken"] == 2
    found = {
        name: read(get(known, name, "/AuditEvent", f"patient:identifier={OF_CNP}")).get("entry", [])
        for name in ("iasi", "bacau", "suceava")
    }
    # suceava has announced nobody of this number.
    assert {name: len(entries) for name, entries in found.items()} == {"iasi": 2, "bacau": 1, "suceava": 0}
    event = found["bacau"][0]["resource"]
    assert [one["who"]["identifier"]["value"] for one in event["agent"]] == ["bacau", "iasi"]
    assert event["purposeOfEvent"][0]["coding"][0]["code"] == "TREAT"
    assert event["entity"][-1]["what"] == {"reference": "Consent/consent-0"}
    assert event["entity"][1]["what"]["identifier"]["value"] == "urn:oid:1.1"
    assert known.audit.tail()[-2]["detail"] == {"what": "accesses read", "count": 1}


@pytest.mark.parametrize(
    "query",
    [
        "",
        "status=active",
        "patient:identifier=1630615123457",
        "patient:identifier=urn:other|7",
        "patient:identifier=urn:usmed:issuer:|7",
        "patient:identifier=urn:usmed:issuer:BACAU|",
        f"patient:identifier={OF_CNP}&patient:identifier={OF_CNP}",
        f"patient:identifier={OF_CNP}&status=proposed",
        f"patient:identifier={OF_CNP}&_include=Consent:patient",
    ],
)
def test_a_search_that_is_none_is_refused_with_an_operation_outcome(known: Region, query: str) -> None:
    refused = read(get(known, "bacau", "/Consent", query), 400)
    assert refused["resourceType"] == "OperationOutcome"
    assert known.audit.tail()[-1]["event"] == "refused"


@pytest.mark.parametrize(
    "changes",
    [
        {"resourceType": "Patient"},
        {"parameter": []},
        {"parameter": [{"name": "resource"}]},
        {"parameter": [{"name": "resource", "resource": {"resourceType": "Patient", "identifier": []}}]},
        {"parameter": [{"name": "resource", "resource": {"resourceType": "Patient", "identifier": [7]}}]},
        {"parameter": [{"name": "resource", "resource": {"resourceType": "Patient", "identifier": "x"}}]},
        {"parameter": 7},
    ],
)
def test_a_match_that_is_none_is_refused_with_an_operation_outcome(known: Region, changes: dict[str, Any]) -> None:
    assert read(match(known, "bacau", ("BACAU", "9"), **changes), 400)["resourceType"] == "OperationOutcome"


def test_who_is_no_hospital_and_who_does_not_sign_reads_nothing(known: Region) -> None:
    assert read(get(known, "hub", "/Consent", f"patient:identifier={OF_CNP}"), 403)["issue"][0]["code"] == "forbidden"
    assert known.client.get(f"{PATH}/Consent?patient:identifier={OF_CNP}").status_code == 401
