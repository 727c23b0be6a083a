"""Commands that look after the patient index: `usmed patients …`.

They work on the hub's database, so they need no passkey: whoever can run them could change it by hand. Each decision
has a name and a reason, and leaves its record in the history and in the audit log.
"""

import argparse
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from usmed.domain.errors import PeerDataError
from usmed.domain.identifiers import PatientIdentifier, patient_identifier
from usmed.hub import charts
from usmed.hub.charts import LinkedChart
from usmed.hub.crossed import Crossed
from usmed.hub.decisions import Decision, Kind, Side
from usmed.hub.finder import Finder
from usmed.hub.index import Chart
from usmed.hub.review import Done, Review
from usmed.hub.settings import database_url, region_of
from usmed.hub.tables import CHAIN
from usmed.platform.region_store import believed_region
from usmed.platform.storage import Database, open_database


def add_patients_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `usmed patients`."""
    patients = commands.add_parser("patients", help="look after the patient index")
    actions = patients.add_subparsers(required=True, metavar="ACTION")

    def add(name: str, run: object, text: str) -> argparse.ArgumentParser:
        one = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        one.set_defaults(run=run)
        return one

    add("contradictions", _contradictions, "list numbers that hospitals contradict each other about")
    listing = add("candidates", _candidates, "list charts that may be the same person, for somebody to decide")
    listing.add_argument("--limit", type=int, default=50, metavar="N", help="at most so many (default: 50)")
    show = add("show", _show, "show all charts of a person, or of everybody who claims a number")
    show.add_argument("chart", metavar="CHART", help="a chart's number, or ISSUER:VALUE")
    for name, run, text in (
        ("link", _link, "decide that two charts are one person"),
        ("different", _different, "decide that two charts are two persons, so that they are not proposed again"),
    ):
        one = add(name, run, text)
        one.add_argument("charts", type=int, nargs=2, metavar="CHART")
        _decided(one)
    unlink = add("unlink", _unlink, "decide that charts of one person are another person's, whatever joined them")
    unlink.add_argument("charts", type=int, nargs="+", metavar="CHART", help="those that leave; the others stay")
    unlink.add_argument(
        "--takes", action="append", default=[], metavar="ISSUER:VALUE",
        help="a number that both sides claim goes with those that leave; else it stays",
    )  # fmt: skip
    _decided(unlink)
    undo = add("undo", _undo, "take a decision back")
    undo.add_argument("decision", type=int, metavar="DECISION")
    _decided(undo)
    history = add("history", _history, "list what was decided, the newest first; or one decision with its copies")
    history.add_argument("decision", type=int, nargs="?", metavar="DECISION")
    history.add_argument("--limit", type=int, default=50, metavar="N", help="at most so many (default: 50)")


def _decided(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--by", required=True, metavar="NAME", help="who decides")
    parser.add_argument("--reason", required=True, metavar="TEXT", help="how that person knows")


@contextmanager
def hub_database() -> Iterator[Database]:
    """Open the hub's database."""
    database = open_database(database_url(os.environ), [CHAIN])
    try:
        yield database
    finally:
        database.close()


@contextmanager
def _review() -> Iterator[Review]:
    file = region_of(os.environ)
    with hub_database() as database:
        region = believed_region(database, file)
        finder = Finder(database, lambda: region, _now)
        # The hub does so as well; but it may not run, and a list that is behind misleads. Bounded: it goes on there.
        for _ in range(20):
            if not finder.step():
                break
        yield Review(database, lambda: region, _now)


def _contradictions(_: argparse.Namespace) -> None:
    with hub_database() as database, database.read() as connection:
        found = charts.contradictions(connection)
    for one in found:
        print(f"{datetime.fromtimestamp(one.found, UTC):%Y-%m-%d %H:%M} {one.identifier}: {one.reason}")
        print(f"    kept apart: {_described(one.chart)}")
        if one.other is not None:
            print(f"    the number still names: {_described(one.other)}")
    print(f"{len(found)} contradiction(s)")


def _candidates(arguments: argparse.Namespace) -> None:
    with _review() as review:
        found, count = review.queue(max(1, min(arguments.limit, 500)))
    for one in found:
        print(f"{one.score} of 100")
        _print_charts([one.one, one.other])
    print(f"{count} pair(s) wait for a decision")


def _show(arguments: argparse.Namespace) -> None:
    with _review() as review:
        if arguments.chart.isascii() and arguments.chart.isdigit():
            found = review.person(int(arguments.chart))
        else:
            found = review.named(number_of(arguments.chart))
    _print_charts(found)
    print(f"{len(found)} chart(s) of {len({one.person for one in found})} person(s)")


def _link(arguments: argparse.Namespace) -> None:
    with _review() as review:
        _print_done(review.link(*arguments.charts, by=arguments.by, reason=arguments.reason))


def _different(arguments: argparse.Namespace) -> None:
    with _review() as review:
        _print_done(review.different(*arguments.charts, by=arguments.by, reason=arguments.reason))


def _unlink(arguments: argparse.Namespace) -> None:
    takes = [number_of(one) for one in arguments.takes]
    with _review() as review:
        _print_done(review.unlink(arguments.charts, takes=takes, by=arguments.by, reason=arguments.reason))


def _undo(arguments: argparse.Namespace) -> None:
    with _review() as review:
        _print_done(review.undo(arguments.decision, by=arguments.by, reason=arguments.reason))


def _history(arguments: argparse.Namespace) -> None:
    with _review() as review:
        if arguments.decision is None:
            for one in review.history(max(1, min(arguments.limit, 500))):
                _print_decision(one)
            return
        _print_decision(review.decision(arguments.decision))
        _print_crossed(review.crossed(arguments.decision))


def _print_done(done: Done) -> None:
    _print_decision(done.decision)
    _print_crossed(done.crossed)


def _print_decision(one: Decision) -> None:
    what = f"undo of {one.undoes}" if one.kind is Kind.UNDO else one.kind.value
    undone = f" (undone by {one.undone})" if one.undone else ""
    print(f"{one.id}  {one.made:%Y-%m-%d %H:%M} UTC  {what}{undone}, by {one.by}: {one.reason}")
    if one.kind is Kind.UNDO:
        return
    for side, word in ((Side.ONE, "one"), (Side.OTHER, "other")):
        for each in one.charts:
            if each.side is side and (each.named or one.kind is not Kind.LINK):
                hospital, numbers, birth_date, sex = json.loads(each.described)
                own = frozenset(PatientIdentifier(*number) for number in numbers)
                print(f"    {word}: {_described(Chart(0, hospital, own, birth_date, sex))}")
    for number, side in one.numbers:
        print(f"    {number} names the {side.value} side")


def _print_crossed(found: Sequence[Crossed]) -> None:
    if not found:
        return
    print("Copies that may lie under the wrong patient. Nobody is told by itself: call these hospitals.")
    for one in found:
        sure = "knows the other side only" if one.likely else "knows both sides or neither: has to look"
        when = f"{one.at:%Y-%m-%d %H:%M} UTC"
        print(f"    {one.recipient}: study {one.study_instance_uid} from {one.source}, {when}; it {sure}")


def _print_charts(found: Iterable[LinkedChart]) -> None:
    for one in found:
        name = f"{one.chart.name}, " if one.chart.name else ""
        print(f"    chart {one.chart.id} of person {one.person}: {name}{_described(one.chart)}")


def _described(chart: Chart) -> str:
    numbers = ", ".join(str(one) for one in sorted(chart.identifiers))
    return f"{chart.hospital}, {numbers}, born {chart.birth_date or '?'}, sex {chart.sex or '?'}"


def number_of(text: str) -> PatientIdentifier:
    """Read ISSUER:VALUE.

    Raises:
        PeerDataError: it is not.
    """
    issuer, colon, value = text.partition(":")
    if not colon:
        raise PeerDataError(f"{text!r} is not ISSUER:VALUE")
    return patient_identifier(issuer, value)


def _now() -> datetime:
    return datetime.now(UTC)
