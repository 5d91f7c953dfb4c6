"""What an attempt says to whoever counts."""

from libs.observability.metrics import WEBHOOK_ATTEMPTS, WEBHOOK_LATENCY
from services.webhooks.claims import Claimed
from services.webhooks.model import Attempted


def count(claimed: Claimed, attempted: Attempted) -> None:
    WEBHOOK_ATTEMPTS.add(1, {"outcome": outcome(attempted)})
    if attempted.accepted and claimed.occurred_at is not None:
        WEBHOOK_LATENCY.record((attempted.ended_at - claimed.occurred_at).total_seconds())


def outcome(attempted: Attempted) -> str:
    """``accepted``, ``no_answer``, or a class of status codes such as ``5xx``."""
    if attempted.accepted:
        return "accepted"
    if attempted.status_code is None:
        return "no_answer"
    return f"{attempted.status_code // 100}xx"
