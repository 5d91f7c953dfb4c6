"""Filling JetStream again from the log, after its streams were lost: through the outbox, in order.

The relay publishes what is in the outbox, whether for the first time or again. A consumer that has
handled an event knows it by its inbox; a subscriber, by the event's id. The inbox is trimmed, so
nothing is published again that its stream would not keep either.
"""

from datetime import datetime

from libs.bus.trim import STREAM_KEEPS
from libs.eventlog.connection import Connection

AGAIN_SQL = """
INSERT INTO log.outbox (position)
SELECT position FROM log.event WHERE recorded_at >= greatest($1, now() - $2::interval)
ON CONFLICT DO NOTHING
"""


async def publish_again(connection: Connection, *, since: datetime) -> int:
    """Put every event back into the outbox that was recorded since then, and within the days that
    the stream keeps; how many."""
    status = await connection.execute(AGAIN_SQL, since, STREAM_KEEPS)
    return int(status.rpartition(" ")[2])
