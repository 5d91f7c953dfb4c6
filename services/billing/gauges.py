"""What an operator sees of the money that is not settled, looked up now and then.

Each look goes by an index of what is open, so it costs by that, and not by all that was ever paid.
"""

from libs.observability.metrics import (
    ACCOUNTS_PAUSED,
    MONEY_HELD,
    PAYMENTS_DUE,
    PROVIDER_EVENTS_WAITING,
)
from services.billing.payments import Billing

ALL = (MONEY_HELD, PAYMENTS_DUE, ACCOUNTS_PAUSED, PROVIDER_EVENTS_WAITING)

HELD_SQL = """
SELECT status, sum(amount_cents)::bigint AS amount FROM billing.payment
WHERE status IN ('reserved', 'pledged') GROUP BY status
"""
OPEN_SQL = """
SELECT (SELECT min(due_at) FROM billing.payment WHERE due_at < 'infinity') AS due_at,
    (SELECT count(DISTINCT account_id) FROM billing.payment WHERE hold <> '') AS paused,
    (SELECT count(*) FROM billing.provider_event WHERE handled_at IS NULL) AS events
"""


async def look(billing: Billing) -> None:
    held = {row["status"]: row["amount"] for row in await billing.pool.fetch(HELD_SQL)}
    row = await billing.pool.fetchrow(OPEN_SQL)
    assert row is not None
    waits = (billing.now() - row["due_at"]).total_seconds() if row["due_at"] else 0.0
    currency = billing.prices.currency
    MONEY_HELD.show(*((held.get(one, 0), one, currency) for one in ("reserved", "pledged")))
    PAYMENTS_DUE.show((max(waits, 0.0),))
    ACCOUNTS_PAUSED.show((row["paused"],))
    PROVIDER_EVENTS_WAITING.show((row["events"],))
