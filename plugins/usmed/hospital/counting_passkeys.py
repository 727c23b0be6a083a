"""Which passkeys count for a patient now: what to revoke when a phone is lost."""

from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime

from usmed.domain.enrolment import Enrolment, held_enrolment, linked, read_enrolment, valid_credentials
from usmed.domain.errors import PeerDataError, RefusedError, UsmedError
from usmed.domain.identifiers import PatientIdentifier
from usmed.domain.region import RegionManifest
from usmed.domain.ticket import MAXIMUM_IDENTIFIERS
from usmed.hospital.enrolment_store import EnrolmentStore
from usmed.hospital.identities import Poster

HELD_PATH = "/v1/records/for"
DEADLINE_S = 5.0
MOST_PASSKEYS = 500
"""Of one patient, at once."""


@dataclass(frozen=True, slots=True)
class Counting:
    """Passkeys that count for a patient, by their ids, and all numbers that any of them is known to stand for."""

    passkeys: frozenset[bytes]
    numbers: frozenset[PatientIdentifier]


class CountingPasskeys:
    """Asks the key servers, and this hospital's own enrolments."""

    def __init__(
        self,
        region: Callable[[], RegionManifest],
        store: EnrolmentStore,
        client: Poster,
        clock: Callable[[], datetime],
    ) -> None:
        self._region = region
        self._store = store
        self._client = client
        self._clock = clock

    def of(self, numbers: Collection[PatientIdentifier], others: Collection[PatientIdentifier] = ()) -> Counting:
        """Return the passkeys that count for whoever has one of these numbers: as the key servers know, who have every
        hospital's enrolments, and this hospital itself.

        Args:
            numbers: the patient's.
            others: numbers that may be the patient's: passkeys of theirs are not meant, but the same ones may stand
                for these.

        Raises:
            RefusedError: too few key servers answer to be sure; or there are more than can be.
        """
        asked = [*sorted(numbers), *sorted(set(others) - set(numbers))][:MAXIMUM_IDENTIFIERS]
        held: dict[str, Enrolment] = {}
        problems = []
        region = self._region()
        servers = sorted(region.key_servers)
        with ThreadPoolExecutor(max_workers=len(servers), thread_name_prefix="passkeys") as pool:
            for answer in [pool.submit(self._held_at, one, asked) for one in servers]:
                try:
                    held |= answer.result()
                except UsmedError as error:
                    problems.append(str(error))
        # By a passkey that fewer than k key servers hold nothing is permitted; one of any n - k + 1 holds each other.
        needed = len(servers) - region.threshold + 1
        if len(servers) - len(problems) < needed:
            raise RefusedError(
                "too-few-key-servers",
                f"not enough key servers answer to know which passkeys the patient has, {needed} have to: try again"
                f" ({'; '.join(problems)})",
            )
        # As key servers read them: what another number of the same person brings counts for this one.
        person = frozenset[PatientIdentifier]().union(*(linked(one, held.values()) for one in numbers))
        of_person = [one for one in held.values() if one.patient & person]
        revoked = {id for one in of_person for id in one.revoked}
        signed_here = {one.credential.id for one in self._store.enrolled(person) if one.credential is not None}
        counting = {one.id for one in valid_credentials(of_person, self._clock())} | signed_here - revoked
        if len(counting) > MOST_PASSKEYS:
            raise RefusedError("too-many-passkeys", f"more than {MOST_PASSKEYS} passkeys count for this patient")
        enrolled = [one.patient for one in held.values() if any(each.id in counting for each in one.credentials)]
        here = [one.numbers for one in self._store.enrolled(asked) if one.credential and one.credential.id in counting]
        return Counting(frozenset(counting), frozenset(numbers).union(*enrolled, *here))

    def _held_at(self, server: str, numbers: Collection[PatientIdentifier]) -> dict[str, Enrolment]:
        """Return, by token, what a key server holds of these numbers.

        Passkeys as it reads them itself, without the signatures: it has checked them when they came, and what a
        hospital signed whose key changed, or that left, still counts there. One that is not true is revoked for
        nothing. A revocation that is not true would let a lost phone count: it needs a signature that holds.

        Raises:
            PeerDataError: its answer is malformed.
        """
        wanted = [{"issuer": one.issuer, "value": one.value} for one in sorted(numbers)]
        answer = self._client.post(server, HELD_PATH, {"identifiers": wanted}, deadline_s=DEADLINE_S)
        try:
            return {one["token"]: self._read(one["token"], one["hospital"]) for one in answer["enrolments"]}
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, PeerDataError) as error:
            raise PeerDataError(f"{server} gave a malformed answer") from error

    def _read(self, token: str, hospital: str) -> Enrolment:
        enrolment = held_enrolment(token, hospital)
        if not enrolment.revoked:
            return enrolment
        try:
            return read_enrolment(token, hospital=hospital, keys=self._region().hospital_key, now=self._clock())
        except PeerDataError:
            return replace(enrolment, revoked=frozenset())
