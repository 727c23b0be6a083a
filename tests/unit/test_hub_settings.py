"""The hub's settings: from variables or files, every fault at once, before anything starts."""

from datetime import timedelta
from pathlib import Path

import pytest

from support.signed_region import new_key, sign_region
from usmed.domain.errors import ConfigurationError
from usmed.hub.settings import DEFAULT_BODY_BYTES, load_settings
from usmed.platform.environment import setting
from usmed.platform.keys import generate_key, public_key_text


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    # The database is looked into for the region that was believed last.
    monkeypatch.chdir(tmp_path)
    key, administrator = public_key_text(generate_key(tmp_path / "hub.key")), new_key()
    manifest = {
        "version": 1,
        "region": "moldova",
        "name": "Moldova",
        "issued": "2026-11-21T10:00:00Z",
        "hub": {"address": "https://hub:8443", "public_key": key},
        "hospitals": [{"id": "a", "name": "A", "address": "https://a:8043", "public_key": "A" * 43, "issuers": ["A"]}],
        "expires": "2099-01-01T00:00:00Z",
        "threshold": 1,
        "key_servers": [
            {
                "id": "keys",
                "name": "Keys",
                "address": "https://keys:8044",
                "public_key": public_key_text(new_key()),
                "administrator": {"name": "Administrator", "public_key": public_key_text(administrator)},
            }
        ],
    }
    (tmp_path / "region.json").write_bytes(sign_region(manifest, {"keys": administrator}))
    return {
        "USMED_REGION_FILE": str(tmp_path / "region.json"),
        "USMED_PRIVATE_KEY_FILE": str(tmp_path / "hub.key"),
    }


def test_what_is_not_given_has_a_default(environ: dict[str, str]) -> None:
    settings = load_settings(environ)
    assert settings.database_url == "sqlite:///usmed-hub.db"
    assert settings.limit_bytes == DEFAULT_BODY_BYTES
    assert list(settings.region.manifest.hospitals) == ["a"]
    assert settings.accesses_kept == timedelta(days=3653)
    assert load_settings({**environ, "USMED_ACCESSES_KEPT_DAYS": "30"}).accesses_kept == timedelta(days=30)


def test_a_secret_may_be_in_a_file(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "url").write_text("sqlite:///ș.db\n", "utf-8")
    environ["USMED_DATABASE_URL_FILE"] = str(tmp_path / "url")
    assert load_settings(environ).database_url == "sqlite:///ș.db"


def test_every_fault_is_reported_at_once(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "region.json").write_text("version: 1\nsurprise: 1\n", "utf-8")
    environ |= {
        "USMED_PRIVATE_KEY_FILE": "/nowhere",
        "USMED_DATABASE_URL_FILE": "/nowhere",
        "USMED_MAXIMUM_BODY_BYTES": "-1",
        "USMED_ACCESSES_KEPT_DAYS": "0",
    }
    with pytest.raises(ConfigurationError) as caught:
        load_settings(environ)
    text = str(caught.value)
    for expected in (
        "$.surprise",
        "$.hospitals",
        "/nowhere: cannot be read",
        "USMED_DATABASE_URL_FILE",
        "MAXIMUM_BODY",
        "USMED_ACCESSES_KEPT_DAYS: must be a whole number from 1 to 36525",
    ):
        assert expected in text


def test_nothing_given_says_what_is_needed() -> None:
    with pytest.raises(
        ConfigurationError, match=r"(?s)USMED_REGION_FILE is not set.*USMED_PRIVATE_KEY_FILE is not set"
    ):
        load_settings({})


def test_another_members_key_is_refused(environ: dict[str, str], tmp_path: Path) -> None:
    generate_key(tmp_path / "other.key")
    with pytest.raises(ConfigurationError, match="is not the region's hub's"):
        load_settings({**environ, "USMED_PRIVATE_KEY_FILE": str(tmp_path / "other.key")})


def test_a_value_and_a_file_at_once_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="both given"):
        setting({"X": "1", "X_FILE": str(tmp_path)}, "X")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        setting({"X_FILE": str(tmp_path)}, "X")
    assert setting({"X": ""}, "X", "default") == "default"
