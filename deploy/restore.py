"""A whole local stack again, in a new folder, from a backup of one."""

import asyncio
import os
import shlex
import shutil
import signal
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import asyncpg

from deploy.local import postgres, s3
from deploy.local.backup import Say, Taken, copies, copy_objects
from deploy.local.program import Program, StackError, free_port
from deploy.local.state import Secrets, load
from deploy.local.supervisor import Supervisor
from deploy.restored import Restored, take_up_again
from libs.eventlog.migrations import migrate

POLL = 0.1  # seconds


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
    shutil.copytree(target / "kept", unfinished, dirs_exist_ok=True)
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

    port = free_port()
    server = asyncio.create_task(
        supervisor.run(_recovering(unfinished / "postgres", target / "wal", until, port=port))
    )
    try:
        maintenance, dsn = (
            postgres.dsn(
                role=postgres.ADMIN, password=known.postgres_admin, port=port, database=database
            )
            for database in ("postgres", postgres.DATABASE)
        )
        await _recovered(maintenance, server)
        say(f"database restored from the copy {copy.name}")
        await migrate(dsn, known.postgres_roles)
        done = await take_up_again(dsn, now=now, is_there=is_there)
        os.kill(int(supervisor.pid_file("postgres").read_text()), signal.SIGINT)
        await server
    finally:
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)
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
    """PostgreSQL, which replays what was archived, up to ``until``, and then goes on by itself.

    The segment that was being written is there as ``.partial``. Commits wait for no archive here.
    """
    (folder / "recovery.signal").touch()
    fetch = " || ".join(
        f'cp {shlex.quote(str(wal)).replace("%", "%%")}/%f{ending} "%p" 2>/dev/null'
        for ending in ("", ".partial")
    )
    settings = {
        "restore_command": fetch,
        "recovery_target_action": "promote",
        "synchronous_standby_names": "",
    }
    if until is not None:
        settings["recovery_target_time"] = until.isoformat()
    whole = postgres.program(folder, port=port)
    more = tuple(word for key, value in settings.items() for word in ("-c", f"{key}={value}"))
    return Program(
        name=whole.name,
        argv=(*whole.argv, *more),
        stop_signal=whole.stop_signal,
        identity=postgres.identity((folder, postgres.binaries(), wal)),
    )


async def _recovered(maintenance_dsn: str, server: "asyncio.Task[None]") -> None:
    """Wait until everything is replayed. `StackError` names PostgreSQL's log when it has ended."""
    while True:
        if server.done():
            server.result()
            raise StackError("PostgreSQL ended by itself in the middle of the restore.")
        if await postgres.answers(maintenance_dsn):
            connection = await asyncpg.connect(maintenance_dsn)
            try:
                if not await connection.fetchval("SELECT pg_is_in_recovery()"):
                    await connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
                    return
            finally:
                await connection.close()
        await asyncio.sleep(POLL)
