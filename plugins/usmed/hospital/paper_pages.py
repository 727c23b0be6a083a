"""The desk's pages for consents on paper: one clerk writes down what the paper says and adds its scan, another attests.

They stand among the desk's other pages, which see to log-ins, languages and forged forms (`frame`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from flask import Blueprint, Response, g, request

from usmed.domain.consent import Provision, ProvisionType, Purpose
from usmed.domain.consent_choices import PURPOSES, Choices, consent_resource
from usmed.domain.consent_record import PAPER_LIFE
from usmed.domain.errors import PeerDataError, RefusedError, UsmedError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.paper import Change as PaperChange
from usmed.domain.paper import may
from usmed.domain.study_kinds import COMPANIONS, KINDS, UNKNOWN, sorted_into_kinds
from usmed.hospital.desk import Desk, Entry
from usmed.hospital.desk_pages import scan_answer
from usmed.hospital.enrolment_pages import Services, written
from usmed.hospital.frame import fault, page, record_refusal, see
from usmed.hospital.page_requests import require, staff
from usmed.hospital.patient_record import PatientRecord
from usmed.hospital.scans import UnfitScan
from usmed.hospital.words import of_fault

LONGEST = PAPER_LIFE - timedelta(days=1)
"""How long a permission on paper may hold, whole days: key servers count from the moment it was attested."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a consent, for people; an empty list sets no bound."""

    permits: bool
    recipients: list[str]
    sources: list[str]
    kinds: list[str]
    others: list[str]
    purposes: list[str]
    studies: int
    study_from: date | None
    study_to: date | None


def add_paper_pages(
    pages: Blueprint, services: Services, desk: Desk, hospital_names: Callable[[], Mapping[str, str]]
) -> None:
    """Add these pages.

    Args:
        pages: of `create_enrolment_pages`.
        services: of the same.
        desk: the use cases.
        hospital_names: what people call the region's hospitals, by id.
    """

    @pages.get("/paper")
    def papers() -> Response:
        require("paper.read")
        waiting = [one for one in desk.drafts() if "resource" in one.document]
        return page("desk/papers.html", waiting=waiting)

    @pages.get("/paper/new")
    def paper_form() -> Response:
        return _form(_record(services, request.args))

    @pages.post("/paper/new")
    def paper_written() -> Response:
        content = _sent()
        record = _record(services, request.form)
        try:
            number = next((one for one in record.numbers if written(one) == request.form.get("number")), None)
            if number is None:
                raise RefusedError("choose-number", "choose under which number the consent is")
            today = services.clock().date()
            choices = _chosen(frozenset(hospital_names()), today)
            draft = desk.write_scanned(_resource(choices, number, services.clock()), content, require("paper.write"))
        except UsmedError as error:
            record_refusal(services.frame, error)
            return _form(record, _said(error))
        return see(f"desk/paper/{draft.id}")

    @pages.get("/paper/<id>")
    def paper(id: str) -> Response:
        require("paper.read")
        return _paper(id)

    @pages.get("/paper/<id>/scan")
    def paper_scan(id: str) -> Response:
        return scan_answer(desk.scan(id, require("paper.read")))

    @pages.post("/paper/<id>/confirmation")
    def paper_attested(id: str) -> Response:
        def act() -> None:
            if request.form.get("read") != "yes":
                raise RefusedError("not-read", "say that you have read the scan and that it says the same")
            desk.confirm(id, request.form.get("sha256", ""), require("paper.confirm"))

        return _done(id, act)

    @pages.post("/paper/<id>/refusal")
    def paper_refused(id: str) -> Response:
        def act() -> None:
            if not request.form.get("reason", "").strip():
                raise RefusedError("no-reason", "say why you refuse it")
            desk.refuse(id, request.form["reason"], require("paper.confirm"))

        return _done(id, act)

    @pages.post("/paper/<id>/cancellation")
    def paper_cancelled(id: str) -> Response:
        return _done(id, lambda: desk.cancel(id, require("paper.write")))

    @pages.post("/paper/<id>/withdrawal")
    def paper_withdrawn(id: str) -> Response:
        return _done(id, lambda: desk.write_withdrawal(id, require("paper.write")))

    def _done(id: str, act: Callable[[], object]) -> Response:
        try:
            act()
        except UsmedError as error:
            record_refusal(services.frame, error)
            return _paper(id, _said(error))
        return see(f"desk/paper/{id}")

    def _form(record: PatientRecord, wrong: str = "") -> Response:
        national = services.enrolments.national
        known = sorted(record.numbers, key=lambda one: (national is None or one.issuer != national.issuer, one))
        today = services.clock().date()
        return page(
            "desk/paper-form.html", record=record, fault=wrong, given=request.form, numbers=known, kinds=list(KINDS),
            names=hospital_names(), today=today.isoformat(), last=(today + LONGEST).isoformat(),
        )  # fmt: skip

    def _paper(id: str, wrong: str = "") -> Response:
        entry = desk.entry(id)
        document = _document(entry)
        consent = desk.says(document)
        names = hospital_names()
        first = entry.draft.staff if entry.draft else ""
        return page(
            "desk/paper.html", entry=entry, consent=consent, fault=wrong, given=request.form,
            rules=[_rule(one, names) for one in consent.provisions], number=min(consent.patient),
            record=_known(services, min(consent.patient)), scan=bool(document["resource"].get("sourceAttachment")),
            mine=bool(first) and may(PaperChange.CANCEL, first, staff()), id=id,
            withdrawable=entry.draft is None and entry.attested is not None and consent.active,
        )  # fmt: skip


def _record(services: Services, given: Mapping[str, str]) -> PatientRecord:
    return services.enrolments.record(given.get("PatientID", ""), given.get("IssuerOfPatientID", ""))


def _known(services: Services, number: PatientIdentifier) -> PatientRecord | None:
    """Return who the archive says it is; None where it does not find the patient by this number."""
    try:
        return services.enrolments.record(number.value, number.issuer)
    except (RefusedError, PeerDataError):
        return None


def _document(entry: Entry) -> dict[str, Any]:
    """Return what is shown: what waits, or was attested last, or else what ended."""
    if entry.draft is not None:
        return entry.draft.document
    if entry.attested is not None:
        document: dict[str, Any] = entry.attested.item.record["document"]
        return document
    assert entry.ended is not None
    return entry.ended.document


def _resource(choices: Choices, number: PatientIdentifier, now: datetime) -> dict[str, Any]:
    return consent_resource(choices, patient=number, now=now, zone=UTC)


def _chosen(hospitals: frozenset[str], today: date) -> Choices:
    """Read the form.

    Raises:
        RefusedError: something is not chosen, or cannot be; the code says what.
    """
    form, kind = request.form, request.form.get("kind", "")
    if kind not in PURPOSES:
        raise RefusedError("choose-kind", "choose whether the paper permits or forbids")
    recipients: frozenset[str] = frozenset()
    if form.get("who") != "all":
        recipients = frozenset(form.getlist("recipients")) & hospitals
        if not recipients:
            raise RefusedError("choose-hospitals", "choose hospitals, or all")
    modalities: frozenset[str] = frozenset()
    if form.get("what") != "all":
        modalities = frozenset().union(*(KINDS[one] for one in form.getlist("kinds") if one in KINDS))
        if not modalities:
            raise RefusedError("choose-studies", "choose kinds of study, or all")
    until = _day(form.get("until", ""))
    if until is None and (kind == "permit" or form.get("until")):
        raise RefusedError("choose-end", "choose until when it holds")
    if until is not None and (until < today or (kind == "permit" and until > today + LONGEST)):
        raise RefusedError("end-too-far", "a permission on paper ends within a year, and not before today")
    return Choices(kind == "permit", PURPOSES[kind], recipients, modalities=modalities, until=until)


def _sent() -> bytes:
    """Return the file of the form, whatever it is; empty if there is none."""
    sent = request.files.get("scan")
    if sent is None:
        return b""
    try:
        content: bytes = sent.read()
        return content
    finally:
        sent.close()


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _rule(one: Provision, names: Mapping[str, str]) -> Rule:
    found = sorted_into_kinds(one.modalities - COMPANIONS)
    return Rule(
        permits=one.type is ProvisionType.PERMIT,
        recipients=[names.get(each, each) for each in sorted(one.recipients)],
        sources=[names.get(each, each) for each in sorted(one.sources)],
        kinds=[each for each in found if each != UNKNOWN],
        others=found.get(UNKNOWN, []),
        purposes=[each.value for each in Purpose if each in one.purposes],
        studies=len(one.studies),
        study_from=one.study_date_from,
        study_to=one.study_date_to,
    )


def _said(error: UsmedError) -> str:
    if isinstance(error, UnfitScan):
        return of_fault(g.language, error.code, str(error))
    return fault(error)
