"""Pings: what tests a webhook, for an owner who waits for it."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from deploy.local.s3 import S3Settings
from tests.integration.gateway_app import Gateway, decoded, running_gateway
from tests.integration.webhook_story import (
    DELIVERY_FIELDS,
    Mine,
    accepted,
    account_with_webhook,
    due_now,
    listed,
    post,
    row_of,
)
from tests.support.stack import Database, Nats


@pytest.fixture(scope="module")
async def gateway(
    database: Database, nats_server: Nats, s3: S3Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    models: Path = tmp_path_factory.mktemp("models")
    async with running_gateway(database, nats_server, s3, models) as running:
        yield running


@pytest.fixture
async def mine(gateway: Gateway) -> Mine:
    return await account_with_webhook(gateway)


async def test_a_test_sends_a_ping_once_under_a_key_also_to_a_disabled_webhook(
    gateway: Gateway, mine: Mine
) -> None:
    await gateway.client.patch(mine.path, headers=mine.headers, json={"enabled": False})
    wakes = len(gateway.wakes)

    first = await post(gateway, mine, "/test", "p")
    again = await post(gateway, mine, "/test", "p")
    another = await accepted(gateway, mine, "/test")

    assert (first.status_code, again.status_code) == (202, 202)
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"
    assert len(gateway.wakes) >= wakes + 2
    ping = decoded(first)
    assert set(ping) == DELIVERY_FIELDS
    assert (ping["event_type"], ping["job_id"], ping["status"]) == ("ping", None, "pending")
    assert (ping["attempt_count"], ping["attempts"]) == (0, [])
    assert ping["webhook_id"] == mine.webhook_id
    row = await row_of(gateway, ping["id"])
    assert due_now(gateway, row)
    payload = msgspec.json.decode(row["payload"])
    assert payload == {
        "type": "ping",
        "timestamp": ping["created_at"],
        "data": {"webhook_id": mine.webhook_id},
    }
    assert [one["id"] for one in (await listed(gateway, mine))["data"]] == [
        another["id"],
        ping["id"],
    ]


async def test_whoever_tests_a_webhook_that_hangs_has_two_pings_on_their_way_and_no_more(
    gateway: Gateway, mine: Mine
) -> None:
    other = await account_with_webhook(gateway)

    ids = [(await accepted(gateway, mine, "/test"))["id"] for _ in range(4)]
    elsewhere = (await accepted(gateway, other, "/test"))["id"]
    settle = "UPDATE webhooks.delivery SET status = 'failed', next_at = NULL WHERE id = $1"
    await gateway.admin.execute(settle, UUID(ids[0]))
    later = (await accepted(gateway, mine, "/test"))["id"]

    assert ids[0] != ids[1] == ids[2] == ids[3]
    assert len({*ids, elsewhere, later}) == 4
