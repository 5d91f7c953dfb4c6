"""What every service depends on, as the relay looks at it for all: the outbox, JetStream's
consumers, PostgreSQL.

Each relay looks, also one that stands by, so that a relay which hangs does not hide that it does.
"""

from nats.js import JetStreamContext

from libs.bus.streams import STREAMS, consumers_of, streams_exist
from libs.eventlog.connection import Pool
from libs.observability.metrics import (
    CONNECTIONS,
    CONSUMER_PENDING,
    CONSUMER_REDELIVERED,
    CONSUMER_UNACKED,
    DATABASE_SIZE,
    DEADLOCKS,
    LOOKED_AT,
    MAX_CONNECTIONS,
    OUTBOX,
    OUTBOX_AGE,
    STREAM_MESSAGES,
    STREAM_SIZE,
    TRANSACTIONS,
)

OF_NATS = (
    CONSUMER_PENDING,
    CONSUMER_UNACKED,
    CONSUMER_REDELIVERED,
    STREAM_MESSAGES,
    STREAM_SIZE,
)
OF_POSTGRES = (
    *(OUTBOX, OUTBOX_AGE, CONNECTIONS, MAX_CONNECTIONS),
    *(TRANSACTIONS, DEADLOCKS, DATABASE_SIZE),
)

# The oldest is the first of the outbox, and one event is read of the log.
OUTBOX_SQL = f"""
SELECT (SELECT count(*) FROM (SELECT FROM log.outbox LIMIT {LOOKED_AT}) o) AS events,
    (SELECT extract(epoch FROM clock_timestamp() - recorded_at)::float8 FROM log.event
     WHERE position = (SELECT min(position) FROM log.outbox)) AS age
"""
DATABASE_SQL = """
SELECT numbackends, xact_commit, xact_rollback, deadlocks,
    current_setting('max_connections')::int AS max_connections,
    pg_database_size(datid) AS size
FROM pg_stat_database WHERE datname = current_database()
"""


async def look_at_postgres(pool: Pool) -> None:
    outbox, database = await pool.fetchrow(OUTBOX_SQL), await pool.fetchrow(DATABASE_SQL)
    assert outbox is not None
    assert database is not None
    OUTBOX.show((outbox["events"],))
    OUTBOX_AGE.show((max(outbox["age"] or 0.0, 0.0),))
    CONNECTIONS.show((database["numbackends"],))
    MAX_CONNECTIONS.show((database["max_connections"],))
    TRANSACTIONS.show(
        (database["xact_commit"], "committed"), (database["xact_rollback"], "rolled_back")
    )
    DEADLOCKS.show((database["deadlocks"],))
    DATABASE_SIZE.show((database["size"],))


async def look_at_nats(jetstream: JetStreamContext) -> None:
    """Raises as nats-py does when NATS is away. The first relay of all waits here for itself to
    declare the streams."""
    names = [str(one.name) for one in STREAMS]
    await streams_exist(jetstream, frozenset(names))
    states = {name: (await jetstream.stream_info(name)).state for name in names}
    consumers = [(name, one) for name in names for one in await consumers_of(jetstream, name)]
    STREAM_MESSAGES.show(*((state.messages, name) for name, state in states.items()))
    STREAM_SIZE.show(*((state.bytes, name) for name, state in states.items()))
    for gauge, number in (
        (CONSUMER_PENDING, "num_pending"),
        (CONSUMER_UNACKED, "num_ack_pending"),
        (CONSUMER_REDELIVERED, "num_redelivered"),
    ):
        gauge.show(*((getattr(one, number) or 0, name, one.name) for name, one in consumers))
