"""Secrets in shares on three real key servers, two of which give them back, to whom the owner named."""

import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from joserfc.jwk import OKPKey

from contract.key_servers import SERVERS, Servers
from usmed.domain.canonical import canonical_json
from usmed.domain.errors import ConfigurationError, RefusedError
from usmed.domain.quorum import assemble, sign
from usmed.domain.secret_sharing import Release, SecretRecord, SharesMissingError, read_unverified, receipt_document
from usmed.keyserver.settings import _encryption_key
from usmed.platform.keys import generate_encrypted_key
from usmed.platform.sealing import announce, new_receiver, seal, unseal
from usmed.platform.secret_client import Level, SecretClient
from usmed.platform.signed_http import Identity

ID = "iasi/research"


@pytest.fixture
def secret() -> bytes:
    return secrets.token_bytes(32)


def client(servers: Servers, hospital: str) -> SecretClient:
    return SecretClient(
        Identity(hospital, servers.keys[hospital]), servers.current, servers.post_as(hospital), servers.clock
    )


def events(servers: Servers, name: str) -> list[tuple[str, str, str]]:
    return [
        (one["agent"], one["detail"]["what"], one["outcome"])
        for one in servers.audits[name].tail()
        if one["event"] == "share"
    ]


def level(servers: Servers, id: str = ID) -> tuple[Level, int, tuple[str, ...]]:
    (one,) = [one for one in client(servers, "iasi").report() if one.id == id]
    return one.level, one.live, one.missing


def test_a_named_node_gets_the_secret_and_every_step_is_in_every_log(servers: Servers, secret: bytes) -> None:
    stored = client(servers, "iasi").put("research", secret, nodes=["bacau"])
    assert (len(stored.receipts), stored.failed) == (3, {})
    found = client(servers, "bacau").get(ID)
    assert (found.secret, found.altered) == (secret, ())
    for name in SERVERS:
        assert events(servers, name) == [("iasi", "share taken in", "success"), ("bacau", "share released", "success")]
        assert servers.audits[name].verify().unbroken
    assert level(servers) == (Level.WHOLE, 3, ())
    # After a start too.
    for name in SERVERS:
        servers.rewire(name)
    assert client(servers, "bacau").get(ID).secret == secret


def test_no_database_and_no_answer_holds_a_share_in_the_clear(servers: Servers, secret: bytes) -> None:
    client(servers, "iasi").put("research", secret, nodes=["bacau"])
    receiver = new_receiver()
    shares = []
    for name in SERVERS:
        question = {"id": ID, "to": receiver.as_dict(private=False)["x"]}
        answer = servers.send("bacau", name, "/v1/secrets/shares", question)
        share = unseal(answer.json["versions"][0]["share"], receiver)["share"]
        shares.append(share)
        assert share not in answer.text
        with servers.databases[name].read() as connection:
            tables = sa.inspect(connection).get_table_names()
            stored = "".join(str(connection.execute(sa.text(f"SELECT * FROM {table}")).all()) for table in tables)
        assert ID in stored
        assert share not in stored
        assert secret.hex() not in stored
    assert len(set(shares)) == 3


def test_who_is_not_named_gets_nothing_not_even_the_owner(servers: Servers, secret: bytes) -> None:
    client(servers, "iasi").put("research", secret, nodes=["bacau"])
    for hospital, id in (("iasi", ID), ("bacau", "iasi/other"), ("bacau", "bacau/research")):
        with pytest.raises(RefusedError) as refused:
            client(servers, hospital).get(id)
        assert refused.value.code == "not-permitted"
    assert events(servers, "keys-1")[1:] == [
        ("iasi", "share refused", "denied"), ("bacau", "share refused", "denied"), ("bacau", "share refused", "denied"),
    ]  # fmt: skip
    for stranger in ("hub", "keys-2"):
        answer = servers.send(stranger, "keys-1", "/v1/secrets/shares", {"id": ID, "to": "A" * 43})
        assert answer.status_code == 403
    assert servers.send("bacau", "keys-1", "/v1/secrets/held", {}).json["secrets"][0]["id"] == ID


def test_what_needs_approval_is_not_released(servers: Servers, secret: bytes) -> None:
    client(servers, "iasi").put("archive", secret, nodes=["iasi"], release=Release.APPROVAL)
    with pytest.raises(RefusedError, match="only after administrators agreed") as refused:
        client(servers, "iasi").get("iasi/archive")
    assert refused.value.code == "needs-approval"
    assert events(servers, "keys-2")[-1] == ("iasi", "share refused", "denied")


def test_a_stricter_policy_is_no_use_if_the_old_version_is_a_way_around(servers: Servers, secret: bytes) -> None:
    owner = client(servers, "iasi")
    owner.put("research", secret, nodes=["bacau"])
    owner.put("research", secret, nodes=["iasi"], version=2)
    with pytest.raises(RefusedError) as refused:
        client(servers, "bacau").get(ID)
    assert refused.value.code == "not-permitted"
    owner.put("research", secret, nodes=["iasi", "bacau"], version=3, release=Release.APPROVAL)
    with pytest.raises(RefusedError) as refused:
        owner.get(ID)
    assert refused.value.code == "needs-approval"


def test_a_laxer_policy_is_no_way_around_that_of_an_older_version(servers: Servers, secret: bytes) -> None:
    """With the owner's stolen key, say: what needed administrators still does."""
    owner = client(servers, "iasi")
    owner.put("research", secret, nodes=["iasi"], release=Release.APPROVAL)
    owner.put("research", secrets.token_bytes(32), nodes=["iasi"], version=2)
    receiver = new_receiver().as_dict(private=False)["x"]
    answer = servers.send("iasi", "keys-1", "/v1/secrets/shares", {"id": ID, "to": receiver}).json
    assert [read_unverified(one["secret"]).version for one in answer["versions"]] == [2]


def test_who_came_later_gets_no_version_of_before(servers: Servers, secret: bytes) -> None:
    """The version before may be another secret."""
    client(servers, "iasi").put("research", secrets.token_bytes(32), nodes=["iasi"])
    client(servers, "iasi").put("research", secret, nodes=["iasi", "bacau"], version=2)
    receiver = new_receiver().as_dict(private=False)["x"]
    for hospital, expected in (("iasi", [2, 1]), ("bacau", [2])):
        answer = servers.send(hospital, "keys-1", "/v1/secrets/shares", {"id": ID, "to": receiver}).json
        assert [read_unverified(one["secret"]).version for one in answer["versions"]] == expected
    assert client(servers, "bacau").get(ID).secret == secret


def test_a_server_without_an_encryption_key_holds_nothing(on_sqlite: Servers, secret: bytes) -> None:
    servers = on_sqlite
    servers.encryption["keys-1"] = None  # type: ignore[assignment]
    servers.rewire("keys-1")
    stored = client(servers, "iasi").put("research", secret, nodes=["iasi"])
    assert stored.failed == {
        "keys-1": "no-encryption-key: keys-1 has no encryption key, and holds no shares"
    }
    assert client(servers, "iasi").get(ID).secret == secret


def test_the_encryption_key_is_made_once_beside_the_signing_key(tmp_path: Path) -> None:
    beside, passphrase = tmp_path / "key.pem", "corect cal baterie"
    made = _encryption_key(beside, passphrase)
    assert made is not None
    again = _encryption_key(beside, passphrase)
    assert again is not None
    assert again.thumbprint() == made.thumbprint()
    assert made.curve_name == "X25519"
    with pytest.raises(ConfigurationError, match="cannot be opened with this passphrase"):
        _encryption_key(beside, "another passphrase")
    generate_encrypted_key(tmp_path / "other.pem.encryption", passphrase)
    with pytest.raises(ConfigurationError, match="is not a private X25519 key"):
        _encryption_key(tmp_path / "other.pem", passphrase)
    # A folder of secrets that cannot be written to: the server starts, and says that it holds no shares.
    tmp_path.chmod(0o500)
    try:
        assert _encryption_key(tmp_path / "third.pem", passphrase) is None
    finally:
        tmp_path.chmod(0o700)


def test_one_server_down_all_works_two_down_nothing_does_and_back_again(servers: Servers, secret: bytes) -> None:
    client(servers, "iasi").put("research", secret, nodes=["iasi"])
    servers.down = {"keys-1"}
    assert client(servers, "iasi").get(ID).secret == secret
    assert level(servers) == (Level.CRITICAL, 2, ("keys-1",))
    servers.down = {"keys-1", "keys-3"}
    with pytest.raises(SharesMissingError, match=r"has 1 of the 2 .*keys-1: keys-1 was not reached"):
        client(servers, "iasi").get(ID)
    assert level(servers) == (Level.LOST, 1, ("keys-1", "keys-3"))
    servers.down = set()
    assert client(servers, "iasi").get(ID).secret == secret


def test_an_altered_share_is_found_and_its_server_named(servers: Servers, secret: bytes) -> None:
    client(servers, "iasi").put("research", secret, nodes=["iasi"])
    # A dishonest server alters what it holds: it can encrypt anything to itself.
    key = servers.encryption["keys-2"]
    with servers.databases["keys-2"].write() as connection:
        (held,) = connection.scalars(sa.text("SELECT share FROM secret_share")).all()
        document = {**unseal(held, key), "share": "A" * 43}
        connection.execute(
            sa.text("UPDATE secret_share SET share = :share"), {"share": seal(canonical_json(document), key)}
        )
    found = client(servers, "iasi").get(ID)
    assert (found.secret, found.altered) == (secret, ("keys-2",))
    servers.down = {"keys-3"}
    with pytest.raises(SharesMissingError, match="altered: keys-2; missing: keys-3"):
        client(servers, "iasi").get(ID)


@pytest.mark.parametrize(
    "lie",
    [
        lambda answer: None,
        lambda answer: {"versions": {}},
        lambda answer: {"versions": [{"secret": {}, "share": ""}]},
        lambda answer: {"versions": [{**answer["versions"][0], "share": "a.b.c.d.e"}]},
        lambda answer: {"versions": [{**answer["versions"][0], "secret": {"payload": "e30", "signatures": [{}]}}]},
        lambda answer: {"versions": []},
    ],
)
def test_a_server_that_answers_nonsense_harms_nothing(
    on_sqlite: Servers, secret: bytes, lie: Callable[[Any], Any]
) -> None:
    servers = on_sqlite
    client(servers, "iasi").put("research", secret, nodes=["iasi"])
    servers.liars["keys-1"] = lie
    assert client(servers, "iasi").get(ID).secret == secret


def test_one_server_cannot_invent_a_secret(servers: Servers, secret: bytes) -> None:
    """It may say what it wants about its own share: k have to say it, or the owner has to have signed it."""
    client(servers, "iasi").put("research", secret, nodes=["iasi"])

    def lie(answer: Any) -> Any:
        if "versions" not in answer:
            return answer
        (one,) = answer["versions"]
        document = replace(read_unverified(one["secret"]), version=9, threshold=1).to_json()
        forged = assemble(document, [sign(servers.keys["keys-1"], signer="iasi", document=document)])
        return {"versions": [{**one, "secret": forged}, one]}

    servers.liars["keys-1"] = lie
    found = client(servers, "iasi").get(ID)
    assert found.secret == secret


def put_by_hand(servers: Servers, sender: str, signer: str, server: str, **changes: Any) -> Any:
    """Put a share on one server, with a record that is altered before it is signed; return the answer."""
    stored = client(servers, "iasi").put(f"by-hand-{secrets.token_hex(4)}", bytes(range(32)), nodes=["iasi"])
    with servers.databases[server].read() as connection:
        row = connection.execute(
            sa.text("SELECT share FROM secret_share WHERE id = :id"), {"id": stored.record.id}
        ).one()
    share = {**unseal(row.share, servers.encryption[server]), "version": changes.get("version", 1)}
    record = replace(
        stored.record, **{name: one(stored.record) if callable(one) else one for name, one in changes.items()}
    )
    if "id" in changes:
        share["id"] = changes["id"]
    document = record.to_json()
    signed = assemble(document, [sign(servers.keys[signer], signer=signer, document=document)])
    sealed = seal(canonical_json(share), servers.encryption[server])
    return servers.send(sender, server, "/v1/secrets", {"secret": signed, "share": sealed})


def first_two(record: SecretRecord) -> dict[str, tuple[int, str]]:
    return {server: share for server, share in record.shares.items() if share[0] < 3}


def test_what_no_owner_may_put_is_refused(servers: Servers) -> None:
    assert put_by_hand(servers, "iasi", "iasi", "keys-1", version=2).status_code == 200
    shares = client(servers, "iasi").put("x", bytes(range(32)), nodes=["iasi"]).record.shares
    for status, sender, signer, changes in (
        (400, "iasi", "bacau", {}),  # signed by another
        (400, "bacau", "bacau", {}),  # another's secret
        (400, "bacau", "iasi", {}),
        (400, "iasi", "iasi", {"region": "other"}),
        (400, "iasi", "iasi", {"threshold": 1}),  # any one administrator could take it
        (400, "iasi", "iasi", {"threshold": 3}),
        (400, "iasi", "iasi", {"shares": first_two}),
        (400, "iasi", "iasi", {"shares": shares}),  # the share is of another split
        (400, "iasi", "iasi", {"nodes": frozenset({"nobody"})}),
        (403, "iasi", "iasi", {"nodes": frozenset({"bacau"})}),  # another record under the same version
        (403, "hub", "iasi", {}),
        (403, "keys-2", "iasi", {}),
    ):
        answer = put_by_hand(servers, sender, signer, "keys-1", **changes)
        assert answer.status_code == status, (sender, signer, changes, answer.text)
    good = client(servers, "iasi")
    good.put("y", bytes(32), nodes=["iasi"], version=5)
    with pytest.raises(SharesMissingError, match=r"exists: .*a newer version"):
        good.put("y", bytes(32), nodes=["iasi"], version=4)
    with pytest.raises(SharesMissingError, match=r"exists: .*another record"):
        good.put("y", bytes(32), nodes=["iasi"], version=5)
    with pytest.raises(ConfigurationError):
        good.put("z", b"short", nodes=["iasi"])
    for path, body in (
        ("/v1/secrets", {"secret": {}, "share": ""}), ("/v1/secrets", {"secret": None}),
        ("/v1/secrets/shares", {"id": 1, "to": "A" * 43}), ("/v1/secrets/shares", {"id": ID, "to": "AA"}),
        ("/v1/secrets/settle", {"receipts": {}}), ("/v1/secrets/held", {"more": 1}), ("/v1/encryption-key", []),
    ):  # fmt: skip
        assert servers.send("iasi", "keys-1", path, body).status_code == 400, (path, body)
    assert servers.audits["keys-1"].verify().unbroken


def test_too_few_servers_at_the_start_are_told(servers: Servers, secret: bytes) -> None:
    servers.down = {"keys-1", "keys-2"}
    with pytest.raises(SharesMissingError, match="needs 2 key servers and has 1"):
        client(servers, "iasi").put("research", secret, nodes=["iasi"])
    servers.down = {"keys-1"}
    stored = client(servers, "iasi").put("research", secret, nodes=["iasi"], version=2)
    assert set(stored.failed) == {"keys-1"}
    assert client(servers, "iasi").get(ID).secret == secret
    servers.down = set()
    assert level(servers)[:2] == (Level.CRITICAL, 2)
    # Shared anew, it is whole.
    client(servers, "iasi").share_anew(ID)
    assert level(servers) == (Level.WHOLE, 3, ())


def versions(servers: Servers, name: str) -> list[int]:
    with servers.databases[name].read() as connection:
        return list(connection.scalars(sa.text("SELECT version FROM secret_share ORDER BY version")))


def test_a_lost_encryption_key_is_reported_and_healed(servers: Servers, secret: bytes) -> None:
    owner = client(servers, "iasi")
    owner.put("research", secret, nodes=["iasi"])
    servers.encryption["keys-3"] = OKPKey.generate_key("X25519", private=True)
    servers.rewire("keys-3")
    assert level(servers) == (Level.CRITICAL, 2, ("keys-3",))
    assert owner.get(ID).secret == secret
    assert events(servers, "keys-3")[-1] == ("iasi", "share refused", "denied")
    stored = owner.share_anew(ID)
    assert stored.record.version == 2
    assert level(servers) == (Level.WHOLE, 3, ())
    assert [versions(servers, name) for name in SERVERS] == [[2]] * 3
    assert owner.get(ID).secret == secret


def test_a_server_that_is_replaced_gets_its_share_and_old_shares_do_not_mix(servers: Servers, secret: bytes) -> None:
    owner = client(servers, "iasi")
    owner.put("research", secret, nodes=["iasi"])
    # Another machine, with another key, in the place of keys-2.
    with servers.databases["keys-2"].write() as connection:
        connection.execute(sa.text("DELETE FROM secret_share"))
    servers.change_region(with_={"keys-2": OKPKey.generate_key("Ed25519", private=True)})
    servers.encryption["keys-2"] = OKPKey.generate_key("X25519", private=True)
    servers.rewire("keys-2")
    owner.share_anew(ID)
    assert level(servers) == (Level.WHOLE, 3, ())
    servers.down = {"keys-1"}
    assert owner.get(ID).secret == secret


def test_the_old_goes_only_when_enough_hold_the_new(servers: Servers, secret: bytes) -> None:
    owner = client(servers, "iasi")
    first = owner.put("research", secret, nodes=["iasi"])
    second = owner.put("research", secret, nodes=["iasi"], version=2)
    assert versions(servers, "keys-1") == [1, 2]
    document = receipt_document(second.record)
    one = second.receipts[0]
    forged = sign(servers.keys["iasi"], signer="keys-2", document=document)
    for signatures in ([one], [one, one], [one, forged]):
        answer = servers.send("iasi", "keys-1", "/v1/secrets/settle", {"receipts": assemble(document, signatures)})
        assert answer.status_code == 400
    enough = {"receipts": assemble(document, second.receipts[:2])}
    assert servers.send("bacau", "keys-1", "/v1/secrets/settle", enough).status_code == 403
    assert versions(servers, "keys-1") == [1, 2]
    assert servers.send("iasi", "keys-1", "/v1/secrets/settle", enough).json == {"dropped": 1}
    assert versions(servers, "keys-1") == [2]
    # Again it does nothing, and the receipt of the old version drops nothing.
    assert servers.send("iasi", "keys-1", "/v1/secrets/settle", enough).json == {"dropped": 0}
    old = {"receipts": assemble(receipt_document(first.record), first.receipts)}
    assert servers.send("iasi", "keys-1", "/v1/secrets/settle", old).json == {"dropped": 0}
    # While versions differ from server to server, the secret is there.
    assert owner.get(ID).secret == secret


def test_sharing_anew_that_fails_half_way_loses_nothing(servers: Servers, secret: bytes) -> None:
    owner = client(servers, "iasi")
    owner.put("research", secret, nodes=["iasi"])
    refuse = {"keys-2", "keys-3"}
    post = servers.post_as("iasi")

    def failing(member_id: str, path: str, document: Any, **options: Any) -> Any:
        if path == "/v1/secrets" and member_id in refuse:
            raise RefusedError("unavailable", "the database does not answer")
        return post(member_id, path, document, **options)

    broken = SecretClient(Identity("iasi", servers.keys["iasi"]), servers.current, failing, servers.clock)
    with pytest.raises(SharesMissingError, match="needs 2 key servers and has 1"):
        broken.share_anew(ID)
    assert [versions(servers, name) for name in SERVERS] == [[1, 2], [1], [1]]
    assert owner.get(ID).secret == secret
    owner.share_anew(ID)
    assert [versions(servers, name) for name in SERVERS] == [[3]] * 3
    assert owner.get(ID).secret == secret


def test_an_announced_key_that_the_server_did_not_sign_gets_no_share(servers: Servers, secret: bytes) -> None:
    """Whoever sits in between cannot have shares encrypted to itself."""
    other = new_receiver()
    token = announce(servers.keys["hub"], "keys-1", other)
    servers.liars["keys-1"] = lambda answer: {"key": token} if set(answer) == {"key"} else answer
    stored = client(servers, "iasi").put("research", secret, nodes=["iasi"])
    assert "verify" in stored.failed["keys-1"]
