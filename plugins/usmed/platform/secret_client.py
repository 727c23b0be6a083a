"""Puts secrets of 32 bytes into the region's key servers, and gets them back: what every actor that has any uses.

The secret is split here and put together here; no key server ever sees more than its own share. What servers answer
is believed if k of them say the same, or its owner signed it; a share, if it is the one that was committed to.
"""

import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from Cryptodome.Protocol.SecretSharing import Shamir

from usmed.domain.approval import LONGEST_LIFE, Kind
from usmed.domain.canonical import canonical_json
from usmed.domain.errors import ConfigurationError, PeerDataError, RefusedError, UsmedError
from usmed.domain.quorum import Signature, assemble, read_signature, sign, verify_quorum
from usmed.domain.region import RegionManifest
from usmed.domain.secret_sharing import (
    BLOCK_BYTES,
    SALT_BYTES,
    SECRET_BYTES,
    Combined,
    Release,
    SecretRecord,
    Share,
    SharesMissingError,
    combine,
    commitment,
    enough_to_drop,
    join_blocks,
    parse_secret,
    read_share,
    read_unverified,
    receipt_document,
    share_document,
)
from usmed.domain.secret_sharing import LIMIT_BYTES as RECORD_BYTES
from usmed.platform.approval_client import ApprovalClient, Standing
from usmed.platform.key_servers import KeyServers
from usmed.platform.sealing import new_receiver, read_announcement, seal, unseal
from usmed.platform.signed_http import Identity, Post


class Level(StrEnum):
    """How safe a secret is."""

    WHOLE = "whole"
    WARNING = "warning"  # fewer shares than servers
    CRITICAL = "critical"  # one more lost, and the secret is
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Stored:
    """A secret that was put: which servers hold their share, and why the others do not."""

    record: SecretRecord
    receipts: tuple[Signature, ...]
    failed: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SecretHealth:
    """How many shares of a secret there are.

    Attributes:
        version: the one that most servers hold.
        live: how many current key servers can give their share of it.
        threshold: how many are needed.
        servers: how many there should be.
        missing: current key servers that cannot give theirs, those that did not answer included.
    """

    id: str
    version: int
    live: int
    threshold: int
    servers: int
    missing: tuple[str, ...]

    @property
    def level(self) -> Level:
        """Return how safe it is."""
        if self.live < self.threshold:
            return Level.LOST
        if self.live == self.servers:
            return Level.WHOLE
        return Level.CRITICAL if self.live == self.threshold else Level.WARNING


def split(secret: bytes, threshold: int, servers: Collection[str]) -> list[Share]:
    """Split a secret of 32 bytes: `threshold` shares give it back."""
    names = sorted(servers)
    blocks = [
        Shamir.split(threshold, len(names), secret[start : start + BLOCK_BYTES], ssss=False)
        for start in (0, BLOCK_BYTES)
    ]
    return [Share(names[index - 1], index, data) for index, data in sorted(join_blocks(*blocks).items())]


class SecretClient:
    """Secrets of one hospital, or that one hospital may have.

    Args:
        identity: who asks.
        region: the manifest in force.
        post: how key servers are reached (`SignedClient.post`).
        clock: tells the time.

    Attributes:
        approvals: asks how the release of a secret stands.
    """

    def __init__(
        self, identity: Identity, region: Callable[[], RegionManifest], post: Post, clock: Callable[[], datetime]
    ) -> None:
        self._identity = identity
        self._servers = KeyServers(region, post)
        self._clock = clock
        self.approvals = ApprovalClient(identity, self._servers, clock)

    def put(
        self,
        name: str,
        secret: bytes,
        *,
        nodes: Collection[str],
        release: Release = Release.AUTOMATIC,
        version: int = 1,
    ) -> Stored:
        """Share a secret out among all key servers.

        Args:
            name: 1 to 64 of a-z, 0-9 and -; the secret's id is `hospital/name`.
            secret: 32 random bytes.
            nodes: the hospitals that may have it.
            release: whether they get it at once, or after administrators agreed.
            version: higher than every one before.

        Raises:
            ConfigurationError: not 32 bytes.
            SharesMissingError: too few servers hold their share now; what they hold gives nothing away.
            RefusedError: a server holds this version, or a newer one.
        """
        region = self._servers.region()
        if len(secret) != SECRET_BYTES:
            raise ConfigurationError("secret", [f"needs {SECRET_BYTES} bytes"])
        keys, failed = self._servers.each(
            lambda server: read_announcement(
                _member(self._servers.ask(server, "/v1/encryption-key", {}), "key"), region.key_server_key, server
            )
        )
        shares = {one.server: one for one in split(secret, region.threshold, region.key_servers)}
        salt = secrets.token_bytes(SALT_BYTES)
        record = SecretRecord(
            f"{self._identity.id}/{name}",
            version,
            region.region,
            region.threshold,
            frozenset(nodes),
            release,
            salt,
            commitment(salt, secret),
            {one.server: (one.index, commitment(salt, one.data)) for one in shares.values()},
            self._clock().replace(microsecond=0),
        )
        document = parse_secret(record.to_json()).to_json()
        signed = assemble(document, [sign(self._identity.key, signer=self._identity.id, document=document)])
        receipt = receipt_document(record)

        def hand_over(server: str) -> Signature:
            share = seal(share_document(record, shares[server]), keys[server])
            answer = self._servers.ask(server, "/v1/secrets", {"secret": signed, "share": share})
            return read_signature(
                _member(answer, "receipt"), document=receipt, key=region.key_servers[server].key, signer=server
            )

        receipts, refused = self._servers.each(hand_over, keys)
        failed |= refused
        enough = enough_to_drop(len(region.key_servers), region.threshold)
        if len(receipts) < enough:
            reasons = "; ".join(f"{server}: {reason}" for server, reason in sorted(failed.items()))
            raise SharesMissingError(f"{record.id} needs {enough} key servers and has {len(receipts)} ({reasons})")
        return Stored(record, tuple(receipts[server] for server in sorted(receipts)), failed)

    def propose(self, id: str, reason: str, *, life: timedelta = LONGEST_LIFE) -> Standing:
        """Ask the administrators for the release of a secret to this hospital.

        Then ask how it stands (`approvals.standing`, `approvals.wait`), and give `get` what they say.

        Args:
            id: the secret.
            reason: 10 to 500 characters, for the administrators.
            life: how long they may decide, and the secret can be had.

        Raises:
            PeerDataError: no such reason, or too long a life.
        """
        particulars = {"secret": id, "node": self._identity.id, "reason": reason}
        return self.approvals.propose(Kind.SECRET_RELEASE, particulars, life=life)

    def get(self, id: str, approval: Standing | None = None) -> Combined:
        """Get a secret.

        Args:
            id: the secret.
            approval: for one that administrators have to release: how that stands.

        Returns:
            It, and the servers whose answer was not what the owner gave them.

        Raises:
            SharesMissingError: too few good shares; the message says which servers did not give theirs, and why.
            RefusedError: every server that answered refuses for the same reason (`not-permitted`, `needs-approval`), or
                too few have approved the release.
        """
        _, combined = self._get(id, approval)
        return combined

    def share_anew(self, id: str, approval: Standing | None = None) -> Stored:
        """Split a secret anew among the key servers of today, and let them drop the old shares.

        To be done when a server came, went, or lost its share. Nothing old is dropped before enough hold the new.

        Raises:
            SharesMissingError, RefusedError: as `get` and `put`; the old shares are still there.
        """
        record, combined = self._get(id, approval)
        name = id.partition("/")[2]
        # Above every version that anybody holds, those of an attempt that failed half-way too.
        held, _ = self._held()
        versions = [one["version"] for found in held.values() for one in found if one["id"] == id]
        version = max([record.version, *versions]) + 1
        stored = self.put(name, combined.secret, nodes=record.nodes, release=record.release, version=version)
        receipts = {"receipts": self._receipts(stored)}
        self._servers.each(lambda server: self._servers.ask(server, "/v1/secrets/settle", receipts))
        return stored

    def report(self) -> list[SecretHealth]:
        """Return how many shares there are of each secret that this hospital owns or may have."""
        region = self._servers.region()
        held, _ = self._held()
        holders: dict[str, dict[int, set[str]]] = {}
        thresholds: dict[tuple[str, int], int] = {}
        for server, found in held.items():
            for one in found:
                holders.setdefault(one["id"], {}).setdefault(one["version"], set()).add(server)
                thresholds[one["id"], one["version"]] = one["threshold"]
        report = []
        for id, versions in sorted(holders.items()):
            version = max(versions, key=lambda one: (len(versions[one]), one))
            live = versions[version]
            missing = tuple(sorted(set(region.key_servers) - live))
            report.append(
                SecretHealth(id, version, len(live), thresholds[id, version], len(region.key_servers), missing)
            )
        return report

    def _receipts(self, stored: Stored) -> dict[str, Any]:
        return assemble(receipt_document(stored.record), stored.receipts)

    def _get(self, id: str, approval: Standing | None) -> tuple[SecretRecord, Combined]:
        receiver = new_receiver()
        question: dict[str, Any] = {"id": id, "to": str(receiver.as_dict(private=False)["x"])}
        if approval is not None:
            if not approval.is_approved:
                raise RefusedError("needs-approval", str(approval))
            question["approval"] = approval.statement()
        answers, failed = self._servers.each(lambda server: self._servers.ask(server, "/v1/secrets/shares", question))
        groups: dict[bytes, tuple[SecretRecord, Any, list[Share]]] = {}
        liars: set[str] = set()
        for server, answer in sorted(answers.items()):
            try:
                for one in _versions(answer):
                    record = read_unverified(one["secret"])
                    share = read_share(unseal(one["share"], receiver), record, server)
                    group = groups.setdefault(canonical_json(record.to_json()), (record, one["secret"], []))
                    group[2].append(share)
            except PeerDataError as error:
                liars.add(server)
                failed[server] = str(error)
        problems = []
        for record, signed, shares in sorted(groups.values(), key=lambda group: -group[0].version):
            if record.id != id or not self._is_believed(record, signed, shares):
                continue
            try:
                combined = combine(record, shares)
            except PeerDataError as error:
                problems.append(str(error))
                continue
            told = {one.server for one in shares}
            liars |= {
                one.server
                for other, _, others in groups.values()
                if other.version == record.version and other != record
                for one in others
                if one.server not in told
            }
            return record, Combined(combined.secret, tuple(sorted({*combined.altered, *liars})))
        raise self._nothing(id, failed, problems)

    def _is_believed(self, record: SecretRecord, signed: Any, shares: list[Share]) -> bool:
        """k servers have each checked the owner's signature; one server's word needs that signature itself."""
        region = self._servers.region()
        if len({one.server for one in shares}) >= max(1, region.threshold):
            return True
        quorum = verify_quorum(
            signed, lambda id: region.key_of(id) if id == record.owner else None, threshold=1, limit_bytes=RECORD_BYTES
        )
        return not quorum.missing

    def _nothing(self, id: str, failed: Mapping[str, str], problems: list[str]) -> UsmedError:
        codes = {reason.partition(":")[0] for reason in failed.values()}
        if not problems and len(codes) == 1 and codes <= {"not-permitted", "needs-approval"}:
            (code,) = codes
            return RefusedError(code, min(failed.values()).partition(": ")[2])
        reasons = [*problems, *(f"{server}: {reason}" for server, reason in sorted(failed.items()))]
        return SharesMissingError(f"the secret {id} cannot be put together: {'; '.join(reasons) or 'nobody holds it'}")

    def _held(self) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
        return self._servers.each(lambda server: _secrets(self._servers.ask(server, "/v1/secrets/held", {})))


def _member(answer: Any, name: str) -> Any:
    if not isinstance(answer, dict) or set(answer) != {name}:
        raise PeerDataError(f"the answer has exactly the member {name}")
    return answer[name]


def _versions(answer: Any) -> list[dict[str, Any]]:
    versions = _member(answer, "versions")
    if not isinstance(versions, list) or not all(
        isinstance(one, dict) and set(one) == {"secret", "share"} for one in versions
    ):
        raise PeerDataError("versions: a list of records with their shares")
    return versions


def _secrets(answer: Any) -> list[dict[str, Any]]:
    kinds = {"id": str, "version": int, "threshold": int, "servers": list}
    found = _member(answer, "secrets")
    if not isinstance(found, list) or not all(
        isinstance(one, dict) and set(one) == set(kinds) and all(type(one[name]) is kinds[name] for name in kinds)
        for one in found
    ):
        raise PeerDataError("secrets: a list of ids, versions, thresholds and servers")
    return found
