"""What is over is kept for a month, so that its owner can look into it or ask for it again; what
belonged to a removed endpoint is not."""

from collections.abc import Callable
from datetime import datetime, timedelta

from libs.eventlog.connection import Pool

KEPT = timedelta(days=30)
BATCH = 1_000  # rows a statement: some ten milliseconds, during which nobody waits

# What is pending for a month belongs to an endpoint that was disabled all the time.
TRIM_DELIVERIES_SQL = """
DELETE FROM webhooks.delivery WHERE id = ANY (ARRAY(
    SELECT id FROM webhooks.delivery WHERE created_at < $1
    LIMIT $2 FOR UPDATE SKIP LOCKED))
"""
# What a removed endpoint has left behind, and then itself.
EMPTY_REMOVED_SQL = """
DELETE FROM webhooks.delivery WHERE id = ANY (ARRAY(
    SELECT d.id FROM webhooks.endpoint e JOIN webhooks.delivery d ON d.endpoint_id = e.id
    WHERE e.account_id IS NULL
    LIMIT $1 FOR UPDATE OF d SKIP LOCKED))
"""
DELETE_REMOVED_SQL = """
DELETE FROM webhooks.endpoint e WHERE account_id IS NULL
    AND NOT EXISTS (SELECT FROM webhooks.delivery d WHERE d.endpoint_id = e.id)
"""
TRIM_NOTIFICATIONS_SQL = """
DELETE FROM webhooks.notification WHERE event_id = ANY (ARRAY(
    SELECT event_id FROM webhooks.notification WHERE occurred_at < $1
    LIMIT $2 FOR UPDATE SKIP LOCKED))
"""


async def trim(pool: Pool, now: Callable[[], datetime]) -> None:
    """Deletes what is older than ``KEPT``, and what was removed, in batches; safe in several
    replicas at once."""
    for sql in (TRIM_DELIVERIES_SQL, TRIM_NOTIFICATIONS_SQL):
        while await pool.execute(sql, now() - KEPT, BATCH) == f"DELETE {BATCH}":
            pass
    while await pool.execute(EMPTY_REMOVED_SQL, BATCH) == f"DELETE {BATCH}":
        pass
    await pool.execute(DELETE_REMOVED_SQL)
