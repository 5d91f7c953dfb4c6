"""Whether a copy of the database is what PostgreSQL sent."""

import hashlib
from pathlib import Path

import msgspec
from msgspec import Struct

from deploy.local.program import StackError


class ManifestFile(Struct, frozen=True, rename="pascal"):
    path: str
    size: int
    checksum: str


class Manifest(Struct, frozen=True, rename="pascal"):
    """What pg_basebackup has copied (PostgreSQL's manual: "Backup Manifest Format")."""

    files: list[ManifestFile]


def verify(copy: Path) -> None:
    """Read every file of a copy back. `StackError` names one that is not as PostgreSQL sent it.

    pg_verifybackup does this too; that of the wheel crashes.
    """
    manifest = msgspec.json.decode((copy / "backup_manifest").read_bytes(), type=Manifest)
    for file in manifest.files:
        path = copy / file.path
        if not path.is_file() or path.stat().st_size != file.size:
            raise StackError(f"{path} is not what PostgreSQL sent: take another backup.")
        with path.open("rb") as opened:
            if hashlib.file_digest(opened, "sha256").hexdigest() != file.checksum:
                raise StackError(f"{path} is damaged: take another backup.")
