"""Filling JetStream again from the log, after its streams were lost: through the outbox, in order.

The relay publishes what is in the outbox, whether for the first time or again. A consumer that has
handled an event knows it by its inbox; a subscriber, by the event's id.
"""

from datetime import datetime

from libs.eventlog.connection import Connection

AGAIN_SQL = """
INSERT INTO log.outbox (position)
SELECT position FROM log.event WHERE recorded_at >= $1
ON CONFLICT DO NOTHING
"""


async def publish_again(connection: Connection, *, since: datetime) -> int:
    """Put every event back into the outbox that was recorded since then; how many."""
    status = await connection.execute(AGAIN_SQL, since)
    return int(status.rpartition(" ")[2])
