"""An audit record as a DICOM audit message (PS3.15 A.5) and as the syslog message that carries it (A.6, RFC 5424)."""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

from usmed.domain.audit import AuditEventType, Outcome
from usmed.domain.canonical import canonical_json

FACILITY_AUTHPRIV = 10
"""RFC 5424 §6.2.1; the one that PS3.15 A.6 and IHE ITI TF-2 3.20 name for audit messages."""

_SEVERITY = {Outcome.SUCCESS: 5, Outcome.PARTIAL: 5, Outcome.DENIED: 4, Outcome.FAILURE: 4}
"""RFC 5424 §6.2.1: 4 warning, 5 notice."""

_OUTCOME = {Outcome.SUCCESS: "0", Outcome.PARTIAL: "4", Outcome.DENIED: "8", Outcome.FAILURE: "8"}
"""PS3.15 A.5.1.1, EventOutcomeIndicator: success, minor failure, serious failure (the action was ended)."""

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no XML 1.0 document can hold (§2.2)."""

_SEQUENCE_MOST = 2**31 - 1
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
"""Study Root Query/Retrieve Information Model - FIND (PS3.4 C.6.2): what a lookup asks, by whatever way it came."""


@dataclass(frozen=True, slots=True)
class Code:
    """A coded value: of DICOM (PS3.16) unless another system is named."""

    value: str
    meaning: str
    system: str = "DCM"


@dataclass(frozen=True, slots=True)
class Kind:
    """How a kind of record is told: EventID (CID 400), EventActionCode, EventTypeCode (CID 401) if there is one."""

    event: Code
    action: str
    type: Code | None = None


APPLICATION_ACTIVITY = Code("110100", "Application Activity")
AUDIT_LOG_USED = Code("110101", "Audit Log Used")
BEGIN_TRANSFERRING = Code("110102", "Begin Transferring DICOM Instances")
INSTANCES_ACCESSED = Code("110103", "DICOM Instances Accessed")
INSTANCES_TRANSFERRED = Code("110104", "DICOM Instances Transferred")
STUDY_DELETED = Code("110105", "DICOM Study Deleted")
EXPORT = Code("110106", "Export")
PATIENT_RECORD = Code("110110", "Patient Record")
QUERY = Code("110112", "Query")
SECURITY_ALERT = Code("110113", "Security Alert")

EMERGENCY_STARTED = Code("110127", "Emergency Override Started")
SECURITY_CONFIGURATION = Code("110129", "Security Configuration")
RESTRICTED_FUNCTION = Code("110132", "Use of Restricted Function")
OBJECT_SECURITY_CHANGED = Code("110135", "Object Security Attributes Changed")
APPLICATION_START = Code("110120", "Application Start")

DESTINATION = Code("110152", "Destination Role ID")
SOURCE = Code("110153", "Source Role ID")
APPLICATION_ROLE = Code("110150", "Application")

STUDY_UID = Code("110180", "Study Instance UID")
CLASS_UID = Code("110181", "SOP Class UID")
PATIENT_NUMBER = Code("2", "Patient Number", "RFC-3881")
URI = Code("12", "URI", "RFC-3881")

KINDS: Mapping[str, Kind] = {
    AuditEventType.LOOKUP: Kind(QUERY, "E"),
    AuditEventType.DECISION: Kind(INSTANCES_ACCESSED, "R"),
    AuditEventType.RELEASE: Kind(BEGIN_TRANSFERRING, "E"),
    AuditEventType.PULL: Kind(INSTANCES_TRANSFERRED, "C"),
    AuditEventType.REFUSED: Kind(SECURITY_ALERT, "E", RESTRICTED_FUNCTION),
    AuditEventType.CONSENT: Kind(PATIENT_RECORD, "U"),
    AuditEventType.FEED: Kind(EXPORT, "R"),
    AuditEventType.IDENTITY: Kind(PATIENT_RECORD, "U"),
    AuditEventType.CONFIGURATION: Kind(SECURITY_ALERT, "E", SECURITY_CONFIGURATION),
    AuditEventType.RETENTION: Kind(STUDY_DELETED, "D"),
    AuditEventType.APPLICATION: Kind(APPLICATION_ACTIVITY, "E", APPLICATION_START),
    AuditEventType.EMERGENCY: Kind(SECURITY_ALERT, "E", EMERGENCY_STARTED),
    AuditEventType.APPROVAL: Kind(SECURITY_ALERT, "E", SECURITY_CONFIGURATION),
    AuditEventType.ADMINISTRATION: Kind(SECURITY_ALERT, "E", SECURITY_CONFIGURATION),
    AuditEventType.ALARM: Kind(SECURITY_ALERT, "E", OBJECT_SECURITY_CHANGED),
    AuditEventType.SHARE: Kind(SECURITY_ALERT, "E", SECURITY_CONFIGURATION),
    AuditEventType.AUDIT: Kind(AUDIT_LOG_USED, "R"),
}
"""By the record's event; one that this version does not know is told as a security alert: nothing is left out."""

_REFUSED_ACCESS = Kind(SECURITY_ALERT, "E", RESTRICTED_FUNCTION)
_UNKNOWN = Kind(SECURITY_ALERT, "E")


def kind_of(event: Mapping[str, Any]) -> Kind:
    """Return how a record is told; a denied access to a patient's data is a security alert (PS3.15 A.5.3.11)."""
    kind = KINDS.get(event["event"], _UNKNOWN)
    if event["outcome"] == Outcome.DENIED and kind.event in (INSTANCES_ACCESSED, BEGIN_TRANSFERRING, QUERY):
        return _REFUSED_ACCESS
    return kind


def audit_message(event: Mapping[str, Any], *, site: str) -> bytes:
    """Return the XML of one message.

    Args:
        event: a record's event with its `sequence`.
        site: id of the hospital whose log it is.

    Returns:
        UTF-8 with its XML declaration, valid by the schema of PS3.15 A.5.1.1.
    """
    kind = kind_of(event)
    root = ET.Element("AuditMessage")
    identification = _add(
        root,
        "EventIdentification",
        EventActionCode=kind.action,
        EventDateTime=event["at"],
        EventOutcomeIndicator=_OUTCOME[Outcome(event["outcome"])],
    )
    _code(identification, "EventID", kind.event)
    if kind.type is not None:
        _code(identification, "EventTypeCode", kind.type)
    if event.get("reason"):
        _add(identification, "EventOutcomeDescription").text = _clean(event["reason"])
    _participants(root, event, kind, site)
    source = _add(root, "AuditSourceIdentification", AuditEnterpriseSiteID=site, AuditSourceID=f"usmed@{site}")
    # PS3.15 A.5.1.2.1: application server process.
    _add(source, "AuditSourceTypeCode", **{"csd-code": "4"})
    _objects(root, event, kind)
    text: str = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>{text}'.encode()


def syslog_message(event: Mapping[str, Any], *, site: str, host: str, process: int) -> bytes:
    """Return the whole syslog message, without framing.

    Args:
        event: as for `audit_message`.
        site: the hospital's id.
        host: this machine's name.
        process: id of this process.
    """
    severity = _SEVERITY[Outcome(event["outcome"])]
    # RFC 5424 §7.3.1: numbers start anew when the largest has been reached.
    number = (event["sequence"] - 1) % _SEQUENCE_MOST + 1
    name = re.sub(r"[^\x21-\x7e]", "-", host)[:255] or "-"
    header = (
        f"<{FACILITY_AUTHPRIV * 8 + severity}>1 {event['at']} {name} usmed {process} DICOM+RFC3881"
        f' [meta sequenceId="{number}"] '
    )
    # The byte order mark says that the message is UTF-8 (RFC 5424 §6.4).
    return header.encode("ascii") + b"\xef\xbb\xbf" + audit_message(event, site=site)


def _participants(root: ET.Element, event: Mapping[str, Any], kind: Kind, site: str) -> None:
    agent, peer = event.get("agent") or "unknown", event.get("peer", "")
    here = f"usmed@{site}"
    if kind.event is BEGIN_TRANSFERRING:
        _participant(root, here, False, SOURCE)
        _participant(root, peer or agent, peer in ("", agent), DESTINATION)
        if peer and peer != agent:
            _participant(root, agent, True, None)
    elif kind.event is INSTANCES_TRANSFERRED:
        _participant(root, peer or "unknown", False, SOURCE)
        _participant(root, here, False, DESTINATION)
        _participant(root, agent, True, None)
    elif kind.event is QUERY:
        _participant(root, agent, True, SOURCE)
        _participant(root, here, False, DESTINATION)
    elif kind.event is APPLICATION_ACTIVITY:
        _participant(root, here, False, APPLICATION_ROLE)
        _participant(root, agent, True, None)
    else:
        _participant(root, agent, True, None)
        if agent != here:
            _participant(root, here, False, APPLICATION_ROLE)


def _participant(root: ET.Element, user: str, requestor: bool, role: Code | None) -> None:
    one = _add(root, "ActiveParticipant", UserID=_clean(user), UserIsRequestor="true" if requestor else "false")
    if role is not None:
        _code(one, "RoleIDCode", role)


def _objects(root: ET.Element, event: Mapping[str, Any], kind: Kind) -> None:
    detail = {name: value for name, value in event.items() if name in ("event", "sequence", "detail", "peer")}
    said = canonical_json(detail)
    if kind.event is AUDIT_LOG_USED:
        # PS3.15 A.5.3.2: the log itself, a security resource.
        log = _object(root, "usmed:audit-log", "2", "13", URI, "Security Audit Log")
        _detail(log, said)
    if uid := event.get("study_instance_uid"):
        life = "15" if kind.event is STUDY_DELETED else ""
        study = _object(root, uid, "2", "3", STUDY_UID, "study", life)
        _detail(study, said)
    if kind.event is QUERY:
        asked = {name: event[name] for name in ("patient", "study_instance_uid", "detail") if name in event}
        query = _object(root, STUDY_ROOT_FIND, "2", "3", CLASS_UID, "", "", canonical_json(asked))
        _detail(query, said)
    if event.get("patient"):
        # The number alone: what a log of accesses holds of a patient is no name.
        patient = _object(root, event["patient"], "1", "1", PATIENT_NUMBER, "patient")
        _detail(patient, said)
    if root.find("ParticipantObjectIdentification") is None:
        _detail(_object(root, "usmed:node", "2", "13", URI, "node"), said)


def _object(
    root: ET.Element, id: str, type: str, role: str, code: Code, name: str, life: str = "", query: bytes = b""
) -> ET.Element:
    one = _add(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=_clean(id),
        ParticipantObjectTypeCode=type,
        ParticipantObjectTypeCodeRole=role,
    )
    if life:
        one.set("ParticipantObjectDataLifeCycle", life)
    _code(one, "ParticipantObjectIDTypeCode", code)
    if query:
        _add(one, "ParticipantObjectQuery").text = base64.b64encode(query).decode("ascii")
    else:
        _add(one, "ParticipantObjectName").text = name
    return one


def _detail(one: ET.Element, said: bytes) -> None:
    _add(one, "ParticipantObjectDetail", type="usmed", value=base64.b64encode(said).decode("ascii"))


def _code(parent: ET.Element, name: str, code: Code) -> None:
    _add(parent, name, **{"csd-code": code.value, "codeSystemName": code.system, "originalText": code.meaning})


def _add(parent: ET.Element, name: str, **attributes: str) -> ET.Element:
    return ET.SubElement(parent, name, attributes)


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
