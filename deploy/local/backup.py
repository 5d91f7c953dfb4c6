"""A copy of the local stack from which it can be made again, elsewhere and as of any moment.

The folder of a backup holds ``base/`` (copies of the database), ``wal/`` (what happened since, as
long as `archive` runs), ``objects/`` (the bucket; nothing is ever removed) and ``kept/`` (secrets).
"""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path

from msgspec import Struct

from deploy.local import postgres, s3
from deploy.local.manifest import verify
from deploy.local.program import Identity, Program, StackError, wheel_executable
from deploy.local.state import Ports, Secrets, load, lock, open_folder, save
from deploy.local.supervisor import Supervisor, end_stale
from libs.eventlog.connection import Connection, connect

ARCHIVE = "tuneyard_archive"
"""The replication slot that keeps what the archive does not have yet, and the archive's name."""

RECEIVER = "pg_receivewal"

NAME = "%Y%m%dT%H%M%SZ"
"""Of a copy of the database: when it was begun, in UTC, so that names sort by age."""

KEPT = ("secrets.json", "ports.json", "credentials.json", "issuer")
"""Without the first, no API key is known; the issuer's address, port and all, is in the ids of the
accounts that it opened. Subscribers are made anew, with their consumers. The payments sandbox plays
a card provider, whose books nobody can take back either."""

HISTORY_SQL = """
SELECT system_identifier || '/' || timeline_id FROM pg_control_system(), pg_control_checkpoint()
"""
"""Which database it is, and which of its histories: each restore begins another one."""

OBJECTS_EVERY = 30.0  # seconds; what a lost machine had stored since then is lost with it
CATCH_UP_SECONDS = 600.0  # an archive that is further behind a finished copy does not work
STOP_SECONDS = 10.0
POLL = 0.1

Say = Callable[[str], None]


class Taken(Struct, frozen=True, kw_only=True):
    """A copy of the database: with what is archived, it can be taken to any moment from
    ``ended_at`` on."""

    began_at: datetime
    ended_at: datetime
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
async def _connected(stack: Source) -> AsyncIterator[Connection]:
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


async def take(stack: Source, target: Path, *, now: Callable[[], datetime], say: Say) -> None:
    """Copy everything while the stack works. Whatever was acknowledged before the copy of the
    database ended is in it. `StackError` when a part fails; a whole copy shows only at the end.

    Objects are copied before the database and again after it: what the database names was there
    then, and an object that is deleted in between is in the first copy.
    """
    target, supervisor = await _work_in(target, "taking", say)
    base = _folder_for_postgres(target / "base")
    began = now()
    name = began.strftime(NAME)
    unfinished = base / f"{name}.copying"
    for broken_off in base.glob("*.copying"):
        shutil.rmtree(broken_off)
    async with _connected(stack) as connection:
        system: str = await connection.fetchval(HISTORY_SQL)
        _refuse_another(target, system)
        keep_secrets(stack.data, target / "kept")
        await copy_objects(supervisor, _bucket(stack.data), target / "objects")
        say("objects copied")
        run_as = postgres.identity((base, postgres.binaries()))
        await supervisor.run(_base_backup(stack, unfinished, run_as))
        ended = await connection.fetchval("SELECT clock_timestamp()")
        say("database copied")
        await asyncio.to_thread(verify, unfinished)
        if await _archived(connection):
            say("the archive has everything that was acknowledged until now")
    await copy_objects(supervisor, _bucket(stack.data), target / "objects")
    await asyncio.to_thread(os.sync)  # rclone leaves that to others
    save(base / f"{name}.json", Taken(began_at=began, ended_at=ended, history=system))
    unfinished.rename(base / name)
    say(f"backup {name} is whole")


async def archive(
    stack: Source, target: Path, *, synchronous: bool, stop: asyncio.Event, say: Say
) -> None:
    """Until ``stop``: take every commit along as it happens, and new objects every now and then.

    ``synchronous``: no commit is acknowledged that is not in the archive, on the disk. Should this
    process die, commits wait until it is started again, or started without.
    """
    target, supervisor = await _work_in(target, "archiving", say)
    wal = _folder_for_postgres(target / "wal")
    async with _connected(stack) as connection:
        if not synchronous:
            await _wait_for(connection, None)
        await connection.execute(
            "SELECT pg_create_physical_replication_slot($1, true) WHERE NOT EXISTS"
            " (SELECT FROM pg_replication_slots WHERE slot_name = $1)",
            ARCHIVE,
        )
    run_as = postgres.identity((wal, postgres.binaries()))
    try:
        await supervisor.start(_receive(stack, wal, run_as))
        async with _connected(stack) as connection:
            while not await _lag(connection):  # noqa: ASYNC110
                await asyncio.sleep(POLL)
            if synchronous:
                await _wait_for(connection, ARCHIVE)
        say(f"archiving{' synchronously' if synchronous else ''} into {target}")
        while not stop.is_set():
            await copy_objects(supervisor, _bucket(stack.data), target / "objects")
            with suppress(TimeoutError):
                async with asyncio.timeout(OBJECTS_EVERY):
                    await stop.wait()
        if synchronous:
            async with _connected(stack) as connection:
                await _wait_for(connection, None)
    finally:
        await supervisor.stop_all(within_seconds=STOP_SECONDS)


def keep_secrets(data: Path, kept: Path) -> None:
    """What can't be made again, readable by its owner alone."""
    kept.mkdir(mode=0o700, exist_ok=True)
    for name in KEPT:
        if (data / name).is_dir():
            shutil.copytree(data / name, kept / name, dirs_exist_ok=True)
        elif (data / name).exists():
            shutil.copy2(data / name, kept / name)


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


async def _work_in(target: Path, what: str, say: Say) -> tuple[Path, Supervisor]:
    """The folder, and a supervisor of what is run for it; one process at a time does ``what``."""
    target = open_folder(target)
    folder = open_folder(target / what)
    lock(folder)
    supervisor = Supervisor(folder, say)
    await end_stale(folder, say)
    return target, supervisor


def _folder_for_postgres(folder: Path) -> Path:
    folder.mkdir(mode=0o700, exist_ok=True)
    if os.geteuid() == 0:
        os.chown(folder, postgres.NOBODY, postgres.NOBODY)
    return folder


def _bucket(data: Path) -> Path:
    return data / "s3" / s3.BUCKET


def _refuse_another(target: Path, system: str) -> None:
    for _, taken in copies(target):
        if taken.history != system:
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


def _client(stack: Source, name: str, run_as: Identity, *argv: str) -> Program:
    """The password travels in the environment: a command line can be read by every local user.

    Each has a name of its own at the server: commits wait for the archive's alone.
    """
    whose = ARCHIVE if name == RECEIVER else name
    address = (
        f"host=127.0.0.1 port={stack.ports.postgres} user={postgres.ADMIN} application_name={whose}"
    )
    return Program(
        name=name,
        argv=(str(postgres.binaries() / name), *argv, "--dbname", address),
        env={"PGPASSWORD": stack.secrets.postgres_admin},
        identity=run_as,
    )


def _base_backup(stack: Source, folder: Path, run_as: Identity) -> Program:
    return _client(
        *(stack, "pg_basebackup", run_as, "--pgdata", str(folder)),
        *("--checkpoint=fast", "--wal-method=stream", "--manifest-checksums=SHA256"),
    )


def _receive(stack: Source, wal: Path, run_as: Identity) -> Program:
    return _client(
        *(stack, RECEIVER, run_as, "--directory", str(wal)),
        *("--slot", ARCHIVE, "--synchronous"),
    )


async def _lag(connection: Connection) -> str | None:
    """Up to where the archive has everything; None when there is none."""
    flushed: str | None = await connection.fetchval(
        "SELECT flush_lsn::text FROM pg_stat_replication"
        " WHERE application_name = $1 AND state = 'streaming' AND flush_lsn IS NOT NULL"
        " AND pid IN (SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1)",
        ARCHIVE,
    )
    return flushed


async def _archived(connection: Connection) -> bool:
    """Whether there is an archive; waits until it has what was committed before."""
    now = await connection.fetchval("SELECT pg_current_wal_flush_lsn()::text")
    async with asyncio.timeout(CATCH_UP_SECONDS):
        while (flushed := await _lag(connection)) is not None:
            if await connection.fetchval(
                "SELECT $1::text::pg_lsn >= $2::text::pg_lsn", flushed, now
            ):
                return True
            await asyncio.sleep(POLL)
    return False


async def _wait_for(connection: Connection, whom: str | None) -> None:
    """Have commits wait for this standby, or for none."""
    if whom is None:
        await connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
    else:
        await connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{whom}'")
    await connection.execute("SELECT pg_reload_conf()")
