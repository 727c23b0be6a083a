"""What the hub knows of whoever something names, in one statement: one snapshot, and one round trip."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from usmed.domain.consent import Consent
from usmed.domain.identifiers import PatientIdentifier
from usmed.hub import consents, studies
from usmed.hub.studies import LocatedStudy
from usmed.hub.tables import chart, consent, number, study
from usmed.platform.storage import Database, Statement

_CHART, _CONSENT, _STUDY = range(3)


@dataclass(frozen=True, slots=True)
class Known:
    """All charts of one person, or of several, with the consents and the studies of them all.

    Attributes:
        persons: who they are.
        hospitals: of each chart, by its id.
        numbers: those by which each chart is found, by its id.
        consents: given under any of these numbers, in any order; of each the last version.
        studies: under any of these charts, in any order.
    """

    persons: frozenset[int]
    hospitals: Mapping[int, str]
    numbers: Mapping[int, frozenset[PatientIdentifier]]
    consents: Sequence[Consent]
    studies: Sequence[LocatedStudy]


class Lookup:
    """A lookup of whoever it is that something names.

    Args:
        persons: queries those persons; every value in it is a parameter.
    """

    def __init__(self, persons: sa.Select[Any]) -> None:
        who = persons.cte("who")
        theirs = chart.c.person.in_(sa.select(who.c.person))
        of_chart = number.c.chart == chart.c.id
        given_under = sa.and_(consent.c.issuer == number.c.issuer, consent.c.value == number.c.value)
        charts = _part(_CHART, chart.c.person, chart.c.id, chart.c.hospital, number.c.issuer, number.c.value, sa.null())
        given = _part(_CONSENT, sa.literal_column("0"), consent.c.version, consent.c.id, consent.c.resource)
        held = _part(_STUDY, chart.c.person, study.c.chart, *studies.FACTS)
        self._statement = Statement(
            sa.union_all(
                charts.join_from(chart, number, sa.and_(of_chart, number.c.linked), isouter=True).where(theirs),
                given.distinct()
                .join_from(chart, number, of_chart)
                .join(consent, given_under)
                .where(theirs, number.c.linked, consent.c.current),
                held.join_from(chart, study, study.c.chart == chart.c.id).where(theirs),
            )
        )

    def run(self, database: Database, values: Mapping[str, str]) -> Known:
        """Return what is known; `values` are the parameters.

        Raises:
            StorageError: the database fails.
        """
        persons = set[int]()
        hospitals, numbers = dict[int, str](), dict[int, set[PatientIdentifier]]()
        given, held = list[Consent](), list[LocatedStudy]()
        for what, person, key, *texts in database.query(self._statement, values):
            if what == _CONSENT:
                given.append(consents.to_domain(texts[0], key, texts[1]))
            elif what == _STUDY:
                held.append(LocatedStudy(key, studies.facts(*texts)))
            else:
                persons.add(person)
                hospitals[key] = texts[0]
                of_this = numbers.setdefault(key, set())
                # The outer join leaves a chart that is found by none of its numbers one row.
                if texts[1] is not None:
                    of_this.add(PatientIdentifier(texts[1], texts[2]))
        frozen = {key: frozenset(one) for key, one in numbers.items()}
        return Known(frozenset(persons), hospitals, frozen, given, held)


def _part(what: int, person: Any, key: Any, *texts: Any) -> sa.Select[Any]:
    """Select what all parts have: what it is, a person, a chart or a version, and four texts."""
    return sa.select(sa.literal_column(str(what)), person, key, *texts, *[sa.null()] * (4 - len(texts)))
