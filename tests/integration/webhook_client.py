"""What tests of webhooks say to the gateway."""

import base64
from typing import Any
from uuid import UUID

import httpx

from tests.integration.gateway_app import Gateway, decoded

PATH = "/v1/webhooks"
URL = "https://hooks.example.com/tuneyard?of=me"
FIELDS = {
    *("id", "url", "description", "event_types", "enabled", "disabled_reason", "disabled_at"),
    *("failing_since", "held_until", "created_at", "updated_at"),
}


async def create(
    gateway: Gateway, headers: dict[str, str], key: str | None = None, **body: Any
) -> httpx.Response:
    keyed = headers | ({"Idempotency-Key": key} if key else {})
    return await gateway.client.post(PATH, headers=keyed, json={"url": URL} | body)


async def created(gateway: Gateway, headers: dict[str, str], **body: Any) -> Any:
    answer = await create(gateway, headers, **body)
    assert answer.status_code == 201, answer.text
    return decoded(answer)


async def get(gateway: Gateway, headers: dict[str, str], path: str, **query: Any) -> Any:
    answer = await gateway.client.get(path, headers=headers, params=query)
    assert answer.status_code == 200, answer.text
    return decoded(answer)


async def patch(
    gateway: Gateway, headers: dict[str, str], webhook_id: str, **body: Any
) -> httpx.Response:
    return await gateway.client.patch(f"{PATH}/{webhook_id}", headers=headers, json=body)


async def rotate(
    gateway: Gateway, headers: dict[str, str], webhook_id: str, key: str | None = None
) -> httpx.Response:
    keyed = headers | ({"Idempotency-Key": key} if key else {})
    return await gateway.client.post(f"{PATH}/{webhook_id}/rotate-secret", headers=keyed)


async def row_of(gateway: Gateway, webhook_id: str) -> Any:
    return await gateway.admin.fetchrow(
        "SELECT * FROM webhooks.endpoint WHERE id = $1", UUID(webhook_id)
    )


def key_of(secret: str) -> bytes:
    assert secret.startswith("whsec_")
    return base64.b64decode(secret.removeprefix("whsec_"), validate=True)


def error_of(answer: httpx.Response, status: int, code: str) -> str:
    assert (answer.status_code, decoded(answer)["error"]["code"]) == (status, code), answer.text
    message: str = decoded(answer)["error"]["message"]
    return message
