"""The region manifest: every fault at once, each with its path; and what the manifest answers."""

import copy
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from joserfc.jwk import OKPKey

from support.signed_region import SignedRegion
from usmed.domain.errors import ConfigurationError
from usmed.domain.identifiers import NationalNumber
from usmed.domain.region import HUB, RegionManifest, RelyingParty, parse_region
from usmed.platform.keys import generate_certificate, public_key_text
from usmed.platform.region_file import LIMIT_BYTES, load_region, read_region

Json = dict[str, Any]
KEYS = [public_key_text(OKPKey.generate_key("Ed25519", private=True)) for _ in range(5)]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tls")
    generate_certificate("hub", certificate=folder / "tls.pem", key=folder / "tls.key", now=datetime.now(UTC))
    return (folder / "tls.pem").read_text()


@pytest.fixture
def manifest(certificate: str) -> Json:
    return {
        "version": 3,
        "region": "moldova",
        "name": "Regiunea Moldova",
        "issued": "2026-11-21T12:00:00+02:00",
        "national_number": {"issuer": "RO-CNP", "kind": "ro.cnp"},
        "hub": {"address": "https://hub:8443/", "public_key": KEYS[0], "tls_certificate": certificate},
        "hospitals": [
            {
                "id": "sf-spiridon", "name": "Spitalul „Sf. Spiridon”", "address": "https://10.0.0.1:8043",
                "public_key": KEYS[1], "issuers": [" SF-SPIRIDON ", "SPIRIDON-OLD"], "tls_certificate": certificate,
            },
            {
                "id": "parhon", "name": "Spitalul „C.I. Parhon”", "address": "http://[::1]:80",
                "public_key": KEYS[2], "issuers": ["PARHON"],
            },
        ],
        "expires": "2027-02-21T12:00:00+02:00",
        "threshold": 1,
        "key_servers": [
            {"id": "keys-1", "name": "Chei", "address": "https://keys:8044", "public_key": KEYS[3],
             "administrator": {"name": "A", "public_key": KEYS[4]}},
        ],
    }  # fmt: skip


def test_what_the_manifest_says(manifest: Json, certificate: str) -> None:
    region = parse_region(manifest, "region.yaml")
    assert (region.region, region.name, region.version) == ("moldova", "Regiunea Moldova", 3)
    assert region.issued == datetime(2026, 11, 21, 10, tzinfo=UTC)
    assert region.national_number == NationalNumber("RO-CNP", "ro.cnp")
    assert (region.hub.id, region.hub.address, region.hub.tls_certificate) == (HUB, "https://hub:8443", certificate)
    assert list(region.hospitals) == ["sf-spiridon", "parhon"]
    hospital = region.hospitals["sf-spiridon"]
    assert hospital.issuers == ("SF-SPIRIDON", "SPIRIDON-OLD")
    assert hospital.name == "Spitalul „Sf. Spiridon”"
    assert region.hospitals["parhon"].tls_certificate == ""
    keys = [region.key_of(one) for one in (HUB, "sf-spiridon", "parhon")]
    assert [public_key_text(key) for key in keys if key is not None] == KEYS[:3]
    assert region.key_of("stranger") is None
    assert region.issuer_owner("SPIRIDON-OLD") == "sf-spiridon"
    assert region.issuer_owner("spiridon-old") is None


def test_a_region_may_have_no_national_number(manifest: Json) -> None:
    del manifest["national_number"]
    assert parse_region(manifest, "region.yaml").national_number is None


@pytest.mark.parametrize(
    ("address", "id", "origin"),
    [
        ("https://portal.example", "portal.example", "https://portal.example"),
        ("https://portal.example:443", "portal.example", "https://portal.example"),
        ("https://Portal.Example:8443", "portal.example", "https://portal.example:8443"),
        ("https://localhost:8443", "localhost", "https://localhost:8443"),
        ("https://xn--iai-5wb.example:0443", "xn--iai-5wb.example", "https://xn--iai-5wb.example"),
        ("https://1.2.3.4.example", "1.2.3.4.example", "https://1.2.3.4.example"),
        ("https://0x7f.1e", "0x7f.1e", "https://0x7f.1e"),
    ],
)
def test_a_portal_is_what_passkeys_belong_to(manifest: Json, address: str, id: str, origin: str) -> None:
    manifest["portal"] = {"address": address}
    region = parse_region(manifest, "region.yaml")
    assert region.portal == origin
    assert region.relying_party == RelyingParty(id, frozenset({origin}))


def test_without_a_portal_nobody_signs(manifest: Json) -> None:
    region = parse_region(manifest, "region.yaml")
    assert (region.portal, region.relying_party) == ("", None)


def at(document: Any, path: str) -> tuple[Any, Any]:
    """Return the element that holds the last step of a dotted path, and that step."""
    *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    for step in steps:
        document = document[step]
    return document, last


FAULTS: list[tuple[str, Any, str]] = [
    ("version", ..., "$.version: is missing"),
    ("version", "3", "$.version: must be a int"),
    ("version", True, "$.version: must be a int"),
    ("version", 0, "$.version: must be 1 or more"),
    ("region", "", "$.region: must be a non-empty str"),
    ("name", None, "$.name: must be"),
    ("issued", ..., "$.issued: is missing"),
    ("issued", "2026-11-21", "$.issued: must be a time with its zone"),
    ("issued", "2026-11-21T10:00:00", "$.issued: must be a time with its zone"),
    ("issued", datetime(2026, 11, 21), "$.issued: must be a time with its zone"),  # noqa: DTZ001
    ("issued", 20261121, "$.issued: must be a time with its zone"),
    ("expires", ..., "$.expires: is missing"),
    ("expires", None, "$.expires: must be a time with its zone"),
    ("key_servers", ..., "$.key_servers: is missing"),
    ("key_servers", [], "$.key_servers: names no key server"),
    ("key_servers", {}, "$.key_servers: must be a list"),
    ("threshold", ..., "$.threshold: is missing"),
    ("threshold", 0, "$.threshold: must be 1 to 1, the number of key servers"),
    ("colour", "red", "$.colour: unknown key"),
    ("national_number", [], "$.national_number: must be a mapping"),
    ("national_number.kind", "de.idnr", "$.national_number.kind: only 'ro.cnp' is known"),
    ("national_number.issuer", ..., "$.national_number.issuer: is missing"),
    ("national_number.issuer", "A\\B", "$.national_number.issuer: a patient identifier's issuer holds"),
    ("national_number.issuer", "PARHON", "$.hospitals[1].issuers: 'PARHON' is the national number's issuer"),
    ("hub", ..., "$.hub: is missing"),
    ("hub", "https://hub", "$.hub: must be a mapping"),
    ("hub.address", "hub:8443", "$.hub.address: must be http(s)://host[:port]"),
    ("hub.address", "ftp://hub", "$.hub.address: must be"),
    ("hub.address", "https://hub/api", "$.hub.address: must be"),
    ("hub.address", "https://hub?x=1", "$.hub.address: must be"),
    ("hub.address", "https://hub#x", "$.hub.address: must be"),
    ("hub.address", "https://", "$.hub.address: must be"),
    ("hub.address", "https://hub:99999", "$.hub.address: must be"),
    ("hub.address", "https://hub:port", "$.hub.address: must be"),
    ("hub.address", "https://[hub", "$.hub.address: must be"),
    ("hub.address", "https://user:secret@hub", "$.hub.address: must be"),
    ("hub.address", "https://hub:8443\n", "$.hub.address: must be"),
    ("hub.address", "https://hu b", "$.hub.address: must be"),
    ("hub.public_key", "AAAA", "$.hub.public_key: not base64url of the 32 bytes"),
    ("hub.public_key", "!" * 43, "$.hub.public_key: not base64url"),
    # An id of its own: two processes of one run make different keys.
    pytest.param("hub.public_key", KEYS[0] + "=", "$.hub.public_key: not base64url", id="hub.public_key-padded"),
    ("hub.public_key", 5, "$.hub.public_key: must be a non-empty str"),
    ("hub.tls_certificate", "tls.pem", "$.hub.tls_certificate: is not a PEM certificate"),
    (
        "hub.tls_certificate",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "$.hub.tls_certificate: is not a PEM certificate",
    ),
    ("hub.name", "Hub", "$.hub.name: unknown key"),
    ("portal", [], "$.portal: must be a mapping"),
    ("portal", {}, "$.portal.address: is missing"),
    ("portal", {"address": 5}, "$.portal.address: must be a non-empty str"),
    ("portal", {"address": "https://portal.example", "name": "x"}, "$.portal.name: unknown key"),
    *(
        ("portal", {"address": address}, "$.portal.address: must be https://NAME[:PORT]")
        for address in (
            "http://portal.example", "http://localhost", "portal.example", "wss://portal.example", "https://",
            "https://10.0.0.1", "https://10.0.0.1:8443", "https://[::1]", "https://[::1]:8443", "https://2130706433",
            "https://0x7f.1", "https://127.1", "https://0x7F000001", "https://host.0x", "https://10.0.0.1.",
            "https://portal.example/", "https://portal.example/portal", "https://portal.example?x",
            "https://portal.example#x", "https://user@portal.example", "https://user:x@portal.example",
            "https://portal.example:", "https://portal.example:0", "https://portal.example:65536",
            "https://portal.example:port", "https://portal.example.", "https://portal..example", "https://-a.example",
            "https://a-.example", "https://*.example", "https://portal_1.example", "https://portal.example\n",
            " https://portal.example", "https://iași.example", "https://\u212a.example", "https://x\\y.example",
            "https://portal.example:8443:1", "https://" + "a" * 64 + ".example", "https://" + "a." * 126 + "ab",
        )
    ),
    ("hospitals", ..., "$.hospitals: is missing"),
    ("hospitals", {}, "$.hospitals: must be a list"),
    ("hospitals", [], "$.hospitals: names no hospital"),
    ("hospitals.0", "sf-spiridon", "$.hospitals[0]: must be a mapping"),
    ("hospitals.0.id", "hub", "$.hospitals[0].id: must be 1 to 32 of a-z, 0-9 and -, and not 'hub'"),
    ("hospitals.0.id", "Sf", "$.hospitals[0].id: must be"),
    ("hospitals.0.id", "sf\n", "$.hospitals[0].id: must be"),
    ("hospitals.0.id", "x" * 33, "$.hospitals[0].id: must be"),
    ("hospitals.0.id", "parhon", "$.hospitals[1].id: 'parhon' is there twice"),
    ("hospitals.0.issuers", [], "$.hospitals[0].issuers: names no issuer"),
    ("hospitals.0.issuers", "SF", "$.hospitals[0].issuers: must be a list"),
    ("hospitals.0.issuers", ["A", 5], "$.hospitals[0].issuers[1]: a patient identifier's issuer is not text"),
    ("hospitals.0.issuers", ["A\\B"], "$.hospitals[0].issuers[0]: a patient identifier's issuer holds"),
    ("hospitals.0.issuers", ["PARHON "], "$.hospitals[1].issuers: 'PARHON' also belongs to 'sf-spiridon'"),
    ("hospitals.0.name", "", "$.hospitals[0].name: must be"),
    ("hospitals.0.public_key", ..., "$.hospitals[0].public_key: is missing"),
    ("hospitals.0.extra", 1, "$.hospitals[0].extra: unknown key"),
]


def problems(document: Any) -> list[str]:
    with pytest.raises(ConfigurationError) as refusal:
        parse_region(document, "region.yaml")
    assert str(refusal.value).startswith("region.yaml: ")
    return list(refusal.value.problems)


@pytest.mark.parametrize(("path", "value", "expected"), FAULTS, ids=lambda one: str(one)[:40])
def test_each_fault_is_named_with_its_path(manifest: Json, path: str, value: Any, expected: str) -> None:
    element, last = at(manifest, path)
    if value is ...:
        del element[last]
    else:
        element[last] = value
    found = problems(manifest)
    assert found[0].startswith(expected)
    assert all(one.startswith(expected.partition(":")[0]) for one in found)


def test_all_faults_at_once(manifest: Json) -> None:
    del manifest["version"]
    manifest["national_number"]["kind"] = "de.idnr"
    manifest["hub"]["address"] = "hub"
    manifest["hospitals"][0]["public_key"] = "?"
    manifest["hospitals"][0]["id"] = "hub"
    manifest["hospitals"][1]["issuers"] = []
    manifest["hospitals"].append(None)
    assert {one.partition(":")[0] for one in problems(manifest)} == {
        "$.version", "$.national_number.kind", "$.hub.address", "$.hospitals[0].public_key", "$.hospitals[0].id",
        "$.hospitals[1].issuers", "$.hospitals[2]",
    }  # fmt: skip


@pytest.mark.parametrize("document", [None, [], "region", 5])
def test_no_mapping_at_all(document: Any) -> None:
    assert problems(document)[0] == "$: must be a mapping"


def test_any_one_thing_taken_away_or_replaced_never_ends_in_another_error(manifest: Json) -> None:
    def paths(element: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        items = (
            element.items() if isinstance(element, dict) else enumerate(element) if isinstance(element, list) else ()
        )
        return [here, *(path for key, value in items for path in paths(value, (*here, key)))]

    for path in paths(manifest)[1:]:
        for value in (None, 0, -1, "", "x", [], [[]], {}, {"x": 1}, {1: 2}, float("nan"), True, "\ud800"):
            document = copy.deepcopy(manifest)
            element = document
            for step in path[:-1]:
                element = element[step]
            element[path[-1]] = value
            try:
                parse_region(document, "region.yaml")
            except ConfigurationError as error:
                assert error.problems


# ---- the file ----


@pytest.fixture
def load(tmp_path: Path) -> Callable[[bytes], RegionManifest]:
    def write_and_load(data: bytes) -> RegionManifest:
        path = tmp_path / "region.yaml"
        path.write_bytes(data)
        return load_region(path)

    return write_and_load


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "must be a mapping"),
        (b"a: [", "is not YAML"),
        (b"\xff\xfe\xff", "is not YAML"),
        (b"\0", "is not YAML"),
        (b"!!python/object/apply:os.system ['true']", "is not YAML"),
        (b"version: 1\nversion: 2\n", "the key 'version' is there twice"),
        (b"hospitals:\n  - {id: a, id: b}\n", "the key 'id' is there twice"),
        (b"[" * 2000, "is not YAML"),
        (b"a: &a [*a]", "unknown key"),
        (b"? {a: 1}\n: 2", "is not YAML"),
        (b"# " + b"x" * LIMIT_BYTES, "more than"),
        (b"issued: 2026-99-99", "is not YAML"),
    ],
    ids=lambda one: ascii(one)[:25],
)
def test_a_file_that_is_no_manifest(data: bytes, message: str, load: Callable[[bytes], RegionManifest]) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load(data)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_region(tmp_path / "none.yaml")


# ---- signed files ----

SIGNED = SignedRegion()


def without_signature(signed: dict[str, Any]) -> dict[str, Any]:
    return {**signed, "signatures": signed["signatures"][:1]}


def test_a_signed_file_is_json(load: Callable[[bytes], RegionManifest], tmp_path: Path) -> None:
    region = load(SIGNED.data(3))
    assert (region.version, list(region.key_servers)) == (3, ["keys-1", "keys-2", "keys-3"])
    read = read_region(tmp_path / "region.yaml")
    assert read.signed == SIGNED.signed(3)
    # Readable JSON is the same document.
    assert load(json.dumps(SIGNED.signed(4), indent=2).encode()).version == 4


def test_an_unsigned_file_is_refused(load: Callable[[bytes], RegionManifest]) -> None:
    for data in (json.dumps(SIGNED.document()).encode(), yaml.safe_dump(SIGNED.document()).encode()):
        with pytest.raises(ConfigurationError, match="has to be signed by the administrators"):
            load(data)


BAD_SIGNED: list[tuple[bytes, str]] = [
    (json.dumps(without_signature(SIGNED.signed())).encode(), "has 1 of the 2 signatures"),
    (SIGNED.data(1, "keys-4", "keys-1"), "has 1 of the 2 signatures"),
    (SIGNED.data(hospitals=[]), "names no hospital"),
    (b'{"payload": "e30", "signatures": []}', "1 to 32 signatures"),
    (b'{"payload": 1}', "exactly the members"),
    (SIGNED.data().replace(b'{"payload"', b'{"payload":"x","payload"'), "is there twice"),
    (b"# comment\n" + SIGNED.data(), "is a signed manifest, but not JSON"),
    (SIGNED.data()[:-30], "is not YAML"),
    (SIGNED.data(hospitals=None), "must be a list"),
]


@pytest.mark.parametrize(("data", "message"), BAD_SIGNED, ids=[one[1] for one in BAD_SIGNED])
def test_a_signed_file_that_is_not_believed(
    data: bytes, message: str, load: Callable[[bytes], RegionManifest]
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load(data)
