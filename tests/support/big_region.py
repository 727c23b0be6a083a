"""A region as large as one likes, copied into PostgreSQL row for row as the hub would have stored it.

Patient k (from 0) is computed, not drawn, so that whoever asks knows the numbers: sex, birth date, national number, the
hospitals (one for six of ten patients, two for three, three for one), and the studies, of which the s-th belongs to
patient s mod N: a patient's studies lie as far apart on disk as they do when years pass between them.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from hashlib import sha256
from itertools import batched, product
from typing import Any

import psycopg
from stdnum.ro import cnp

from support.region import NATIONAL_ISSUER, on_paper, permit
from usmed.domain.canonical import canonical_json
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.study_record import StudyRecord, study_record

STUDIES_EACH = 5
DAYS = 30_000
FIRST_BIRTH, FIRST_STUDY = date(1930, 1, 1), date(2016, 1, 1)
STUDY_DAYS = 3600
MODALITIES = ("CT", "MR", "US", "CR", "DX", "MG", "XA", "CT\\SR")
FAMILY = (
    "Popescu",
    "Ionescu",
    "Munteanu",
    "Țăranu",
    "Rusu",
    "Știrbu",
    "Ungureanu",
    "Lupu",
    "Bălan",
    "Ciobanu",
    "Nechita",
)
GIVEN = (
    "Ana",
    "Ion",
    "Măriuca",
    "Ștefan",
    "Elena",
    "Vasile",
    "Ioana",
    "Gheorghe",
    "Doina",
    "Mihai",
    "Cătălina",
    "Dan",
    "Ilinca",
)
STEP = 500_000
"""How many rows one transaction makes."""

TABLES = ("chart", "chart_identifier", "study", "bucket", "consent", "consent_change")


@dataclass(frozen=True)
class BigRegion:
    """What there is.

    Attributes:
        hospitals: ids, an even number of them, at least four. The issuer of a hospital's numbers is its id in capitals.
        patients: a multiple of ten.
    """

    hospitals: Sequence[str]
    patients: int

    def places(self, k: int) -> list[int]:
        """Return the places in `hospitals` of those that know a patient, in the order in which they met."""
        count, block = len(self.hospitals), k // 10
        first = block % count
        spread = block // count % (count // 2 - 1)
        offsets = (0, 1 + spread, count // 2 + spread)
        return [(first + offset) % count for offset in offsets[: 1 if k % 10 < 6 else 2 if k % 10 < 9 else 3]]

    def national(self, k: int) -> str:
        """Return a patient's national number; empty for one patient in ten, whose charts nothing joins."""
        if k * 16807 % 2147483647 // 1000 % 10 == 0:
            return ""
        born, rest = self.born(k), k // DAYS
        digit = (1 if born.year < 2000 else 5) + (0 if self.sex(k) == "M" else 1)
        text = f"{digit}{born:%y%m%d}{1 + rest % 40:02}{1 + rest // 40:03}"
        return text + cnp.calc_check_digit(text)

    def born(self, k: int) -> date:
        """Return the birth date."""
        return FIRST_BIRTH + timedelta(days=k % DAYS * 7919 % DAYS)

    def sex(self, k: int) -> str:
        """Return the sex."""
        return "M" if k % 2 else "F"

    def name(self, k: int) -> str:
        """Return what a patient is called, as PatientName."""
        return f"{FAMILY[k // len(GIVEN) % len(FAMILY)]}^{GIVEN[k % len(GIVEN)]}"

    def consents(self, k: int) -> bool:
        """Tell whether a patient permits treatment everywhere: one in ten of those with a national number."""
        return k * 48271 % 2147483647 // 1000 % 10 == 0 and bool(self.national(k))

    def number(self, k: int, place: int) -> PatientIdentifier:
        """Return the number that a hospital gave a patient."""
        return PatientIdentifier(self.hospitals[place].upper(), f"{k * 3 + place % 3:09}")

    def record(self, s: int) -> tuple[str, StudyRecord]:
        """Return the s-th study: the hospital and its record."""
        k, visit = s % self.patients, s // self.patients
        places = self.places(k)
        changes = {1: (0, 0, 0, 0, 0), 2: (0, 0, 0, 1, 1), 3: (0, 0, 1, 1, 2)}[len(places)]
        place = places[changes[visit]]
        day = FIRST_STUDY + timedelta(days=s * STUDY_DAYS // (STUDIES_EACH * self.patients))
        numbers = [self.number(k, place)]
        if self.national(k):
            numbers.append(PatientIdentifier(NATIONAL_ISSUER, self.national(k)))
        return self.hospitals[place], study_record(
            f"1.2.840.113619.2.{100 + place}.{day:%Y%m%d}.{s}",
            numbers,
            name=self.name(k),
            birth_date=f"{self.born(k):%Y%m%d}",
            sex=self.sex(k),
            accession_number=f"{day:%y}{s // len(self.hospitals):07}",
            study_date=f"{day:%Y%m%d}",
            modalities=MODALITIES[(k + visit) % len(MODALITIES)].split("\\"),
        )

    def consent(self, k: int) -> dict[str, Any]:
        """Return what a patient permits, as `resource` of a consent document."""
        return _consent(self.national(k))

    def consent_id(self, k: int) -> str:
        """Return the id of a patient's consent."""
        return f"big-{k:09}"


def _consent(value: str) -> dict[str, Any]:
    return on_paper(permit(NATIONAL_ISSUER, value))


def generate(url: str, region: BigRegion, say: Callable[[str], None] = lambda _text: None) -> None:
    """Fill the empty tables of a hub (`postgresql://…`, a superuser's) with `COPY`.

    Indexes are made at the end, constraints are not checked: what is made fits.
    """
    if len(region.hospitals) % 2 or len(region.hospitals) < 4 or region.patients % 10:
        raise ValueError("an even number of hospitals, four at least, and ten patients or a multiple")
    started = time.monotonic()
    with _connected(url) as connection:
        names = "', '".join(TABLES)
        of_tables = f"indrelid IN (SELECT oid FROM pg_class WHERE relname IN ('{names}') AND relkind = 'r')"
        # PostgreSQL's own mark of an index that is not kept up; REINDEX takes it off.
        connection.execute(f"UPDATE pg_index SET indisready = false, indisvalid = false WHERE {of_tables}")
    rows = _Rows(region)
    with _connected(url) as connection:
        for table, columns, lines in rows.tables():
            _copy(connection, f"COPY {table} ({columns}) FROM STDIN", lines)
            say(f"  {time.monotonic() - started:6.0f} s  {table}")
        for table in TABLES:
            connection.execute(f"REINDEX TABLE {table}")
            say(f"  {time.monotonic() - started:6.0f} s  indexes of {table}")
        connection.execute("SELECT setval(pg_get_serial_sequence('chart', 'id'), (SELECT max(id) FROM chart))")
        connection.execute("UPDATE hub_state SET cursor = (SELECT coalesce(max(cursor), 0) FROM consent_change)")
        for table in TABLES:
            connection.execute(f"VACUUM (ANALYZE, FREEZE) {table}")
        say(f"  {time.monotonic() - started:6.0f} s  vacuumed")


def _connected(url: str) -> psycopg.Connection[Any]:
    connection = psycopg.connect(url, autocommit=True)
    for setting in ("session_replication_role = replica", "synchronous_commit = off", "maintenance_work_mem = '1GB'"):
        connection.execute(f"SET {setting}")
    return connection


def _copy(connection: psycopg.Connection[Any], statement: str, lines: Iterable[str]) -> None:
    for part in batched(lines, STEP, strict=False):
        with connection.cursor().copy(statement) as copy:
            for some in batched(part, 1000, strict=False):
                copy.write("".join(some))


def _weighed(digits: str, weights: Sequence[int]) -> int:
    return sum(int(one) * by for one, by in zip(digits, weights, strict=True))


class _Rows:
    """The lines of COPY: what `BigRegion` says, but from tables made before, because there are a hundred million."""

    def __init__(self, region: BigRegion) -> None:
        self._region = region
        self._count = len(region.hospitals)
        born = [region.born(k) for k in range(DAYS)]
        self._born = [f"{day:%Y%m%d}" for day in born]
        # The first digit, without the sex, and the rest of the date; and what they add to the check digit.
        weights = list(map(int, "279146358279"))
        self._century = [1 if day.year < 2000 else 5 for day in born]
        self._short = [f"{day:%y%m%d}" for day in born]
        self._date_sum = [_weighed(text, weights[1:7]) for text in self._short]
        self._tail = [f"{1 + rest % 40:02}{1 + rest // 40:03}" for rest in range(region.patients // DAYS + 1)]
        self._tail_sum = [_weighed(text, weights[7:]) for text in self._tail]
        self._issuers = [one.upper() for one in region.hospitals]
        # By issuer, as the canonical form has them.
        self._first = [one < NATIONAL_ISSUER for one in self._issuers]
        # How many studies, and their digest.
        self._buckets = [[[0, 0] for _ in range(256)] for _ in region.hospitals]

    def tables(self) -> Iterator[tuple[str, str, Iterable[str]]]:
        """Give table, columns and lines, in an order in which each can be made from what was made before."""
        yield "chart", "id, hospital, key, birth_date, sex, person, name", self._charts()
        yield "chart_identifier", "chart, issuer, value, linked", self._numbers()
        columns = "study_instance_uid, hospital, chart, bucket, accession_number, study_date, modalities, digest"
        yield "study", columns, self._studies()
        yield "bucket", "hospital, bucket, studies, digest", self._digests()
        columns = "id, version, status, issuer, value, current, resource, recorded, kind, proved_by"
        yield "consent", columns, self._consents()
        yield "consent_change", "issuer, value, cursor", self._changes()

    def _national(self, k: int) -> str:
        if k * 16807 % 2147483647 // 1000 % 10 == 0:
            return ""
        day, rest = k % DAYS, k // DAYS
        digit = self._century[day] + 1 - k % 2
        check = (2 * digit + self._date_sum[day] + self._tail_sum[rest]) % 11
        return f"{digit}{self._short[day]}{self._tail[rest]}{1 if check == 10 else check}"

    def _place(self, k: int, chart: int) -> int:
        block, half = k // 10, self._count // 2
        if chart == 0:
            return block % self._count
        return (block % self._count + (1 if chart == 1 else half) + block // self._count % (half - 1)) % self._count

    def _chart(self, k: int, chart: int) -> int:
        """Return the number of a patient's n-th chart: in the order in which all were first seen."""
        if chart == 0:
            return k + 1
        if chart == 2:
            return self._region.patients + 4 * (self._region.patients // 10) + k // 10 + 1
        if k % 10 == 9:
            return self._region.patients + k // 10 + 1
        return self._region.patients + self._region.patients // 10 + k // 10 * 3 + k % 10 - 6 + 1

    def _all_charts(self) -> Iterator[tuple[int, int, int]]:
        """Give patient, which of the patient's charts, and its hospital's place, in the order of the charts."""
        n = range(self._region.patients)
        for kinds, chart in ((range(10), 0), ((9,), 1), ((6, 7, 8), 1), ((9,), 2)):
            for block in n[::10]:
                for kind in kinds:
                    yield block + kind, chart, self._place(block + kind, chart)

    def _charts(self) -> Iterator[str]:
        hospitals = self._region.hospitals
        for k, chart, place in self._all_charts():
            number, national = f"{k * 3 + place % 3:09}", self._national(k)
            own, other = f'["{self._issuers[place]}","{number}"]', f'["{NATIONAL_ISSUER}","{national}"]'
            both = own if not national else f"{own},{other}" if self._first[place] else f"{other},{own}"
            born, sex = self._born[k % DAYS], "FM"[k % 2]
            key = sha256(f'["{hospitals[place]}",[{both}],"{born}","{sex}"]'.encode()).hexdigest()
            id = self._chart(k, chart)
            person, name = k + 1 if national else id, self._region.name(k)
            yield f"{id}\t{hospitals[place]}\t{key}\t{born}\t{sex}\t{person}\t{name}\n"

    def _numbers(self) -> Iterator[str]:
        for k, chart, place in self._all_charts():
            id, national = self._chart(k, chart), self._national(k)
            yield f"{id}\t{self._issuers[place]}\t{k * 3 + place % 3:09}\tt\n"
            if national:
                yield f"{id}\t{NATIONAL_ISSUER}\t{national}\tt\n"

    def _studies(self) -> Iterator[str]:
        n, hospitals = self._region.patients, self._region.hospitals
        # Which chart a visit is under.
        under = [[0] * 5 if kind < 6 else [0, 0, 0, 1, 1] if kind < 9 else [0, 0, 1, 1, 2] for kind in range(10)]
        kinds = [one.replace("\\", '","') for one in MODALITIES]
        written = [one.replace("\\", "\\\\") for one in MODALITIES]
        days = [FIRST_STUDY + timedelta(days=one) for one in range(STUDY_DAYS)]
        texts = [(f"{one:%Y%m%d}", f"{one:%y}") for one in days]
        count, half, total = self._count, self._count // 2, STUDIES_EACH * n
        # Written out, because this runs fifty million times.
        for visit, start in product(range(STUDIES_EACH), range(0, n, 10)):
            first, spread = start // 10 % count, start // 10 // count % (half - 1)
            places = (first, (first + 1 + spread) % count, (first + half + spread) % count)
            for k in range(start, start + 10):
                chart, s = under[k % 10][visit], visit * n + k
                place, national = places[chart], self._national(k)
                day, year = texts[s * STUDY_DAYS // total]
                numbers = f'{{"issuer":"{self._issuers[place]}","value":"{k * 3 + place % 3:09}"}}'
                if national:
                    other = f'{{"issuer":"{NATIONAL_ISSUER}","value":"{national}"}}'
                    numbers = f"{numbers},{other}" if self._first[place] else f"{other},{numbers}"
                kind, uid = (k + visit) % len(kinds), f"1.2.840.113619.2.{100 + place}.{day}.{s}"
                accession = f"{year}{s // count:07}"
                digest = sha256(
                    f'{{"accession_number":"{accession}","modalities":["{kinds[kind]}"],"patient":{{"birth_date":'
                    f'"{self._born[k % DAYS]}","identifiers":[{numbers}],"name":"{self._region.name(k)}",'
                    f'"sex":"{"FM"[k % 2]}"}},"study_date":"{day}","study_instance_uid":"{uid}"}}'.encode()
                ).digest()
                bucket = sha256(uid.encode()).digest()[0]
                held = self._buckets[place][bucket]
                held[0] += 1
                held[1] ^= int.from_bytes(digest)
                yield (
                    f"{uid}\t{hospitals[place]}\t{self._chart(k, chart) if chart else k + 1}\t{bucket:02x}\t{accession}"
                    f"\t{day}\t{written[kind]}\t\\\\x{digest.hex()}\n"
                )

    def _digests(self) -> Iterator[str]:
        for hospital, buckets in zip(self._region.hospitals, self._buckets, strict=True):
            for number, (count, digest) in enumerate(buckets):
                if count:
                    yield f"{hospital}\t{number:02x}\t{count}\t{digest:064x}\n"

    def _consents(self) -> Iterator[str]:
        before, after = canonical_json(_consent("%")).decode().split("%")
        recorded = int(time.time())
        for k in filter(self._region.consents, range(self._region.patients)):
            text = f"{before}{self._national(k)}{after}"
            by = self._region.hospitals[self._place(k, 0)]
            yield (
                f"{self._region.consent_id(k)}\t1\tactive\t{NATIONAL_ISSUER}\t{self._national(k)}\tt\t{text}\t{recorded}"
                f"\tstaff\t{by}\n"
            )

    def _changes(self) -> Iterator[str]:
        for k in filter(self._region.consents, range(self._region.patients)):
            yield f"{NATIONAL_ISSUER}\t{self._national(k)}\t{k + 1}\n"
            for place in self._region.places(k):
                number = self._region.number(k, place)
                yield f"{number.issuer}\t{number.value}\t{k + 1}\n"
