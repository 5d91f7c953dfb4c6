"""What is over is kept for a month, so that its owner can look into it or ask for it again."""

from collections.abc import Callable
from datetime import datetime, timedelta

from libs.eventlog.connection import Pool

KEPT = timedelta(days=30)
BATCH = 1_000  # rows a statement: some ten milliseconds, during which nobody waits

# What is pending for a month belongs to an endpoint that was disabled all the time.
TRIM_DELIVERIES_SQL = """
DELETE FROM webhooks.delivery WHERE id = ANY (ARRAY(
    SELECT id FROM webhooks.delivery WHERE created_at < $1
    ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED))
"""
TRIM_NOTIFICATIONS_SQL = """
DELETE FROM webhooks.notification WHERE event_id = ANY (ARRAY(
    SELECT event_id FROM webhooks.notification WHERE occurred_at < $1
    ORDER BY occurred_at LIMIT $2 FOR UPDATE SKIP LOCKED))
"""


async def trim(pool: Pool, now: Callable[[], datetime]) -> None:
    """Deletes what is older than ``KEPT``, in batches; safe in several replicas at once."""
    for sql in (TRIM_DELIVERIES_SQL, TRIM_NOTIFICATIONS_SQL):
        while await pool.execute(sql, now() - KEPT, BATCH) == f"DELETE {BATCH}":
            pass
