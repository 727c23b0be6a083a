"""What a consent says, in plain words: all of it. Two consents that decide differently never read the same."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import tzinfo

from usmed.domain.consent import Consent, Provision, ProvisionType, Purpose
from usmed.domain.study_kinds import sorted_into_kinds
from usmed.hub.portal.words import day_text, end_text, listed, moment_text, say

PURPOSES = {
    Purpose.TREAT: "purpose-treat",
    Purpose.ETREAT: "purpose-emergency",
    Purpose.HRESCH: "purpose-research",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One particular: `Until` and `the end of 5 March 2027`."""

    label: str
    text: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a consent: a sentence that says the gist of it, and every particular."""

    permits: bool
    headline: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Description:
    """A consent in words.

    Attributes:
        rules: permits and denials; a denial always wins.
        period: from when and until when it holds.
        notes: what else has to be said, such as that it was withdrawn.
    """

    rules: tuple[Rule, ...]
    period: tuple[Line, ...]
    notes: tuple[str, ...]

    @property
    def headline(self) -> str:
        """Return the gist of all rules."""
        return ". ".join(one.headline for one in self.rules) or " ".join(self.notes)

    @property
    def sentences(self) -> list[str]:
        """Return everything, one thing after the other."""
        found = list(self.notes)
        for rule in self.rules:
            found += [f"{rule.headline}.", *(f"{line.label}: {line.text}." for line in rule.lines)]
        return [*found, *(f"{line.label}: {line.text}." for line in self.period)]


def describe(
    consent: Consent,
    language: str,
    names: Mapping[str, str],
    zone: tzinfo,
    studies: Mapping[str, str] | None = None,
) -> Description:
    """Say what a consent says.

    Args:
        consent: any that the profile allows, whoever wrote it.
        language: one of `words.LANGUAGES`.
        names: of hospitals, by id. One that is missing is said to be unknown, with its id.
        zone: the patient's clock.
        studies: by Study Instance UID, what a person calls a study.
    """
    words = _Words(language, names, zone, studies or {})
    notes = [] if consent.active else [say(language, "was-withdrawn")]
    if not consent.provisions:
        notes.append(say(language, "nothing-said"))
    return Description(tuple(map(words.rule, consent.provisions)), tuple(words.period(consent)), tuple(notes))


@dataclass(frozen=True, slots=True)
class _Words:
    language: str
    names: Mapping[str, str]
    zone: tzinfo
    studies: Mapping[str, str]

    def rule(self, rule: Provision) -> Rule:
        permits = rule.type is ProvisionType.PERMIT
        lines = [
            self._line("label-who-may" if permits else "label-who-may-not", self._who(rule)),
            self._line("label-purpose", self._purposes(rule)),
            self._line("label-sources", self._hospitals(rule.sources, "sources-any")),
            self._line("label-kinds", self._kinds(rule)),
            self._line("label-dates", self._dates(rule)),
        ]
        if rule.studies:
            lines.append(self._line("label-studies", self._list(sorted(rule.studies), self._study)))
        return Rule(permits, self._headline(rule, permits), tuple(lines))

    def period(self, consent: Consent) -> Iterable[Line]:
        if consent.valid_from is not None:
            yield self._line("label-from", moment_text(self.language, consent.valid_from, self.zone))
        end = consent.valid_until
        yield self._line("label-until", end_text(self.language, end, self.zone) if end else self._say("no-end"))

    def _headline(self, rule: Provision, permits: bool) -> str:
        limited = bool(rule.sources or rule.modalities or rule.studies or rule.study_date_from or rule.study_date_to)
        names = sorted(map(self._hospital, rule.recipients))
        gist = "may-see" if permits else "may-not-see"
        number = "any" if not names else "one" if len(names) == 1 else "several"
        return self._say(
            f"{gist}-{number}",
            who=_capital(listed(self.language, names)) if names else "",
            what=self._say("some-images" if limited else "my-images"),
            when=self._when(rule, permits),
        )

    def _when(self, rule: Provision, permits: bool) -> str:
        """Return what a headline says of the purposes; nothing for a permit that is for care."""
        if rule.purposes == {Purpose.ETREAT}:
            return self._say("when-emergency")
        if not permits and rule.purposes == {Purpose.TREAT, Purpose.HRESCH}:
            return self._say("when-except")
        # Without a purpose every purpose is meant, emergencies too (FHIR R4 Consent.provision.purpose).
        if not permits and (not rule.purposes or rule.purposes >= {Purpose.TREAT, Purpose.ETREAT}):
            return self._say("when-not-even")
        if permits and rule.purposes == {Purpose.TREAT}:
            return ""
        return self._say("when-for", purposes=self._purposes(rule))

    def _who(self, rule: Provision) -> str:
        return self._hospitals(rule.recipients, "any-hospital")

    def _hospitals(self, ids: frozenset[str], otherwise: str) -> str:
        return self._list(sorted(ids), self._hospital) if ids else self._say(otherwise)

    def _hospital(self, id: str) -> str:
        return self.names[id] if id in self.names else self._say("unknown-hospital", id=id)

    def _purposes(self, rule: Provision) -> str:
        if not rule.purposes:
            return self._say("purpose-any")
        return self._list([one for one in Purpose if one in rule.purposes], self._purpose)

    def _purpose(self, one: Purpose) -> str:
        return self._say(PURPOSES[one]) if one in PURPOSES else self._say("purpose-unknown", code=one.value)

    def _kinds(self, rule: Provision) -> str:
        if not rule.modalities:
            return self._say("kinds-any")
        kinds = sorted_into_kinds(rule.modalities)
        return self._list(kinds, lambda name: self._say(name, codes=", ".join(kinds[name])))

    def _dates(self, rule: Provision) -> str:
        first = day_text(self.language, rule.study_date_from) if rule.study_date_from else ""
        last = day_text(self.language, rule.study_date_to) if rule.study_date_to else ""
        if first and last:
            return self._say("dates-between", first=first, last=last)
        if first:
            return self._say("dates-since", first=first)
        return self._say("dates-before", last=last) if last else self._say("dates-any")

    def _study(self, uid: str) -> str:
        if uid in self.studies:
            return self._say("study-known", study=self.studies[uid], uid=uid)
        return self._say("study-unknown", uid=uid)

    def _line(self, label: str, text: str) -> Line:
        return Line(self._say(label), text)

    def _list[T](self, items: Iterable[T], write: Callable[[T], str]) -> str:
        return listed(self.language, [write(one) for one in items])

    def _say(self, name: str, **values: object) -> str:
        return say(self.language, name, **values)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
