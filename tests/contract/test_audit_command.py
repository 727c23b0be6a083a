"""`usmed audit verify-export` says whether an export is as its hospital signed it."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from support.signed_region import SignedRegion
from usmed.__main__ import main
from usmed.domain.audit import AuditEvent, AuditEventType, ChainHead, chain_record
from usmed.platform.audit_export import pack

NOW = datetime(2026, 11, 22, 18, tzinfo=UTC)


def test_an_export_is_checked_against_the_region_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    region = SignedRegion()
    manifest, bundle = tmp_path / "region.json", tmp_path / "audit.zip"
    manifest.write_bytes(region.data(1))
    record = chain_record(AuditEvent(NOW, AuditEventType.LOOKUP, "ionescu").to_json(), ChainHead())
    about = {"asked": {"agent": "ionescu"}, "by": "auditor", "log": {"records": 1, "hash": record.hash}}
    for key, code in (("bacau", 0), ("iasi", 1)):
        bundle.write_bytes(pack([record], key=region.keys[key], hospital="bacau", at=NOW, about=about))
        assert main(["audit", "verify-export", str(bundle), "--region", str(manifest)]) == code
    said = capsys.readouterr()
    assert "1 record(s), signed by bacau at 2026-11-22T18:00:00Z, asked by auditor" in said.out
    assert "does not verify" in said.err
    assert main(["audit", "verify-export", str(tmp_path / "none.zip"), "--region", str(manifest)]) == 2
