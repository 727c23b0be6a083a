"""The consents that the persons of the sample region gave, as FHIR R4 Consent resources.

What they lead to is in `persons.Study.visible_to`. The profile is the one that is accepted everywhere:
criteria left out do not constrain, and a deny wins over a permit.
Source: HL7 FHIR R4 (4.0.1), Consent; HL7 v3 ActReason, ActCode and ParticipationType; LOINC 59284-0.
"""

from typing import Any

from sample_data.persons import (
    BRANZEI,
    CAMPEANU,
    DANILA,
    HOSPITALS,
    NATIONAL_ISSUER,
    PARHON,
    REGIONAL,
    STEFANESCU,
    STUDIES,
    TIRLEA,
    TURCANU,
    Person,
    Study,
)

Json = dict[str, Any]

_TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"


def all_consents() -> list[Json]:
    """Return every consent, ordered by its id."""
    consents = [
        _of_national_number(STEFANESCU, "p01-permit-all", "2022-01-10", _provision("permit")),
        _of_national_number(TURCANU, "p02-permit-parhon", "2023-02-27", _provision("permit", recipient=PARHON)),
        # One consent with its exception inside, as FHIR nests them ...
        _of_national_number(
            BRANZEI,
            "p03-permit-parhon-no-mr",
            "2023-11-02",
            _provision("permit", recipient=PARHON) | {"provision": [_provision("deny", modality="MR")]},
        ),
        _of_national_number(CAMPEANU, "p05-permit-all-expired", "2021-01-01", _provision("permit"), end="2023-12-31"),
        # ... and here as two consents, as someone gives them who changes their mind later.
        _of_national_number(TIRLEA, "p06-permit-all", "2023-01-15", _provision("permit")),
        _of_national_number(TIRLEA, "p06-deny-regional", "2023-12-20", _provision("deny", recipient=REGIONAL)),
    ]
    # Persons who must not be mixed permit everything: only their identity keeps them apart. Each consent
    # names the number of one hospital, as the hospital that recorded it knew no other.
    consents += [
        _consent(
            f"{study.person.key}-permit-all-{study.hospital}",
            study.identifiers[0],
            study.person,
            start="2023-05-02",
            provision=_provision("permit"),
        )
        for study in _first_studies()
        if study.person == DANILA or study.person.key.startswith("t")
    ]
    return sorted(consents, key=lambda consent: str(consent["id"]))


def _first_studies() -> list[Study]:
    """Return one study of each number."""
    return list({study.identifiers[0]: study for study in reversed(STUDIES)}.values())


def _of_national_number(person: Person, id: str, start: str, provision: Json, *, end: str = "") -> Json:
    return _consent(id, (NATIONAL_ISSUER, person.cnp), person, start=start, end=end, provision=provision)


def _consent(
    id: str, identifier: tuple[str, str], person: Person, *, start: str, end: str = "", provision: Json
) -> Json:
    """Make one Consent resource.

    Args:
        id: its logical id.
        identifier: issuer and value of the number it was given under.
        person: who gave it.
        start, end: first and last day of `provision.period` (YYYY-MM-DD); it was also written on the first.
        provision: what it says.
    """
    period = {"start": start, "end": end} if end else {"start": start}
    issuer, value = identifier
    assent = "OPTIN" if provision["type"] == "permit" else "OPTOUT"
    return {
        "resourceType": "Consent",
        "id": id,
        "status": "active",
        "scope": {"coding": [_coding(f"{_TERMINOLOGY}/consentscope", "patient-privacy")]},
        "category": [{"coding": [_coding("http://loinc.org", "59284-0", "Consent Document")]}],
        "patient": {
            "identifier": {"system": f"urn:usmed:issuer:{issuer}", "value": value},
            "display": f"{person.family_name} {person.given_name}",
        },
        "dateTime": start,
        "policyRule": {"coding": [_coding(f"{_TERMINOLOGY}/v3-ActCode", assent)]},
        "provision": provision | {"period": period},
    }


def _provision(type: str, *, recipient: str = "", modality: str = "") -> Json:
    """Make one rule for care: permit or deny, for one hospital or all, for one modality or all.

    A permit names the purposes of care, so that it never reaches research; a deny names none and so holds
    for all.
    """
    provision: Json = {"type": type}
    if recipient:
        provision["actor"] = [
            {
                "role": {"coding": [_coding(f"{_TERMINOLOGY}/v3-ParticipationType", "IRCP")]},
                "reference": {
                    "identifier": {"system": "urn:usmed:hospital", "value": recipient},
                    "display": HOSPITALS[recipient].name,
                },
            }
        ]
    if type == "permit":
        provision["purpose"] = [_coding(f"{_TERMINOLOGY}/v3-ActReason", code) for code in ("TREAT", "ETREAT")]
    if modality:
        provision["code"] = [{"coding": [_coding("http://dicom.nema.org/resources/ontology/DCM", modality)]}]
    return provision


def _coding(system: str, code: str, display: str = "") -> Json:
    return {"system": system, "code": code} | ({"display": display} if display else {})
