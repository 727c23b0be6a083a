"""Unusual patterns of access: found at their threshold, not below; of people; nights in the hospital's time."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from usmed.domain.audit_patterns import SHOWN_RECORDS, Access, Pattern, Rules, find_patterns, is_within

NOON = datetime(2026, 7, 1, 9, tzinfo=UTC)
BUCHAREST = ZoneInfo("Europe/Bucharest")
QUIET = Rules(many_patients=0, out_of_hours=0)


def accesses(*minutes: float, agent: str = "ionescu", same: bool = False, start: datetime = NOON) -> list[Access]:
    return [
        Access(number + 1, start + timedelta(minutes=minute), agent, "BACAU:1" if same else f"BACAU:{number}")
        for number, minute in enumerate(minutes)
    ]


def test_many_patients_within_an_hour_are_found_and_as_many_over_a_day_are_not() -> None:
    rules = Rules(many_patients=5, out_of_hours=0)
    assert find_patterns(accesses(0, 10, 20, 30), rules) == []
    assert find_patterns(accesses(0, 20, 40, 50, 61), rules) == []
    (found,) = find_patterns(accesses(0, 20, 40, 50, 60), rules)
    assert (found.pattern, found.agent, found.patients, found.records) == (Pattern.MANY_PATIENTS, "ionescu", 5, 5)
    assert (found.first, found.last) == (NOON, NOON + timedelta(hours=1))
    assert found.sequences == (1, 2, 3, 4, 5)


def test_the_same_patient_often_is_one_patient() -> None:
    assert find_patterns(accesses(*range(50), same=True), Rules(many_patients=5)) == []


def test_a_long_run_is_one_finding_and_a_second_one_another() -> None:
    rules = Rules(many_patients=3, window=timedelta(minutes=10), out_of_hours=0)
    found = find_patterns(accesses(0, 4, 8, 12, 16, 300, 301, 302), rules)
    assert [(one.sequences, one.patients) for one in found] == [((6, 7, 8), 3), ((1, 2, 3, 4, 5), 5)]


def test_order_does_not_matter_and_each_person_counts_alone() -> None:
    rules = Rules(many_patients=4, out_of_hours=0)
    mixed = [*accesses(0, 1, 2), *accesses(0, 1, 2, agent="popa")]
    assert find_patterns(mixed, rules) == []
    assert len(find_patterns(list(reversed(accesses(0, 1, 2, 3))), rules)) == 1


def test_systems_look_up_as_many_as_they_like() -> None:
    rules = Rules(many_patients=3, out_of_hours=1, systems=frozenset({"WORKLIST"}))
    assert find_patterns(accesses(0, 1, 2, 3, agent="WORKLIST", start=NOON - timedelta(hours=8)), rules) == []


def test_every_access_to_a_watched_patient_is_shown_by_person() -> None:
    rules = Rules(0, watched=frozenset({"BACAU:1"}), out_of_hours=0, systems=frozenset({"WORKLIST"}))
    seen = [*accesses(0, 5, 9), *accesses(1, agent="WORKLIST", same=True)]
    found = find_patterns(seen, rules)
    assert {(one.agent, one.patient, one.sequences) for one in found} == {
        ("ionescu", "BACAU:1", (2,)),
        ("WORKLIST", "BACAU:1", (1,)),
    }


def test_nights_are_those_of_the_hospital_and_go_over_midnight() -> None:
    rules = Rules(0, opens=time(7), closes=time(20), out_of_hours=3, zone=BUCHAREST)
    # In summer 20:00 in Bucharest is 17:00 UTC.
    evening = datetime(2026, 7, 1, 16, 59, tzinfo=UTC)
    assert find_patterns(accesses(0, 1, 2, start=evening), rules) == []
    (found,) = find_patterns(accesses(0, 1, 60 * 4, 60 * 10, start=evening), rules)
    assert (found.pattern, found.patients) == (Pattern.OUT_OF_HOURS, 3)
    # Two on one night and two on the next are not three on one.
    assert find_patterns(accesses(1, 2, 60 * 24, 60 * 24 + 1, start=evening), rules) == []


def test_hours_may_go_over_midnight_and_a_hospital_may_never_close() -> None:
    assert is_within(time(23), time(20), time(6))
    assert not is_within(time(6), time(20), time(6))
    rules = Rules(0, opens=time(0), closes=time(0), out_of_hours=1)
    assert find_patterns(accesses(0, 1), rules) == []


def test_rules_can_be_switched_off_and_a_finding_names_a_bounded_number_of_records() -> None:
    assert find_patterns(accesses(*range(50), start=NOON - timedelta(hours=8)), QUIET) == []
    (found,) = find_patterns(accesses(*([1] * 300)), Rules(many_patients=2, out_of_hours=0))
    assert (len(found.sequences), found.records, found.patients) == (SHOWN_RECORDS, 300, 300)
