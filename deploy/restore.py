"""A whole local stack again, in a new folder, from a backup of one."""

import asyncio
import os
import shlex
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

import asyncpg

from deploy.local import postgres, s3
from deploy.local.copied import UNFINISHED, Say, Taken, copies, copy_objects
from deploy.local.program import Program, StackError, free_port
from deploy.local.rotation import tell_postgres
from deploy.local.state import Secrets, load
from deploy.local.supervisor import Supervisor
from deploy.restored import Restored, take_up_again
from libs.eventlog.migrations import migrate

POLL = 0.1  # seconds
BROKEN = 255  # the exit status of a restore_command that must not be taken for the archive's end
STATUS_LINE = 7  # of postmaster.pid, from 0 (LOCK_FILE_LINE_PM_STATUS in PostgreSQL's pidfile.h)


async def restore(
    target: Path,
    new: Path,
    *,
    until: datetime | None,
    now: Callable[[], datetime],
    say: Say,
) -> Restored:
    """Make ``new`` a stack as the one that was copied into ``target`` was at ``until``, or at the
    end of the archive; both paths are absolute. It appears when it is whole. `StackError` says what
    is missing."""
    copy, _ = _choose(target, until)
    unfinished = _begin(new)
    supervisor = Supervisor(unfinished, say)
    half_written = shutil.ignore_patterns(f"*{UNFINISHED}")
    shutil.copytree(target / "kept", unfinished, dirs_exist_ok=True, ignore=half_written)
    known = load(unfinished / "secrets.json", Secrets)
    if known is None:
        raise StackError(f"{target}/kept has no secrets.json: this is no backup of a stack.")
    bucket = unfinished / "s3" / s3.BUCKET
    await copy_objects(supervisor, target / "objects", bucket)
    say("objects restored")
    # As they are, owner and all: PostgreSQL may run as another user than this process.
    await supervisor.run(
        Program(name="copy-base", argv=("cp", "-a", str(copy), str(unfinished / "postgres")))
    )

    async def is_there(key: str) -> bool:
        return (bucket / key).is_file()

    port, cluster = free_port(), unfinished / "postgres"
    async with _running(supervisor, _recovering(cluster, target / "wal", until, port=port)) as ends:
        await _recovered(cluster, ends)
    say(f"database restored from the copy {copy.name}")
    # What is kept and what is restored may be of either side of a change of secrets.
    await asyncio.to_thread(tell_postgres, cluster, known.postgres_admin)
    maintenance, dsn = (
        postgres.dsn(
            role=postgres.ADMIN, password=known.postgres_admin, port=port, database=database
        )
        for database in ("postgres", postgres.DATABASE)
    )
    async with _running(supervisor, _alone(cluster, port=port)) as ends:
        await _waits_for_no_archive(maintenance, ends)
        await migrate(dsn, known.postgres_roles)
        done = await take_up_again(dsn, now=now, is_there=is_there)
    shutil.rmtree(unfinished / "run")
    unfinished.rename(new)
    return done


def _begin(new: Path) -> Path:
    """Where the stack is made, until it is whole."""
    if new.exists() and any(new.iterdir()):
        raise StackError(f"{new} is not empty: choose another --data folder.")
    unfinished = new.with_name(f"{new.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700, parents=True)
    return unfinished


def _choose(target: Path, until: datetime | None) -> tuple[Path, Taken]:
    """The newest copy of the database that had ended by then."""
    found = copies(target)
    if not found:
        raise StackError(f"{target} holds no backup: `tuneyard-server backup` makes one.")
    fitting = [one for one in found if until is None or one[1].ended_at <= until]
    if not fitting:
        raise StackError(
            f"The oldest backup in {target} is of {found[0][1].ended_at.isoformat()}: nothing"
            " before that can be restored."
        )
    return fitting[-1]


def _recovering(folder: Path, wal: Path, until: datetime | None, *, port: int) -> Program:
    """PostgreSQL, which replays what was archived, up to ``until``, and then goes on by itself."""
    (folder / "recovery.signal").touch()
    settings = {
        "restore_command": _fetching(wal),
        "recovery_target_action": "promote",
        "hot_standby": "off",  # the postmaster would say that it is ready in the middle of it
    }
    if until is not None:
        settings["recovery_target_time"] = until.isoformat()
    return _alone(folder, port=port, **settings)


def _fetching(wal: Path) -> str:
    """How PostgreSQL gets a segment; the one that was being written is there as ``.partial``.

    It takes a failure for the archive's end, and goes on with what it has, unless the status is
    above 125 (documentation of `restore_command`).
    """
    folder = shlex.quote(str(wal)).replace("%", "%%")
    if not wal.is_dir():
        return "false"  # nothing was ever archived
    return (
        f"[ -d {folder} ] || exit {BROKEN}; "
        f'if [ -e {folder}/%f ]; then cp {folder}/%f "%p" || exit {BROKEN}; '
        f'elif [ -e {folder}/%f.partial ]; then cp {folder}/%f.partial "%p" || exit {BROKEN}; '
        "else exit 1; fi"
    )


def _alone(folder: Path, *, port: int, **settings: str) -> Program:
    """PostgreSQL, whose commits wait for no archive."""
    whole = postgres.program(folder, port=port)
    settings["synchronous_standby_names"] = ""
    more = tuple(word for key, value in settings.items() for word in ("-c", f"{key}={value}"))
    return Program(
        name=whole.name,
        argv=(*whole.argv, *more),
        stop_signal=whole.stop_signal,
        identity=whole.identity,
    )


@asynccontextmanager
async def _running(supervisor: Supervisor, server: Program) -> AsyncIterator["asyncio.Task[None]"]:
    """A server while the body runs; its task ends with it, or before with a `StackError`."""
    runs = asyncio.create_task(supervisor.run(server))
    try:
        yield runs
        os.kill(int(supervisor.pid_file(server.name).read_text()), server.stop_signal)
        await runs
    finally:
        runs.cancel()
        await asyncio.gather(runs, return_exceptions=True)


async def _recovered(cluster: Path, server: "asyncio.Task[None]") -> None:
    """Wait until everything is replayed, without a password: that of now need not be in it."""
    while not await asyncio.to_thread(_is_in_production, cluster):
        await _a_moment(server)


def _is_in_production(cluster: Path) -> bool:
    """By what the postmaster writes for pg_ctl, which waits in the same way."""
    try:
        lines = (cluster / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) > STATUS_LINE and lines[STATUS_LINE].strip() == "ready"


async def _waits_for_no_archive(maintenance_dsn: str, server: "asyncio.Task[None]") -> None:
    """Have the next start not wait either, as soon as this one answers."""
    while not await postgres.answers(maintenance_dsn):
        await _a_moment(server)
    connection = await asyncpg.connect(maintenance_dsn)
    try:
        await connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
    finally:
        await connection.close()


async def _a_moment(server: "asyncio.Task[None]") -> None:
    """`StackError` when the server has ended; it names PostgreSQL's log."""
    if server.done():
        server.result()
        raise StackError("PostgreSQL ended by itself in the middle of the restore.")
    await asyncio.sleep(POLL)
