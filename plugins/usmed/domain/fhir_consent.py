"""A FHIR R4 Consent, as our profile takes it, turned into the types that decide.

Only what `decide` understands is accepted. An element outside the profile is an error, not something to skip:
a consent that we read only in part could permit what the patient did not mean.

Profile, each member with its FHIR path: `status`; `patient.identifier` (system `urn:usmed:issuer:<issuer>`);
`dateTime`; `provision.type`, `.period`, `.dataPeriod` (study dates), `.actor` (role IRCP receives, role CST is the
source), `.purpose`, `.code` (DICOM modality), `.data` (named studies), and one level of `provision.provision`, which
may only be deny inside permit. `sourceAttachment` names the scan of a consent on paper (`paper`) and decides nothing.
Source: HL7 FHIR R4 (4.0.1), Consent.
"""

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from functools import cache
from importlib.resources import files
from typing import Any

from usmed.domain.canonical import parse_json
from usmed.domain.consent import Consent, Provision, ProvisionType, Purpose
from usmed.domain.errors import PeerDataError
from usmed.domain.identifiers import PatientIdentifier, is_uid, patient_identifier

ISSUER_SYSTEM = "urn:usmed:issuer:"
HOSPITAL_SYSTEM = "urn:usmed:hospital"
MODALITY_SYSTEM = "http://dicom.nema.org/resources/ontology/DCM"


@cache
def _validator() -> Any:
    """Return what checks a resource. Made when it is first needed: the library takes 8 MB."""
    import jsonschema

    def pattern(_validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterable[jsonschema.ValidationError]:
        """Match the whole text: Python's `$` also matches before a line break, and `\\d` any script's digits.

        A deny for `parhon` and a line break would deny nobody.
        """
        if isinstance(instance, str) and not re.fullmatch(pattern, instance, re.ASCII):
            yield jsonschema.ValidationError(f"{instance[:100]!r} does not match {pattern!r}")

    schema = parse_json(files(__package__).joinpath("fhir_consent.schema.json").read_bytes(), limit_bytes=1 << 20)
    return jsonschema.validators.extend(jsonschema.Draft202012Validator, {"pattern": pattern})(schema)


def prepare() -> None:
    """Load what checks a resource, which its first use would do."""
    _validator()


def consent_from_fhir(resource: Any, *, id: str, version: int) -> Consent:
    """Read a FHIR R4 Consent resource.

    Args:
        resource: the parsed JSON.
        id, version: the registry's identifier and version of it.

    Raises:
        PeerDataError: outside the profile; the message lists every fault with its JSON path.
    """
    faults = sorted(_validator().iter_errors(resource), key=lambda fault: fault.json_path)
    if faults:
        raise PeerDataError(
            "not a Consent of the accepted profile: "
            + "; ".join(f"{fault.json_path}: {fault.message[:200]}" for fault in faults[:20])
        )
    return kept_consent(resource, id=id, version=version)


def kept_consent(resource: Any, *, id: str, version: int) -> Consent:
    """Read a resource that `consent_from_fhir` has taken before and that was kept: its form is not checked again.

    Checking takes ten times as long as reading, and a lookup of a large region finds a consent that was not read yet.

    Raises:
        PeerDataError: outside the profile in what its form does not show.
    """
    root = resource["provision"]
    start, end = _period(root.get("period"), "$.provision.period")
    provisions = [_provision(root)]
    for nested in root.get("provision", ()):
        if root["type"] != "permit" or nested["type"] != "deny":
            raise PeerDataError("$.provision.provision: only a deny inside a permit is accepted")
        # Flattened, a nested deny reaches further than FHIR gives it (it is no longer bound to its parent's
        # criteria), which errs on the side of the patient.
        provisions.append(_provision(nested))
    return Consent(
        id=id,
        version=version,
        patient=frozenset({identifier_from_fhir(resource["patient"]["identifier"])}),
        valid_from=start,
        valid_until=end,
        active=resource["status"] == "active",
        provisions=tuple(provisions),
    )


def identifier_from_fhir(element: dict[str, str]) -> PatientIdentifier:
    """Read a FHIR Identifier whose system is `urn:usmed:issuer:<issuer>`.

    Raises:
        PeerDataError: another system, or no valid identifier.
    """
    system = element["system"]
    if not system.startswith(ISSUER_SYSTEM):
        raise PeerDataError(f"identifier system {system!r} is not {ISSUER_SYSTEM}<issuer>")
    return patient_identifier(system.removeprefix(ISSUER_SYSTEM), element["value"])


def _provision(element: dict[str, Any]) -> Provision:
    first, last = _dates(element.get("dataPeriod"))
    return Provision(
        type=ProvisionType(element["type"]),
        recipients=frozenset(_actors(element, "IRCP")),
        sources=frozenset(_actors(element, "CST")),
        purposes=frozenset(Purpose(coding["code"]) for coding in element.get("purpose", ())),
        modalities=frozenset(coding["code"] for concept in element.get("code", ()) for coding in concept["coding"]),
        studies=frozenset(_studies(element)),
        study_date_from=first,
        study_date_to=last,
    )


def _actors(element: dict[str, Any], role: str) -> Iterable[str]:
    for actor in element.get("actor", ()):
        if any(coding["code"] == role for coding in actor["role"]["coding"]):
            yield actor["reference"]["identifier"]["value"]


def _studies(element: dict[str, Any]) -> Iterable[str]:
    for datum in element.get("data", ()):
        uid = datum["reference"]["identifier"]["value"].removeprefix("urn:oid:")
        if not is_uid(uid):
            raise PeerDataError(f"$.provision.data: {uid!r} is not a Study Instance UID")
        yield uid


def _period(element: dict[str, str] | None, path: str) -> tuple[datetime | None, datetime | None]:
    """FHIR R4 Period: both ends belong to it; an end given as a day runs to the end of that day."""
    if element is None:
        return None, None
    start = _instant(element["start"], path)[0] if "start" in element else None
    end = _instant(element["end"], path)[1] if "end" in element else None
    if start is not None and end is not None and end <= start:
        raise PeerDataError(f"{path}: ends before it starts")
    return start, end


def _dates(element: dict[str, str] | None) -> tuple[date | None, date | None]:
    path = "$.provision.dataPeriod"
    bounds = [
        _day(element[name], path) if element is not None and name in element else None for name in ("start", "end")
    ]
    first, last = bounds
    if first is not None and last is not None and last < first:
        raise PeerDataError(f"{path}: ends before it starts")
    return first, last


def _day(text: str, path: str) -> date:
    try:
        return date.fromisoformat(text[:10])
    except ValueError as error:
        raise PeerDataError(f"{path}: {text!r} is not a date (YYYY-MM-DD)") from error


def _instant(text: str, path: str) -> tuple[datetime, datetime]:
    """Return the first instant that `text` covers, and the first one after it, in UTC."""
    try:
        if len(text) == 10:
            day = _day(text, path)
            start = datetime(day.year, day.month, day.day, tzinfo=UTC)
            return start, start + timedelta(days=1)
        # The schema has seen to it that there is a time zone.
        moment = datetime.fromisoformat(text).astimezone(UTC)
    except ValueError as error:
        raise PeerDataError(f"{path}: {text!r} is not a FHIR dateTime") from error
    except OverflowError as error:
        raise PeerDataError(f"{path}: {text!r} is beyond the calendar; leave out an end that never comes") from error
    return moment, moment
