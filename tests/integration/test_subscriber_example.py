"""The documentation's example on the real log, relay and NATS, killed in the middle of its work."""

import asyncio
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

from deploy.local.program import clean_environment
from deploy.local.services import ROOT
from libs.eventlog.connection import connect
from tests.support.jobs import complete
from tests.support.stack import Database
from tests.support.subscribers import House, house
from tests.support.waiting import eventually, patient

EXAMPLE = ROOT / "docs/examples/completed_jobs.py"
JOBS = 400
MORE = 20  # jobs that are completed while a program that is to be killed does nothing
KILLS = (60, 220)  # rows; the rest has come, and waits in the program or in NATS


async def start(*command: str, **settings: str) -> asyncio.subprocess.Process:
    environment = {f"TUNEYARD_{name.upper()}": value for name, value in settings.items()}
    return await asyncio.create_subprocess_exec(
        sys.executable, *command, cwd=ROOT, env=clean_environment() | environment
    )


async def end(process: asyncio.subprocess.Process) -> None:
    """By SIGKILL."""
    if process.returncode is None:
        process.kill()
        await process.wait()


@asynccontextmanager
async def relay(stack: House, database: Database) -> AsyncIterator[None]:
    process = await start(
        *("-m", "libs.bus.relay"),
        database_url=database.dsn("relay"),
        nats_url=stack.stack.nats_url("relay"),
    )
    yield
    await end(process)


async def submit_and_complete(database: Database, account: UUID, count: int) -> list[str]:
    """So many jobs, one after the other, that NATS has been told of; their ids."""
    connection = await connect(database.admin_dsn)
    done = [str((await complete(connection, account)).id) for _ in range(count)]
    await eventually(
        lambda: connection.fetchval("SELECT count(*) FROM log.outbox"), lambda left: left == 0
    )
    await connection.close()
    return done


def rows(file: Path) -> list[tuple[str, str]]:
    if not file.exists():
        return []
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as table:
        try:
            return table.execute("SELECT event_id, job_id FROM completed").fetchall()
        except sqlite3.OperationalError:
            return []  # its table is being made


@asynccontextmanager
async def program(url: str, file: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """The example, killed at the end."""
    process = await start(str(EXAMPLE), url, str(file))
    try:
        yield process
    finally:
        await end(process)


async def test_every_completed_job_is_there_once_whatever_dies_or_comes_again(
    database: Database, tmp_path: Path
) -> None:
    file = tmp_path / "jobs.db"

    async def read() -> list[tuple[str, str]]:
        return rows(file)

    async with house() as stack, relay(stack, database):
        jetstream = patient(await stack.operator.connect())

        async def all_acknowledged() -> bool:
            consumer = await jetstream.consumer_info("EVENTS", "sub-analytics")
            return not consumer.num_pending and not consumer.num_ack_pending

        url = await stack.create("analytics")
        account = uuid4()
        jobs = await submit_and_complete(database, account, JOBS)
        for count in KILLS:
            async with program(url, file) as process:
                at_least = count
                await eventually(read, lambda found, n=at_least: len(found) >= n)
                process.send_signal(signal.SIGSTOP)  # however far it has come: there is more to do
                jobs += await submit_and_complete(database, account, MORE)
                assert not await all_acknowledged()
            assert len(rows(file)) < len(jobs), "it was not killed in the middle"
        async with program(url, file):
            await eventually(all_acknowledged, bool)
        found = rows(file)

        await stack.command("remove", "analytics")
        url = await stack.create("analytics")
        assert not await all_acknowledged()
        async with program(url, file):
            await eventually(all_acknowledged, bool)

    assert sorted(job for _, job in found) == sorted(jobs)
    assert rows(file) == found, "each event came again, and changed nothing"
