"""What an operator sees of the deliveries and endpoints, looked up now and then.

Deliveries are counted in the indexes of those that are pending, however many were ever made.
"""

from collections.abc import Callable
from datetime import datetime

from libs.eventlog.connection import Pool
from libs.observability.metrics import WEBHOOK_ENDPOINTS, WEBHOOKS_OVERDUE, WEBHOOKS_PENDING

ALL = (WEBHOOKS_PENDING, WEBHOOKS_OVERDUE, WEBHOOK_ENDPOINTS)

STATES = ("healthy", "failing", "held", "disabled")

# Two counts, as there are two indexes: of events and of pings.
PENDING_SQL = """
SELECT
    (SELECT count(*) FROM webhooks.delivery WHERE status = 'pending' AND payload IS NULL)
    + (SELECT count(*) FROM webhooks.delivery WHERE status = 'pending' AND payload IS NOT NULL)
"""
# Of those who would take it: the others are asked again when it is their turn.
OVERDUE_SQL = """
SELECT min(earliest.next_at) FROM webhooks.endpoint e CROSS JOIN LATERAL (
    SELECT next_at FROM webhooks.delivery d
    WHERE d.endpoint_id = e.id AND d.status = 'pending' AND d.payload IS NULL
    ORDER BY next_at LIMIT 1) AS earliest
WHERE e.enabled AND e.failing_since IS NULL AND (e.held_until IS NULL OR e.held_until <= $1)
"""
ENDPOINTS_SQL = """
SELECT CASE WHEN NOT enabled THEN 'disabled' WHEN held_until > $1 THEN 'held'
            WHEN failing_since IS NOT NULL THEN 'failing' ELSE 'healthy' END AS state,
    count(*) AS endpoints
FROM webhooks.endpoint WHERE account_id IS NOT NULL GROUP BY 1
"""


async def look(pool: Pool, now: Callable[[], datetime]) -> None:
    moment = now()
    pending = await pool.fetchval(PENDING_SQL)
    earliest = await pool.fetchval(OVERDUE_SQL, moment)
    rows = await pool.fetch(ENDPOINTS_SQL, moment)
    endpoints = {row["state"]: row["endpoints"] for row in rows}
    WEBHOOKS_PENDING.show((pending,))
    late = (moment - earliest).total_seconds() if earliest else 0.0
    WEBHOOKS_OVERDUE.show((max(late, 0.0),))
    WEBHOOK_ENDPOINTS.show(*((endpoints.get(state, 0), state) for state in STATES))
