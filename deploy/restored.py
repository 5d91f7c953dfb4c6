"""What a database needs that was taken back in time, before any service works on it again.

The platform has lived on after the moment it was taken back to, and others may remember what it
does not: trainers their leases, clients their places in a stream. So whatever it numbers goes on
from the clock, far above what the lost history can have reached (docs/decisions/0028-restore.md).
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from msgspec import Struct

from deploy.local.program import StackError
from deploy.rebuild import REBUILD_TIMEOUT
from libs.bus.republish import publish_again
from libs.bus.streams import DAY, EVENTS_DAYS
from libs.eventlog.connection import Connection, connect, create_pool
from libs.eventlog.migrations import ROLES
from services.scheduler.handlers import Scheduler
from services.scheduler.restored import queue_again

ZERO = datetime(2026, 1, 1, tzinfo=UTC)
"""Nothing of the platform is older, and all numbers stay below 2**53 for centuries."""

EVENT = timedelta(microseconds=1)
"""The log has less than a million events a second, so no history ever gets ahead of the clock."""

MESSAGE = timedelta(milliseconds=1)
"""An account's streams have less than a thousand messages a second, over years."""

ATTEMPT = timedelta(minutes=10)
"""A job has six attempts at most. An epoch is below a million (`Epoch`): until the year 2045."""

POSITION_SQL = """
SELECT setval(pg_get_serial_sequence('log.event', 'position'),
              greatest($1, (SELECT max(position) FROM log.event)))
"""
PLACES_SQL = "UPDATE telemetry.sequence SET last = greatest(last, $1)"
FENCE_SQL = "UPDATE scheduler.fence SET floor = greatest(floor, $1)"
USED_SQL = "SELECT DISTINCT usename FROM pg_stat_activity WHERE usename = ANY($1) ORDER BY 1"

IsThere = Callable[[str], Awaitable[bool]]
"""Whether an object has this key."""


class Restored(Struct, frozen=True, kw_only=True):
    """The last thing that is remembered, the jobs that were taken from their trainers, and the
    events that are published again."""

    last_event_at: datetime | None
    queued: int
    published: int


async def everything_is_there(_key: str) -> bool:
    """Of a bucket that was not restored."""
    return True


async def take_up_again(
    admin_dsn: str, *, now: Callable[[], datetime], is_there: IsThere = everything_is_there
) -> Restored:
    """Make a restored database one that services may work on. Doing it twice does no harm.

    `StackError` while a service is connected.
    """
    connection = await connect(admin_dsn, command_timeout=REBUILD_TIMEOUT)
    try:
        await _refuse_company(connection)
        last = await connection.fetchval("SELECT max(recorded_at) FROM log.event")
        async with connection.transaction():
            await number_from_the_clock(connection, now())
        async with create_pool(admin_dsn, size=2) as pool:
            scheduler = Scheduler(pool=pool, now=now, new_id=uuid4, committed=lambda: None)
            queued = await queue_again(scheduler, is_there)
        since = now() - timedelta(seconds=EVENTS_DAYS * DAY)
        published = await publish_again(connection, since=since)
    finally:
        await connection.close()
    return Restored(last_event_at=last, queued=queued, published=published)


async def number_from_the_clock(connection: Connection, now: datetime) -> None:
    """Positions of events, places in streams and fencing epochs, in the caller's transaction."""
    since = now - ZERO
    await connection.execute(POSITION_SQL, since // EVENT)
    await connection.execute(PLACES_SQL, since // MESSAGE)
    await connection.execute(FENCE_SQL, since // ATTEMPT)


async def _refuse_company(connection: Connection) -> None:
    rows = await connection.fetch(USED_SQL, list(ROLES))
    if rows:
        raise StackError(
            f"{', '.join(row['usename'] for row in rows)} is connected to the database: stop every"
            " service first, and start them when this has ended."
        )
