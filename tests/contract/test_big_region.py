"""The region that the bench measures is what the hub itself would have stored, row for row."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta

from support.big_region import STUDIES_EACH, TABLES, BigRegion, generate
from support.postgresql import new_database
from support.signed_region import new_key
from usmed.domain.consent_record import attest, consent_document
from usmed.domain.identifiers import NationalNumber
from usmed.domain.region import Hospital, Member, RegionManifest
from usmed.domain.study_record import StudyRecord, digests
from usmed.hub.locator import Locator
from usmed.hub.registry import Registry
from usmed.hub.tables import CHAIN
from usmed.platform.storage import Database, open_database

NOW = datetime.now(UTC)
BIG = BigRegion(("galati", "iasi", "roman", "vaslui"), 40)
HOSPITALS = {
    one: Hospital(id=one, address="", key=new_key(), tls_certificate="", name=one, issuers=(one.upper(),))
    for one in BIG.hospitals
}
REGION = RegionManifest(
    region="test", name="", version=1, issued=NOW, national_number=NationalNumber("RO-CNP"),
    hub=Member("hub", "", new_key(), ""), hospitals=HOSPITALS, expires=NOW + timedelta(days=1), key_servers={},
    threshold=1,
)  # fmt: skip


def fed(url: str) -> Database:
    """Bring the same region to a hub, study by study and consent by consent."""
    database = open_database(url, [CHAIN])
    locator = Locator(database, lambda: REGION, lambda: NOW)
    for number in range(STUDIES_EACH * BIG.patients):
        hospital, record = BIG.record(number)
        assert locator.feed(HOSPITALS[hospital], [record.to_json()], []).problems == []
    registry = Registry(database, lambda: REGION, lambda: NOW)
    for k in filter(BIG.consents, range(BIG.patients)):
        hospital = BIG.hospitals[BIG.places(k)[0]]
        document = consent_document(BIG.consent(k), id=BIG.consent_id(k), version=1)
        proof = attest(HOSPITALS[hospital].key, document, hospital=hospital, staff=["ionescu", "popa"], now=NOW)
        assert registry.take(hospital, [{"document": document, "proof": proof}]) == []
    return database


def rows(database: Database, table: str) -> list[str]:
    # When a consent was recorded, and the place in the list of changes, are counted differently.
    hidden = {"recorded", "cursor"}
    with database.read() as connection:
        found = connection.exec_driver_sql(f"SELECT * FROM {table}").mappings()
        return sorted(str({name: one[name] for name in one if name not in hidden}) for one in found)


def test_it_is_what_the_hub_would_have_stored(postgresql: str) -> None:
    url = new_database(postgresql)
    open_database(url, [CHAIN]).close()
    generate(url.replace("+psycopg", ""), BIG)
    made, stored = open_database(url, [CHAIN]), fed(new_database(postgresql))
    for table in TABLES:
        assert rows(made, table) == rows(stored, table), table
    assert any(map(BIG.consents, range(BIG.patients)))
    assert not all(map(BIG.national, range(BIG.patients)))

    records: dict[str, list[StudyRecord]] = defaultdict(list)
    for number in range(STUDIES_EACH * BIG.patients):
        hospital, record = BIG.record(number)
        records[hospital].append(record)
    locator = Locator(made, lambda: REGION, lambda: NOW)
    for hospital, one in HOSPITALS.items():
        assert locator.differing_buckets(one, digests(records[hospital])) == []
        assert len(locator.differing_buckets(one, digests(records[hospital][1:]))) == 1
        # It goes on from there: new charts get new numbers, and every index is in use.
        k = BIG.patients + 1
        new = {**records[hospital][0].to_json(), "study_instance_uid": f"1.2.{k}"}
        assert locator.feed(one, [new], []).problems == []
    with made.read() as connection:
        unused = connection.exec_driver_sql("SELECT count(*) FROM pg_index WHERE NOT indisready OR NOT indisvalid")
        assert unused.scalar_one() == 0
    made.close()
    stored.close()
