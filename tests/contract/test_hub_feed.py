"""Announcing studies: what is taken, what is a problem, and how a lost message heals."""

import threading
from typing import Any

from contract.hub_region import CNP, Region, study
from usmed.domain.study_record import bucket_of, digests, parse_study_record
from usmed.hub import charts
from usmed.hub.tables import changing


def digest(region: Region, hospital: str, records: list[dict[str, Any]]) -> list[str]:
    buckets = digests(parse_study_record(one) for one in records)
    differ: list[str] = region.post(hospital, "/v1/studies/digest", {"buckets": buckets})["differ"]
    return differ


def holders(region: Region, asking: str = "bacau") -> dict[str, int]:
    answer = region.resolve(asking, "RO-CNP", CNP)
    return {one["hospital"]: one["studies"] for one in answer["holders"]}


def test_a_record_that_is_wrong_does_not_hold_up_the_others(region: Region) -> None:
    wrong: list[Any] = [
        study("1.x", ("SF-SPIRIDON", "7")),
        study("1.3", ("SUCEAVA", "7")),
        study("1.4", ("UNKNOWN", "7")),
        study("1.5"),
        {"study_instance_uid": "1.6"},
        {**study("1.7", ("SF-SPIRIDON", "7")), "more": 1},
        study("1.8", ("SF-SPIRIDON", "\\")),
        study("1.9", ("SF-SPIRIDON", "7"), birth_date="1963"),
        study("1.1", ("SF-SPIRIDON", "7")),
    ]
    answer = region.post("iasi", "/v1/studies/feed", {"upsert": [study("1.1", ("SF-SPIRIDON", "7")), *wrong]})
    assert answer["accepted"] == 1
    assert [one["study_instance_uid"] for one in answer["problems"]] == [
        *("1.x", "1.3", "1.4", "1.5", "1.6", "1.7", "1.8", "1.9", "1.1")
    ]
    assert "not a UID" in answer["problems"][0]["reason"]
    assert "issuer that this hospital may feed" in answer["problems"][1]["reason"]
    assert "twice" in answer["problems"][-1]["reason"]
    (event,) = [one for one in region.audit.tail() if one["event"] == "feed"]
    assert event["outcome"] == "partial"
    assert event["detail"] == {"accepted": 1, "problems": 9, "deleted": 0}


def test_numbers_of_other_issuers_are_kept_but_link_nothing(region: Region) -> None:
    record = study("1.1", ("SF-SPIRIDON", "7"), ("SUCEAVA", "3"), ("LABOR", "5"))
    region.feed("iasi", record)
    assert digest(region, "iasi", [record]) == []
    region.permit("SF-SPIRIDON", "7")
    assert region.resolve("bacau", "SUCEAVA", "3")["holders"] == []
    assert region.resolve("bacau", "SF-SPIRIDON", "7")["identifiers"] == [{"issuer": "SF-SPIRIDON", "value": "7"}]


def test_the_digest_agrees_in_any_order_of_writing(region: Region) -> None:
    records = [study(f"1.{n}", ("SF-SPIRIDON", f"{n % 7} ")) for n in range(60)]
    region.feed("iasi", *records)
    assert digest(region, "iasi", records) == []
    assert digest(region, "iasi", list(reversed(records))) == []
    assert digest(region, "bacau", []) == []


def test_a_lost_announcement_heals(region: Region) -> None:
    region.permit("RO-CNP", CNP)
    lost = study("1.2", ("SF-SPIRIDON", "7"), ("RO-CNP", CNP))
    there = [study("1.1", ("SF-SPIRIDON", "7"), ("RO-CNP", CNP)), lost]
    region.feed("iasi", there[0])
    assert holders(region) == {"iasi": 1}
    (bucket,) = digest(region, "iasi", there)
    assert bucket == bucket_of("1.2")
    answer = region.post("iasi", "/v1/studies/replace", {"bucket": bucket, "records": [lost]})
    assert answer == {"accepted": 1, "problems": []}
    assert holders(region) == {"iasi": 2}
    assert digest(region, "iasi", there) == []


def test_a_lost_deletion_and_a_lost_change_heal(region: Region) -> None:
    region.permit("RO-CNP", CNP)
    records = [study(f"1.{n}", ("SF-SPIRIDON", "7"), ("RO-CNP", CNP)) for n in range(40)]
    region.feed("iasi", *records)
    changed = {**records[3], "accession_number": "A9"}
    there = [changed, *records[10:]]
    for bucket in digest(region, "iasi", there):
        kept = [one for one in there if bucket_of(one["study_instance_uid"]) == bucket]
        region.post("iasi", "/v1/studies/replace", {"bucket": bucket, "records": kept})
    assert digest(region, "iasi", there) == []
    assert holders(region) == {"iasi": 31}
    found = region.post("bacau", "/v1/resolve", {"accession_number": "A9", "purpose": "TREAT"})
    assert found["holders"] == [{"hospital": "iasi", "studies": 31}]


def test_replacing_touches_one_bucket_of_one_hospital(region: Region) -> None:
    region.permit("RO-CNP", CNP)
    region.feed("iasi", study("1.1", ("RO-CNP", CNP)), study("1.2", ("RO-CNP", CNP)))
    region.feed("suceava", study("1.1", ("RO-CNP", CNP)))
    bucket = bucket_of("1.1")
    stranger = study("1.3", ("RO-CNP", CNP))
    assert bucket_of("1.3") != bucket
    answer = region.post("iasi", "/v1/studies/replace", {"bucket": bucket, "records": [stranger]})
    assert answer["accepted"] == 0
    assert answer["problems"] == [{"study_instance_uid": "1.3", "reason": f"does not belong to bucket {bucket}"}]
    assert holders(region) == {"iasi": 1, "suceava": 1}


def test_a_hospital_deletes_only_its_own(region: Region) -> None:
    region.permit("RO-CNP", CNP)
    region.feed("iasi", study("1.1", ("RO-CNP", CNP)))
    region.post("suceava", "/v1/studies/feed", {"delete": ["1.1", "1.2"]})
    assert holders(region) == {"iasi": 1}
    region.post("iasi", "/v1/studies/feed", {"delete": ["1.1"]})
    assert holders(region) == {}


def test_a_corrected_patient_leaves_nothing_behind(region: Region) -> None:
    region.permit("RO-CNP", CNP)
    region.feed("iasi", study("1.1", ("SF-SPIRIDON", "7"), ("RO-CNP", CNP)))
    region.feed("suceava", study("3.1", ("SUCEAVA", "3"), ("RO-CNP", CNP)))
    assert holders(region) == {"iasi": 1, "suceava": 1}
    # The number was typed into the wrong patient's study.
    region.feed("iasi", study("1.1", ("SF-SPIRIDON", "7")))
    assert holders(region) == {"suceava": 1}
    assert region.resolve("bacau", "SF-SPIRIDON", "7")["holders"] == []
    with region.database.read() as connection:
        assert len(charts.connected(connection, [])) == 0
        stored = connection.exec_driver_sql("SELECT count(*) FROM chart").scalar_one()
    assert stored == 2


def names(region: Region) -> list[str]:
    with region.database.read() as connection:
        return list(connection.exec_driver_sql("SELECT name FROM chart ORDER BY id").scalars())


def test_the_name_that_was_told_last_is_kept_and_names_no_other_chart(region: Region) -> None:
    first = study("1.1", ("SF-SPIRIDON", "7"), name="Ştefănescu^Ion=森^太郎")
    region.feed("iasi", first, study("1.2", ("SF-SPIRIDON", "7"), name="Stefanescu^Ion"))
    assert names(region) == ["Stefanescu^Ion"]
    region.feed("iasi", first)
    region.feed("iasi", study("1.3", ("SF-SPIRIDON", "7")))
    assert names(region) == ["Ştefănescu^Ion=森^太郎"]
    # The hub keeps the study under the name that it was told with: another one is another record.
    assert digest(region, "iasi", [first]) != []
    assert digest(region, "iasi", [{**first, "patient": {**first["patient"], "name": ""}}]) != []
    assert not [one for one in region.audit.tail() if "tef" in str(one)]


def test_contradictions_are_listed_until_they_are_gone(region: Region) -> None:
    region.feed("iasi", study("1.1", ("SF-SPIRIDON", "7"), ("RO-CNP", CNP)))
    region.feed("suceava", study("3.1", ("SUCEAVA", "3"), ("RO-CNP", CNP), sex="F"))
    first = region.clock()
    region.clock.advance(60)
    region.feed("suceava", study("3.2", ("SUCEAVA", "3"), ("RO-CNP", CNP), sex="F"))
    region.feed("bacau", study("2.1", ("BACAU", "9"), ("RO-CNP", CNP)))
    with region.database.read() as connection:
        (one,) = charts.contradictions(connection)
    assert (str(one.identifier), one.chart.hospital, one.chart.sex) == (f"RO-CNP:{CNP}", "suceava", "F")
    assert one.found == int(first.timestamp())
    (event,) = [one for one in region.audit.tail() if one["event"] == "identity"]
    assert event["patient"] == f"RO-CNP:{CNP}"
    region.post("suceava", "/v1/studies/feed", {"delete": ["3.1", "3.2"]})
    with region.database.read() as connection:
        assert charts.contradictions(connection) == []


def test_hospitals_that_feed_at_once_are_linked_all_the_same(region: Region) -> None:
    region.permit("RO-CNP", CNP)
    failures: list[BaseException] = []

    def feed(hospital: str, issuer: str) -> None:
        try:
            for n in range(10):
                region.feed(hospital, study(f"{ord(hospital[0])}.{n}", (issuer, str(n)), ("RO-CNP", CNP)))
        except BaseException as error:
            failures.append(error)
            raise

    threads = [
        threading.Thread(target=feed, args=one)
        for one in (("iasi", "SF-SPIRIDON"), ("suceava", "SUCEAVA"), ("bacau", "BACAU"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert holders(region) == {"iasi": 10, "suceava": 10}
    assert holders(region, "iasi") == {"bacau": 10, "suceava": 10}
    assert region.audit.verify().unbroken


def test_one_change_of_the_index_waits_for_another(region: Region) -> None:
    # Two that link the same charts side by side would each miss what the other adds.
    record = study("1.1", ("SF-SPIRIDON", "7"))
    thread = threading.Thread(target=region.feed, args=("iasi", record))
    with changing(region.database):
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()
    thread.join(20)
    assert not thread.is_alive()
    assert digest(region, "iasi", [record]) == []


def test_a_large_announcement_goes_through_in_one(region: Region) -> None:
    records = [study(f"1.{n}", ("SF-SPIRIDON", str(n % 400))) for n in range(1500)]
    region.feed("iasi", *records)
    assert digest(region, "iasi", records) == []
    region.permit("SF-SPIRIDON", "7")
    assert region.resolve("bacau", "SF-SPIRIDON", "7")["holders"] == [{"hospital": "iasi", "studies": 4}]


def test_replacing_writes_only_what_differs(region: Region) -> None:
    records = [one for one in (study(f"1.{n}", ("SF-SPIRIDON", f"{n}")) for n in range(2000)) if bucket(one) == "3a"]
    assert len(records) > 3
    region.feed("iasi", *records[:-1])
    with region.database.read() as connection:
        before = connection.exec_driver_sql("SELECT max(id) FROM chart").scalar_one()
    changed = {**records[0], "accession_number": "A9"}
    answer = region.post("iasi", "/v1/studies/replace", {"bucket": "3a", "records": [changed, *records[1:]]})
    assert answer == {"accepted": len(records), "problems": []}
    assert digest(region, "iasi", [changed, *records[1:]]) == []
    with region.database.read() as connection:
        assert connection.exec_driver_sql("SELECT max(id) FROM chart").scalar_one() == before + 1
        assert connection.exec_driver_sql("SELECT sum(studies) FROM bucket").scalar_one() == len(records)


def bucket(record: dict[str, Any]) -> str:
    return bucket_of(record["study_instance_uid"])
