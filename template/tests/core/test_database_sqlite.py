"""SQLite: what only it can show."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from app.core.databases import sqlite
from app.settings import Settings

MOUNTS = """\
/dev/vda / ext4 rw 0 0
files:/export /mnt/shared nfs4 rw 0 0
/dev/vdb /mnt/shared/fast xfs rw 0 0
"""


def test_a_file_that_several_hosts_share_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's locks hold on one host only."""
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    monkeypatch.setattr(sqlite, "_MOUNTS", mounts)
    with pytest.raises(ValueError, match="lies on nfs4, a file system that several hosts share"):
        Settings(database_url=SecretStr("sqlite:////mnt/shared/service.db"))
    for local in ("/mnt/shared/fast/service.db", "/var/lib/service.db"):
        assert Settings(database_url=SecretStr(f"sqlite:///{local}"))
    mounts.unlink()
    assert Settings(database_url=SecretStr("sqlite:////mnt/shared/service.db"))


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "postgresql://host/name"])
def test_a_database_that_is_no_file_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="for example DATABASE_URL=sqlite:"):
        Settings(database_url=SecretStr(url))
