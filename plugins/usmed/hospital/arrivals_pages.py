"""The page of arrivals: who comes today, what is expected, how far studies from elsewhere are; merges to look at."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime

from flask import Blueprint, Response, request

from usmed.domain.arrival import Prefetch
from usmed.domain.audit import AuditEvent, AuditEventType
from usmed.domain.errors import PeerDataError, RefusedError
from usmed.domain.pull import State
from usmed.hospital.arrival_store import ArrivalStore, Entry
from usmed.hospital.frame import Frame, dress, page, see
from usmed.hospital.page_requests import staff
from usmed.hospital.region_panel import plain_reason
from usmed.platform.audit_log import append_in
from usmed.platform.storage import Database

PAGE = 50
LAST_PAGE = 100_000


@dataclass(frozen=True, slots=True)
class Services:
    """What the pages need: of pulls, state and reason by Study Instance UID; of the hospital, which day it has."""

    store: ArrivalStore
    standing: Callable[[Collection[str]], Mapping[str, tuple[State, str]]]
    database: Database
    today: Callable[[], date]
    hospital_name: Callable[[str], str]
    frame: Frame


@dataclass(frozen=True, slots=True)
class Row:
    """An arrival as it is shown: `here` of its studies have come; `again` is when a failed one is tried again."""

    entry: Entry
    here: int
    again: datetime | None


def create_arrivals_pages(services: Services) -> Blueprint:
    """Return the pages; Orthanc's HTTP server has authenticated whoever calls."""
    pages = Blueprint("arrivals", __name__)
    dress(pages, services.frame)
    pages.add_app_template_filter(lambda text: f"{text[:2]}:{text[2:4]}" if text else "", "clock")
    pages.add_app_template_filter(lambda name: " ".join(one for one in name.split("^") if one), "person")
    pages.add_app_template_filter(lambda text: f"{text[6:8]}.{text[4:6]}.{text[:4]}", "born")
    _add_list(pages, services)
    _add_merges(pages, services)
    return pages


def _add_list(pages: Blueprint, services: Services) -> None:
    store = services.store

    @pages.get("")
    def start() -> Response:
        today = services.today()
        day, state, number = _day(today), _state(), _page()
        counts = store.counts(day)
        total = counts.get(state, 0) if state is not None else sum(counts.values())
        number = min(number, max(1, -(-total // PAGE)))
        entries = store.entries(day, state, offset=(number - 1) * PAGE, limit=PAGE)
        return page(
            "arrivals/list.html",
            day=day,
            today=today,
            state=state,
            states=[(one, counts.get(one, 0)) for one in Prefetch],
            everybody=sum(counts.values()),
            rows=_rows(services, entries),
            total=total,
            number=number,
            pages=-(-total // PAGE),
            first=(number - 1) * PAGE + 1,
            last=(number - 1) * PAGE + len(entries),
            merges=len(store.merges()),
            reason=_reason(services),
        )


def _add_merges(pages: Blueprint, services: Services) -> None:
    store = services.store

    @pages.get("/merges")
    def merges() -> Response:
        found = store.merges()
        moments = {one.id: datetime.fromtimestamp(one.received, UTC) for one in found}
        return page("arrivals/merges.html", merges=found, moments=moments)

    @pages.post("/merges/<id>")
    def end_merge(id: str) -> Response:
        who, outcome, now = staff(), request.form.get("outcome", ""), services.frame.clock()
        if outcome not in ("done", "not-one"):
            raise PeerDataError("outcome: must be done or not-one")
        with services.database.write() as connection:
            ended = store.end_merge(connection, id, outcome, who, now)
            if ended is None:
                raise RefusedError("unknown-merge", "there is no such merge to look at")
            event = AuditEvent(
                now,
                AuditEventType.IDENTITY,
                who,
                patient=str(ended.merge.surviving),
                reason="a merge that the hospital information system told of was looked at",
                detail={"outcome": outcome, "prior": ", ".join(map(str, sorted(ended.merge.prior)))},
            )
            append_in(connection, [event])
        return see("arrivals/merges")


def _rows(services: Services, entries: list[Entry]) -> list[Row]:
    pulls = services.standing({study for one in entries for study in one.studies})
    rows = []
    for entry in entries:
        states = [pulls[one][0] if one in pulls else None for one in entry.studies]
        brought = entry.state in (Prefetch.ARRIVING, Prefetch.HERE, Prefetch.FAILED)
        here = sum(one in (None, State.COMPLETE) for one in states) if brought else 0
        again = datetime.fromtimestamp(entry.due, UTC) if entry.due and entry.state is Prefetch.FAILED else None
        rows.append(Row(entry, here, again))
    return rows


def _reason(services: Services) -> Callable[[str], str]:
    """Return what puts a reason in words for people: errors and logs name hospitals by their ids."""

    def plain(reason: str) -> str:
        parts = [(one, one.partition(":")[0]) for one in reason.split("; ") if one]
        return "; ".join(plain_reason(one, peer, services.hospital_name(peer)) for one, peer in parts)

    return plain


def _day(today: date) -> date:
    try:
        return date.fromisoformat(request.args.get("day", "") or today.isoformat())
    except ValueError:
        return today


def _state() -> Prefetch | None:
    given = request.args.get("state", "")
    return Prefetch(given) if given in set(Prefetch) else None


def _page() -> int:
    given = request.args.get("page", "")
    return max(1, min(int(given), LAST_PAGE)) if given.isascii() and given.isdigit() and len(given) < 9 else 1
