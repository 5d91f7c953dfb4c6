"""What a backup's folder holds beside the database, and what its two writers share: a copy that is
taken (`backup`) and what is taken along all the time (`archive`)."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

from msgspec import Struct

from deploy.local import postgres, s3
from deploy.local.program import Identity, Program, StackError, wheel_executable
from deploy.local.state import Ports, Secrets, load, lock, open_folder
from deploy.local.supervisor import Supervisor, end_stale
from libs.eventlog.connection import Connection, connect

KEPT = ("secrets.json", "ports.json", "credentials.json", "issuer")
"""Without the first, no API key is known; the issuer's address, port and all, is in the ids of the
accounts that it opened. Subscribers are made anew, with their consumers. The payments sandbox plays
a card provider, whose books nobody can take back either."""

UNFINISHED = ".unfinished"
"""The ending of a kept file that is still being written."""

ARCHIVED = "history.json"
"""In ``wal/``: whose it is."""

HISTORY_SQL = """
SELECT system_identifier || '/' || timeline_id FROM pg_control_system(), pg_control_checkpoint()
"""
"""Which database it is, and which of its histories: each restore begins another one."""

Say = Callable[[str], None]


class Taken(Struct, frozen=True, kw_only=True):
    """A copy of the database: with what is archived, it can be taken to any moment from
    ``ended_at`` on."""

    began_at: datetime
    ended_at: datetime
    history: str


class Archived(Struct, frozen=True, kw_only=True):
    """The history that ``wal/`` goes on with."""

    history: str


class Source(Struct, frozen=True, kw_only=True):
    """The stack that is copied."""

    data: Path
    ports: Ports
    secrets: Secrets

    @property
    def dsn(self) -> str:
        return postgres.dsn(
            role=postgres.ADMIN,
            password=self.secrets.postgres_admin,
            port=self.ports.postgres,
            database="postgres",
        )


def source(data: Path) -> Source:
    """`StackError` where there is no stack."""
    ports, known = load(data / "ports.json", Ports), load(data / "secrets.json", Secrets)
    if ports is None or known is None:
        raise StackError(f"There is no stack in {data}: name its folder with --data.")
    return Source(data=data, ports=ports, secrets=known)


@asynccontextmanager
async def connected(stack: Source) -> AsyncIterator[Connection]:
    """`StackError` where nothing answers."""
    try:
        connection = await connect(stack.dsn)
    except (OSError, TimeoutError) as error:
        raise StackError(
            f"PostgreSQL does not answer ({error}): a backup is taken of a running stack."
        ) from error
    try:
        yield connection
    finally:
        await connection.close()


def keep_secrets(data: Path, kept: Path) -> None:
    """What can't be made again, readable by its owner alone.

    A file that is kept is replaced by a whole one: a disk that is full costs the new one only.
    """
    kept.mkdir(mode=0o700, exist_ok=True)
    for name in KEPT:
        files = (data / name).rglob("*") if (data / name).is_dir() else (data / name,)
        for file in files:
            if file.is_file():
                _keep(file.read_bytes(), kept / file.relative_to(data))


def _keep(content: bytes, path: Path) -> None:
    if path.exists() and path.read_bytes() == content:
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A backup and an archive may both keep it, at once.
    unfinished = path.with_name(f"{path.name}.{os.getpid()}{UNFINISHED}")
    try:
        with os.fdopen(
            os.open(unfinished, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb"
        ) as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        unfinished.rename(path)
    finally:
        unfinished.unlink(missing_ok=True)


async def copy_objects(supervisor: Supervisor, of: Path, into: Path) -> None:
    """Whatever is not there yet. Nothing is removed: the database says what is still wanted."""
    for folder in (of, into):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    await supervisor.run(
        Program(
            name="copy-objects",
            argv=(
                *(wheel_executable("rclone"), "copy", "--config", "/dev/null"),
                *("--exclude", s3.UNFINISHED_UPLOADS, str(of), str(into)),
            ),
        )
    )


async def work_in(target: Path, what: str, say: Say) -> tuple[Path, Supervisor]:
    """The folder, and a supervisor of what is run for it; one process at a time does ``what``."""
    target = open_folder(target)
    folder = open_folder(target / what)
    lock(folder)
    supervisor = Supervisor(folder, say)
    await end_stale(folder, say)
    return target, supervisor


def folder_for_postgres(folder: Path) -> Path:
    folder.mkdir(mode=0o700, exist_ok=True)
    if os.geteuid() == 0:
        os.chown(folder, postgres.NOBODY, postgres.NOBODY)
    return folder


def bucket(data: Path) -> Path:
    return data / "s3" / s3.BUCKET


def refuse_another(target: Path, system: str) -> None:
    """`StackError` where copies or archive are of another history than ``system``."""
    archived = load(target / "wal" / ARCHIVED, Archived)
    known = [taken.history for _, taken in copies(target)]
    if any(one != system for one in (*known, *([archived.history] if archived else ()))):
        raise StackError(
            f"{target} holds the backup of another database (or of this one before it was"
            " restored): choose another folder."
        )


def copies(target: Path) -> list[tuple[Path, Taken]]:
    """The whole copies of the database, oldest first."""
    found = []
    for path in sorted((target / "base").glob("*.json")):
        taken = load(path, Taken)
        if taken is not None and path.with_suffix("").is_dir():
            found.append((path.with_suffix(""), taken))
    return found


def client(stack: Source, name: str, run_as: Identity, *argv: str, known_as: str) -> Program:
    """One of PostgreSQL's own, with a name of its own at the server: commits wait for the archive's
    alone. The password travels in the environment: a command line can be read by every local user.
    """
    address = (
        f"host=127.0.0.1 port={stack.ports.postgres} user={postgres.ADMIN}"
        f" application_name={known_as}"
    )
    return Program(
        name=name,
        argv=(str(postgres.binaries() / name), *argv, "--dbname", address),
        env={"PGPASSWORD": stack.secrets.postgres_admin},
        identity=run_as,
    )
