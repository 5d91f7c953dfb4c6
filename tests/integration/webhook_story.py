"""An account with a webhook, and what delivery leaves behind."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
from msgspec import Struct

from tests.integration.gateway_app import Gateway, bearer, decoded
from tests.integration.webhook_client import PATH, URL

ENDED = datetime.fromisoformat("2026-11-01T12:00:00Z")
HOUR = timedelta(hours=1)
DELIVERY_FIELDS = {
    *("id", "webhook_id", "event_id", "event_type", "job_id", "status", "attempt_count"),
    *("next_attempt_at", "delivered_at", "created_at", "attempts"),
}


class Mine(Struct, frozen=True, kw_only=True):
    """An account with a webhook."""

    account_id: UUID
    headers: dict[str, str]
    webhook_id: str

    @property
    def path(self) -> str:
        return f"{PATH}/{self.webhook_id}"


async def account_with_webhook(gateway: Gateway, **body: Any) -> Mine:
    account_id, key = await gateway.account(cents=0)
    made = await gateway.client.post(PATH, headers=bearer(key), json={"url": URL} | body)
    return Mine(account_id=account_id, headers=bearer(key), webhook_id=decoded(made)["id"])


async def post(
    gateway: Gateway, mine: Mine, path: str, key: str | None = None, body: Any = None
) -> httpx.Response:
    keyed = mine.headers | ({"Idempotency-Key": key} if key else {})
    return await gateway.client.post(f"{mine.path}{path}", headers=keyed, json=body)


async def accepted(
    gateway: Gateway, mine: Mine, path: str, key: str | None = None, body: Any = None
) -> Any:
    answer = await post(gateway, mine, path, key, body)
    assert answer.status_code == 202, answer.text
    return decoded(answer)


async def listed(gateway: Gateway, mine: Mine, **query: Any) -> Any:
    answer = await gateway.client.get(f"{mine.path}/deliveries", headers=mine.headers, params=query)
    assert answer.status_code == 200, answer.text
    return decoded(answer)


async def happened(
    gateway: Gateway,
    mine: Mine,
    *,
    at: datetime = ENDED,
    kind: str = "job.completed",
    payload: bytes | None = b"{}",
) -> UUID:
    """An event of the account's that webhooks has recorded."""
    event_id = uuid4()
    await gateway.admin.execute(
        "INSERT INTO webhooks.notification"
        " (event_id, job_id, account_id, event_type, occurred_at, payload)"
        " VALUES ($1, $2, $3, $4, $5, $6)",
        *(event_id, uuid4(), mine.account_id, kind, at, payload),
    )
    return event_id


async def sent(
    gateway: Gateway,
    mine: Mine,
    status: str,
    *,
    at: datetime = ENDED,
    responses: Sequence[str] = (),
) -> str:
    """A delivery as the sender leaves it, with so many attempts. Gives its id."""
    event_id = await happened(gateway, mine, at=at)
    delivery_id = uuid4()
    await gateway.admin.execute(
        "INSERT INTO webhooks.delivery (id, endpoint_id, event_id, event_type, job_id, status,"
        " step, attempts, next_at, delivered_at, created_at)"
        " SELECT $1, $2, event_id, event_type, job_id, $3::text, $4, $4,"
        " CASE WHEN $3 = 'pending' THEN $5::timestamptz + interval '10 hours' END,"
        " CASE WHEN $3 = 'delivered' THEN $5::timestamptz END, $5"
        " FROM webhooks.notification WHERE event_id = $6",
        *(delivery_id, UUID(mine.webhook_id), status, len(responses), at, event_id),
    )
    await gateway.admin.execute(
        "INSERT INTO webhooks.attempt"
        " SELECT $1, number, $2::timestamptz + number * interval '1 minute', 12, 500, NULL, said"
        " FROM unnest($3::text[]) WITH ORDINALITY AS one (said, number)",
        *(delivery_id, at, list(responses)),
    )
    return str(delivery_id)


async def row_of(gateway: Gateway, delivery_id: str) -> Any:
    return await gateway.admin.fetchrow(
        "SELECT * FROM webhooks.delivery WHERE id = $1", UUID(delivery_id)
    )


def due_now(gateway: Gateway, row: Any) -> bool:
    at_start_of_schedule: bool = (row["status"], row["step"]) == ("pending", 0)
    return at_start_of_schedule and row["next_at"] <= gateway.clock.now()
