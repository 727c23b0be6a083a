"""The regional hub with a region in it: lookups at a fixed rate, at a tenth of the size too; announcements.

Real parts: PostgreSQL as Debian has it, the hub's process with TLS, requests that hospitals sign, each with a nonce and
an audit record on disk before its answer. The tables hold what the hub would have stored (`support.big_region`).
"""

import random
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import psycopg
from joserfc.jwk import OKPKey

from bench.hub_client import Where, Wish, announce, look_up
from bench.measure import NO_LIMIT, Kind, Limit, Report, Result, say
from support.big_region import STUDIES_EACH, BigRegion, generate
from support.postgresql import running_postgresql
from support.region import Hub, Region
from support.signed_region import new_key
from usmed.domain.canonical import canonical_json
from usmed.domain.identifiers import PatientIdentifier
from usmed.hub.tables import CHAIN
from usmed.platform.keys import public_key_text
from usmed.platform.storage import open_database

PATIENTS = 10_000_000
HOSPITALS = [f"spital-{number:02}" for number in range(1, 51)]
LOOKUPS_PER_S, LOOKUP_S, LINES = 200, 20, 16
STUDIES_PER_S, OFFERED_PER_S, FEED_S = 500, 520, 60
KNOWN = 0.8
"""How many of the announced studies are of patients whom the hospital knows."""

# What a server of its own is given; the rest is PostgreSQL's own choice. Nothing that a power cut would make a loss.
SERVER = {
    "shared_buffers": "4GB", "effective_cache_size": "16GB", "max_wal_size": "16GB", "checkpoint_timeout": "30min",
    "random_page_cost": "1.1", "maintenance_work_mem": "1GB",
}  # fmt: skip
LOOKED_AT = ("chart", "chart_identifier", "consent", "study")
LOOKED_AT_BY = [
    *("chart_pkey", "ix_chart_person", "chart_identifier_pkey", "chart_identifier_number", "consent_patient"),
    "study_chart",
]


@dataclass(frozen=True)
class _World:
    """A hub that runs, and what is in it."""

    big: BigRegion
    where: Where
    keys: dict[str, OKPKey]


def hub(folder: Path, report: Report, runs: int, patients: int = PATIENTS, kept: Path | None = None) -> None:
    """All that the hub's size has to do with; `kept` is where the data stay for the next time."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = {one: new_key() for one in HOSPITALS}
    with ExitStack() as stack:
        server = stack.enter_context(running_postgresql(kept, **SERVER))
        small = stack.enter_context(_running(folder / "small", server, patients // 100 * 10, keys))
        large = stack.enter_context(_running(folder / "large", server, patients, keys))
        pool = stack.enter_context(ProcessPoolExecutor(2, get_context("spawn")))
        _lookups(pool, small, large, report, runs)
        _feed(pool, large, report)


def _lookups(pool: ProcessPoolExecutor, small: _World, large: _World, report: Report, runs: int) -> None:
    """Who is it, and who holds studies? By turns of the small region and the large."""
    seen: dict[int, list[list[float]]] = {world.big.patients: [] for world in (small, large)}
    for number in range(-1, runs):
        for world in (small, large):
            took = pool.submit(look_up, world.where, _wishes(world), LOOKUPS_PER_S, LINES).result()
            say(f"  {world.big.patients:,} patients: {_percentiles(took)}")
            if number >= 0:
                seen[world.big.patients].append(took)
    of_large, of_small = ([_percentile(one, 95) for one in seen[world.big.patients]] for world in (large, small))
    note = (
        f"{LOOKUPS_PER_S} a second for {LOOKUP_S} s, at even distances, whether or not earlier ones are answered; each"
        f" counts from when it was due. {large.big.patients:,} patients, {STUDIES_EACH * large.big.patients:,} studies,"
        f" {len(HOSPITALS)} hospitals; each lookup names a patient drawn at random, one of those who permit it, and"
        " every answer names holders. Plain: the limit."
    )
    limit = Limit(Kind.RATIO_AT_MOST, 1.0)
    report.add(Result("lookup, 95th percentile", "ms", of_large, [5.0] * runs, limit, note))
    for percent in (50, 99):
        ours = [_percentile(one, percent) for one in seen[large.big.patients]]
        report.add(Result(f"lookup, {percent}th percentile", "ms", ours, [5.0] * runs, NO_LIMIT))
    note = f"Plain: the same at {small.big.patients:,} patients, by turns in the same run."
    report.add(Result("its growth", "ms", of_large, of_small, Limit(Kind.RATIO_AT_MOST, 1.3), note))


def _feed(pool: ProcessPoolExecutor, world: _World, report: Report) -> None:
    """Every hospital's node announces its studies as they come; then the same, while others look up."""
    plain = [float(STUDIES_PER_S)]
    taken, delays = pool.submit(announce, world.where, _new_studies(world), FEED_S).result()
    say(f"  announcements: {_percentiles(delays)}")
    note = (
        f"{len(HOSPITALS)} hospitals, {OFFERED_PER_S} studies a second in all, for {FEED_S} s: each node sends one"
        " request at a time, with all that has come meanwhile. One in five is of a patient who is new. Counted: what"
        " was taken in within this time. Plain: the limit."
    )
    report.add(Result("studies taken in", "/s", [taken / FEED_S], plain, Limit(Kind.RATIO_AT_LEAST, 1.0), note))
    both = pool.submit(announce, world.where, _new_studies(world), FEED_S)
    took = pool.submit(look_up, world.where, _wishes(world), LOOKUPS_PER_S / 2, LINES).result()
    taken, _ = both.result()
    say(f"  lookups meanwhile: {_percentiles(took)}")
    note = (
        f"{LOOKUPS_PER_S // 2} a second, while {taken / FEED_S:.0f} studies a second are taken in. Plain: the limit of"
        " lookups alone."
    )
    report.add(Result("lookup meanwhile, 95th percentile", "ms", [_percentile(took, 95)], [5.0], NO_LIMIT, note))


def _wishes(world: _World) -> list[Wish]:
    """Choose patients who permit it; half are named by their national number, half by that of the first hospital."""
    big, chosen = world.big, list[Wish]()
    while len(chosen) < LOOKUPS_PER_S * LOOKUP_S:
        k = random.randrange(big.patients)
        if not big.consents(k):
            continue
        places = big.places(k)
        asker = HOSPITALS[(places[0] + random.randrange(1, len(HOSPITALS))) % len(HOSPITALS)]
        number = big.number(k, places[0]) if len(chosen) % 2 else PatientIdentifier("RO-CNP", big.national(k))
        body = {"identifier": {"issuer": number.issuer, "value": number.value}, "purpose": "TREAT"}
        chosen.append(Wish(asker, dict(world.keys[asker].as_dict(private=True)), canonical_json(body)))
    return chosen


def _new_studies(world: _World) -> list[tuple[float, Wish]]:
    """Make studies that nobody has announced yet, and say when each comes."""
    big, stamp, coming = world.big, time.time_ns(), list[tuple[float, Wish]]()
    later = BigRegion(big.hospitals, 100 * big.patients)
    for number in range(OFFERED_PER_S * FEED_S):
        known = random.random() < KNOWN
        s = random.randrange(STUDIES_EACH * big.patients) if known else random.randrange(big.patients, later.patients)
        hospital, record = (big if known else later).record(s)
        document = {**record.to_json(), "study_instance_uid": f"1.2.840.113619.3.{stamp}.{number}"}
        wish = Wish(hospital, dict(world.keys[hospital].as_dict(private=True)), canonical_json(document))
        coming.append((number / OFFERED_PER_S, wish))
    return coming


@contextmanager
def _running(folder: Path, server: str, patients: int, keys: dict[str, OKPKey]) -> Iterator[_World]:
    """Run a hub over a region of this size, which is made if it is not there."""
    big, name = BigRegion(HOSPITALS, patients), f"region_{patients}"
    url = f"postgresql://{server}/{name}"
    with psycopg.connect(f"postgresql://{server}/postgres", autocommit=True) as connection:
        remark = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s"
        found = connection.execute(remark, [name])
        if (found.fetchone() or [None])[0] != "whole":
            say(f"  making {patients:,} patients")
            connection.execute(f"DROP DATABASE IF EXISTS {name}")
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
            open_database(url, [CHAIN]).close()
            generate(url, big, say)
            connection.execute(f"COMMENT ON DATABASE {name} IS 'whole'")
    with psycopg.connect(url, autocommit=True) as connection:
        # Another run had another manifest, with other keys.
        connection.execute("TRUNCATE region_version, nonce")
        connection.execute("CREATE EXTENSION IF NOT EXISTS pg_prewarm")
        # As a server is that has run for a while: what lookups look at is in memory, as far as it goes there.
        for table in LOOKED_AT:
            connection.execute(
                "SELECT sum(pg_prewarm(oid, 'read')) FROM pg_class WHERE oid = %s::regclass OR relname = ANY(%s)"
                " AND oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = %s::regclass)",
                [table, LOOKED_AT_BY, table],
            )
        size = connection.execute("SELECT pg_size_pretty(pg_database_size(current_database()))").fetchone()
        say(f"  {patients:,} patients: {size[0] if size else ''}")
        connection.execute("CHECKPOINT")
    shutil.rmtree(folder, ignore_errors=True)
    one = Hub(folder / "hub", database_url=url)
    region = Region(folder, [], one)
    region.write_manifest(
        [
            {
                "id": id, "name": id, "address": f"https://{id}:8043", "public_key": public_key_text(key),
                "issuers": [id.upper()],
            }
            for id, key in keys.items()
        ]
    )
    one.start(region.file)
    try:
        yield _World(big, Where(one.address, one.port, str(one.certificate_file)), keys)
    finally:
        one.stop()


def _percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def _percentiles(values: Sequence[float]) -> str:
    shown = ", ".join(f"p{percent} {_percentile(values, percent):.2f}" for percent in (50, 95, 99))
    return f"{shown}, longest {max(values):.1f} ms, of {len(values)}"
