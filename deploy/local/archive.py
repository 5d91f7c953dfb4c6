"""What the local stack commits, taken along as it happens into the folder of a backup."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from deploy.local import postgres
from deploy.local.copied import (
    ARCHIVED,
    HISTORY_SQL,
    Archived,
    Say,
    Source,
    bucket,
    client,
    connected,
    copy_objects,
    folder_for_postgres,
    keep_secrets,
    refuse_another,
    source,
    work_in,
)
from deploy.local.program import Program, StackError
from deploy.local.state import save
from deploy.local.supervisor import Supervisor
from libs.eventlog.connection import Connection

ARCHIVE = "tuneyard_archive"
"""The replication slot that keeps what the archive does not have yet, and the archive's name."""

RECEIVER = "pg_receivewal"

KEEP_EVERY = 1.0  # seconds; a stack whose secrets were changed takes longer to start
OBJECTS_EVERY = 30.0  # seconds; what a lost machine had stored since then is lost with it
CATCH_UP_SECONDS = 600.0  # an archive that is further behind a finished copy does not work
STILL_SECONDS = 60.0  # an archive that is behind has written something by then, or never will
STOP_SECONDS = 10.0
POLL = 0.1


async def archive(
    stack: Source, target: Path, *, synchronous: bool, stop: asyncio.Event, say: Say
) -> None:
    """Until ``stop``: take every commit along as it happens, changed secrets within a second or
    two, and new objects every now and then. `StackError` when it cannot begin; later, what fails
    is said and tried again.

    ``synchronous``: no commit is acknowledged that is not in the archive, on the disk. Should this
    process die, commits wait until it is started again, or started without.
    """
    target, supervisor = await work_in(target, "archiving", say)
    wal = folder_for_postgres(target / "wal")
    async with connected(stack) as connection:
        system: str = await connection.fetchval(HISTORY_SQL)
        refuse_another(target, system)
        save(wal / ARCHIVED, Archived(history=system))
        if not synchronous:
            await _wait_for(connection, None)
        await connection.execute(
            "SELECT pg_create_physical_replication_slot($1, true) WHERE NOT EXISTS"
            " (SELECT FROM pg_replication_slots WHERE slot_name = $1)",
            ARCHIVE,
        )
    keep_secrets(stack.data, target / "kept")
    try:
        await supervisor.start(_receive(stack, wal))
        async with connected(stack) as connection:
            log = supervisor.log_file(RECEIVER)
            await streaming(connection, log=log, within_seconds=STILL_SECONDS)
            if synchronous:
                await _wait_for(connection, ARCHIVE)
        say(f"archiving{' synchronously' if synchronous else ''} into {target}")
        await _take_along(stack, target, supervisor, stop=stop, say=say)
        if synchronous:
            async with connected(source(stack.data)) as connection:
                await _wait_for(connection, None)
    finally:
        await supervisor.stop_all(within_seconds=STOP_SECONDS)


async def _take_along(
    stack: Source, target: Path, supervisor: Supervisor, *, stop: asyncio.Event, say: Say
) -> None:
    """What is no commit, until ``stop``."""
    address = stack.dsn

    async def secrets() -> None:
        nonlocal address
        keep_secrets(stack.data, target / "kept")
        current = source(stack.data)
        if current.dsn != address:  # another password of the owner's, or another port
            await supervisor.stop([RECEIVER], within_seconds=STOP_SECONDS)
            await supervisor.start(_receive(current, target / "wal"))
            address = current.dsn

    async def objects() -> None:
        await copy_objects(supervisor, bucket(stack.data), target / "objects")

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_again_and_again(secrets, KEEP_EVERY, stop=stop, say=say))
        tasks.create_task(_again_and_again(objects, OBJECTS_EVERY, stop=stop, say=say))


async def _again_and_again(
    what: Callable[[], Awaitable[None]], every: float, *, stop: asyncio.Event, say: Say
) -> None:
    """Until ``stop``. Commits may wait for the archive, which does not end for anything else."""
    said = None
    while not stop.is_set():
        try:
            await what()
            said = None
        except (StackError, OSError) as error:
            if str(error) != said:
                said = str(error)
                say(f"{said} Commits are archived; this is tried again every {every:.0f} s.")
        with suppress(TimeoutError):
            async with asyncio.timeout(every):
                await stop.wait()


def _receive(stack: Source, wal: Path) -> Program:
    run_as = postgres.identity((wal, postgres.binaries()))
    return client(
        *(stack, RECEIVER, run_as, "--directory", str(wal)),
        *("--slot", ARCHIVE, "--synchronous"),
        known_as=ARCHIVE,
    )


class _Place(Struct, frozen=True):
    """Up to where the archive has what it was sent, and whether that is everything."""

    flushed: str
    caught_up: bool


async def streaming(connection: Connection, *, log: Path, within_seconds: float) -> None:
    """Wait until the archive has caught up. `StackError` when for so long nothing has come to it;
    the receiver's ``log`` says why."""
    former = None
    try:
        while former is None or not former.caught_up:
            async with asyncio.timeout(within_seconds):
                while (place := await _place(connection)) in (None, former):  # noqa: ASYNC110
                    await asyncio.sleep(POLL)
            former = place
    except TimeoutError:
        raise StackError(
            f"Nothing has come to the archive for {within_seconds:.0f} s; its log is {log}. If that"
            f" says that WAL has been removed, drop the replication slot {ARCHIVE}, archive into"
            " another folder, and take a backup into that one."
        ) from None


async def _place(connection: Connection) -> _Place | None:
    """None where there is no archive."""
    row = await connection.fetchrow(
        "SELECT flush_lsn::text, state = 'streaming' FROM pg_stat_replication"
        " WHERE application_name = $1 AND flush_lsn IS NOT NULL"
        " AND pid IN (SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1)",
        ARCHIVE,
    )
    return _Place(*row) if row else None


async def archived(connection: Connection) -> bool:
    """Whether there is an archive; waits until it has what was committed before."""
    now = await connection.fetchval("SELECT pg_current_wal_flush_lsn()::text")
    async with asyncio.timeout(CATCH_UP_SECONDS):
        while (place := await _place(connection)) is not None and place.caught_up:
            if await connection.fetchval(
                "SELECT $1::text::pg_lsn >= $2::text::pg_lsn", place.flushed, now
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
