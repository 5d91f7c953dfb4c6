"""A process that dies in the middle of a retry: nothing is lost, and the effect happens once."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from uuid import uuid4

from libs.eventlog.connection import connect, create_pool
from libs.eventlog.dead_letters import ATTEMPTS, DeadLetters
from services.scheduler.handlers import Scheduler
from services.scheduler.reports import handle_report
from tests.support.failpoints import DIED, LIVED, Arm, run_apart
from tests.support.letters import REPORTS, Leased, bury_report, leased, starts_of
from tests.support.stack import Database
from tests.support.waiting import eventually

MOST_POINTS = 200  # a retry has some forty awaits
OTHERS_SQL = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND usename <> current_user
"""


async def retry(dsn: str, arm: Arm) -> None:
    """What the scheduler's process does when an operator wants a report handled again."""
    async with create_pool(dsn, size=2) as pool:
        scheduler = Scheduler(
            pool=pool, now=lambda: datetime.now(UTC), new_id=uuid4, committed=lambda: None
        )
        letters = DeadLetters(pool=pool, handlers={REPORTS: partial(handle_report, scheduler)})
        arm()
        await letters.retry()


async def wanted(database: Database) -> Leased:
    """A dead letter that an operator wants handled again."""
    connection = await connect(database.admin_dsn)
    job = await leased(connection)
    letter = await bury_report(database, job)
    await connection.execute(
        "UPDATE log.dead_letter SET attempts_left = $2 WHERE id = $1", letter, ATTEMPTS
    )
    await connection.close()
    return job


async def found(database: Database, job: Leased) -> tuple[int, list[int]]:
    """How often the effect happened; of each letter that is left, the attempts that it has. Told
    when PostgreSQL has noticed a death: until then whoever died has its letter locked."""
    connection = await connect(database.admin_dsn)
    await eventually(partial(connection.fetchval, OTHERS_SQL), (0).__eq__)
    rows = await connection.fetch("SELECT attempts_left FROM log.dead_letter")
    starts = await starts_of(connection, job)
    await connection.close()
    return starts, [row["attempts_left"] for row in rows]


def test_a_death_at_any_await_loses_nothing_and_repeats_nothing(database: Database) -> None:
    again: Callable[[Arm], Awaitable[None]] = partial(retry, database.dsn("scheduler"))
    for point in range(1, MOST_POINTS):
        job = asyncio.run(wanted(database))
        ended = run_apart(again, die_at=point)
        if ended == LIVED:
            break
        assert ended == DIED
        starts, letters = asyncio.run(found(database, job))
        assert letters or starts == 1, f"lost at point {point}"
        assert run_apart(again) == LIVED
        assert asyncio.run(found(database, job)) == (1, []), f"killed at point {point}"
    assert ended == LIVED
    assert point > 20, "it died at hardly any await"


async def die(_: bytes) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def try_to_death(dsn: str, _: Arm) -> None:
    async with create_pool(dsn, size=2) as pool:
        await DeadLetters(pool=pool, handlers={REPORTS: die}).retry()


def test_a_message_that_kills_its_process_does_so_a_few_times_and_is_still_there(
    database: Database,
) -> None:
    job = asyncio.run(wanted(database))
    to_death = partial(try_to_death, database.dsn("scheduler"))
    ends = []
    for _ in range(ATTEMPTS + 1):
        ends.append(run_apart(to_death))
        starts, left = asyncio.run(found(database, job))
    assert ends == [-signal.SIGKILL] * ATTEMPTS + [LIVED]
    assert (starts, left) == (0, [0])
