"""What the hub refuses: with a plain message, an audit record, no change, and it goes on serving."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from joserfc.jwk import OKPKey

from contract.hub_region import CNP, LIMIT_BYTES, REMOTE_ADDRESS, Region, study
from usmed.domain.canonical import canonical_json

FEED = "/v1/studies/feed"
BODY = canonical_json({"upsert": [study("1.1", ("SF-SPIRIDON", "7"))]})


@pytest.fixture
def unchanged(region: Region) -> Iterator[Region]:
    """Check that what a test sent was refused on record, changed nothing, and did not stop the hub."""
    yield region
    with region.database.read() as connection:
        for table in ("study", "chart", "consent"):
            assert connection.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar_one() == 0
    refusals = [one for one in region.audit.tail() if one["event"] == "refused"]
    assert refusals
    assert all(one["outcome"] == "denied" and one["agent"] and one["reason"] for one in refusals)
    region.feed("iasi", study("1.1", ("SF-SPIRIDON", "7")))
    assert region.audit.verify().unbroken


def refused(region: Region, authorization: str | None, body: bytes = BODY, path: str = FEED) -> Any:
    headers = {"Authorization": authorization} if authorization is not None else {}
    return region.raw(path, body, headers)


def test_unsigned_and_nonsense_signatures(unchanged: Region) -> None:
    for authorization in (None, "", "USMED", "USMED x.y.z", "Bearer abc", "USMED " + "A" * 20000):
        answer = refused(unchanged, authorization)
        assert answer.status_code == 401
        assert answer.json["error"] == "unsigned"
        assert answer.json["message"]


def test_a_replay(unchanged: Region) -> None:
    authorization = unchanged.authorization("iasi", "/v1/consents/changes", b'{"since":0}')
    first = refused(unchanged, authorization, b'{"since":0}', "/v1/consents/changes")
    again = refused(unchanged, authorization, b'{"since":0}', "/v1/consents/changes")
    assert (first.status_code, again.status_code) == (200, 401)
    assert again.json["error"] == "replayed"


@pytest.mark.parametrize("off", [timedelta(minutes=10), timedelta(minutes=-10), timedelta(seconds=62)])
def test_a_clock_that_is_off(unchanged: Region, off: timedelta) -> None:
    answer = refused(unchanged, unchanged.authorization("iasi", FEED, BODY, now=unchanged.clock() + off))
    assert answer.status_code == 401
    assert "check both clocks" in answer.json["message"]


def test_foreign_and_mismatched_signatures(unchanged: Region) -> None:
    stranger = OKPKey.generate_key("Ed25519", private=True)
    for authorization in (
        unchanged.authorization("iasi", FEED, BODY, key=stranger),
        unchanged.authorization("iasi", FEED, BODY, key=unchanged.keys["bacau"]),
        unchanged.authorization("iasi", FEED, BODY, sender="nobody"),
        unchanged.authorization("iasi", FEED, BODY, receiver="bacau"),
        unchanged.authorization("iasi", FEED, BODY, target="/v1/studies/digest"),
        unchanged.authorization("iasi", FEED, BODY, target=FEED + "?x=1"),
        unchanged.authorization("iasi", FEED, BODY, method="GET"),
        unchanged.authorization("iasi", FEED, BODY + b" "),
    ):
        assert refused(unchanged, authorization).status_code == 401


def test_a_body_over_the_limit(unchanged: Region) -> None:
    body = b" " * (LIMIT_BYTES + 1)
    answer = refused(unchanged, unchanged.authorization("iasi", FEED, body), body)
    assert answer.status_code == 413
    assert str(LIMIT_BYTES) in answer.json["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"upsert": NaN}',
        b'{"upsert": [], "upsert": []}',
        b"\xff\xfe",
        b"[" * 5000 + b"]" * 5000,
        b'{"upsert": ' + b"[" * 40 + b"]" * 40 + b"}",
        b'{"upsert": {}}',
        b'{"upsert": [1]}',
        b'{"delete": ["x"]}',
        b'{"delete": [1]}',
        b'{"upsert": [], "more": 1}',
        b'{"delete": ["\\ud800"]}',
    ],
)
def test_bodies_that_are_not_what_the_operation_takes(unchanged: Region, body: bytes) -> None:
    answer = unchanged.send("iasi", FEED, body)
    assert answer.status_code == 400
    assert answer.json is not None
    assert answer.json["error"] == "bad-request"


@pytest.mark.parametrize(
    "question",
    [
        {"purpose": "TREAT"},
        {"identifier": {"issuer": "A", "value": "1"}},
        {"identifier": {"issuer": "A", "value": "1"}, "purpose": "CURIOSITY"},
        {"identifier": {"issuer": "A"}, "purpose": "TREAT"},
        {"identifier": {"issuer": "A", "value": "  "}, "purpose": "TREAT"},
        {"identifier": {"issuer": "A", "value": "a\\b"}, "purpose": "TREAT"},
        {"identifier": {"issuer": "A", "value": "a\x00"}, "purpose": "TREAT"},
        {"identifier": {"issuer": "A", "value": 1}, "purpose": "TREAT"},
        {"identifier": {"issuer": "A", "value": "1"}, "accession_number": "1", "purpose": "TREAT"},
        {"study_instance_uid": "", "purpose": "TREAT"},
        {"study_instance_uid": "1.2*", "purpose": "TREAT"},
        {"accession_number": "", "purpose": "TREAT"},
        {"accession_number": "   ", "purpose": "TREAT"},
    ],
)
def test_questions_that_are_none(unchanged: Region, question: dict[str, Any]) -> None:
    answer = unchanged.send("bacau", "/v1/resolve", canonical_json(question))
    assert answer.status_code == 400


def test_half_a_character_is_refused_before_it_meets_the_database(unchanged: Region) -> None:
    answer = unchanged.send("bacau", "/v1/resolve", b'{"accession_number": "\\ud800", "purpose": "TREAT"}')
    assert answer.status_code == 400
    assert answer.json is not None
    assert "half a character" in answer.json["message"]


def test_odd_but_valid_questions_find_nobody(region: Region) -> None:
    for number in ("a" * 64, "\U0001f600", "'; DROP TABLE study; --", "a\u0000b".replace("\u0000", "\u2400")):
        assert region.resolve("bacau", "SF-SPIRIDON", number) == {"identifiers": [], "holders": []}
    for accession_number in ("%", "\u0001", "a" * 128):
        question = {"accession_number": accession_number, "purpose": "TREAT"}
        assert region.post("bacau", "/v1/resolve", question) == {"identifiers": [], "holders": []}


def test_all_faults_of_a_body_are_named_at_once(unchanged: Region) -> None:
    wrong = {"identifier": {"issuer": 1}, "purpose": "CURIOSITY"}
    answer = unchanged.send("iasi", "/v1/resolve", canonical_json(wrong))
    assert answer.json is not None
    details = "\n".join(answer.json["details"])
    for path in ("$.identifier.issuer", "$.identifier", "$.purpose"):
        assert path in details


def test_another_content_type_path_method_or_sender(unchanged: Region) -> None:
    authorization = unchanged.authorization("iasi", FEED, BODY)
    here = {"REMOTE_ADDR": REMOTE_ADDRESS}
    signed = {"Authorization": authorization}
    plain = unchanged.client.post(FEED, data=BODY, headers=signed, content_type="text/plain", environ_base=here)
    assert plain.status_code == 415
    assert unchanged.send("iasi", "/v1/nothing", BODY).status_code == 404
    assert unchanged.client.get(FEED, environ_base=here).status_code == 401
    get = {"Authorization": unchanged.authorization("iasi", FEED, b"", method="GET")}
    assert unchanged.client.get(FEED, headers=get, environ_base=here).status_code == 405
    answer = unchanged.send("hub", FEED, BODY)
    assert answer.status_code == 403
    message = "only hospitals of the region are served here"
    assert answer.json == {"error": "forbidden", "message": message, "details": []}


def test_what_needs_no_signature_is_health_and_description(region: Region) -> None:
    assert region.client.get("/health").json["status"] == "ok"  # type: ignore[index]
    assert region.client.get("/v1/openapi.yaml").status_code == 200
    assert region.client.post("/health").status_code == 401


def test_without_its_database_the_hub_says_so_and_recovers(region: Region) -> None:
    with region.database.write() as connection:
        connection.execute(sa.text("ALTER TABLE nonce RENAME TO elsewhere"))
    answer = refused(region, region.authorization("iasi", FEED, BODY))
    assert answer.status_code == 503
    assert answer.json["error"] == "unavailable"
    with region.database.write() as connection:
        connection.execute(sa.text("ALTER TABLE elsewhere RENAME TO nonce"))
        connection.execute(sa.text("ALTER TABLE audit_head RENAME TO elsewhere"))
    # A lookup that cannot be recorded is not answered, a change that cannot be is not made.
    question = canonical_json({"identifier": {"issuer": "RO-CNP", "value": CNP}, "purpose": "TREAT"})
    assert region.send("iasi", "/v1/resolve", question).status_code == 503
    assert region.send("iasi", FEED, BODY).status_code == 503
    assert region.client.get("/health").status_code == 503
    with region.database.write() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM study")).scalar_one() == 0
        connection.execute(sa.text("ALTER TABLE elsewhere RENAME TO audit_head"))
    region.feed("iasi", study("1.1", ("SF-SPIRIDON", "7")))
    assert region.client.get("/health").status_code == 200
