"""A webhook that was switched off by itself: what its owner sees, and what ends it."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest

from deploy.local.s3 import S3Settings
from tests.integration.gateway_app import Gateway, bearer, decoded, running_gateway
from tests.integration.webhook_client import PATH, URL, created, get, patch
from tests.support.stack import Database, Nats


@pytest.fixture(scope="module")
async def gateway(
    database: Database, nats_server: Nats, s3: S3Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    models: Path = tmp_path_factory.mktemp("models")
    async with running_gateway(database, nats_server, s3, models) as running:
        yield running


@pytest.fixture
async def mine(gateway: Gateway) -> dict[str, str]:
    """The headers of a new account."""
    return bearer((await gateway.account(cents=0))[1])


@pytest.fixture
async def other(gateway: Gateway) -> dict[str, str]:
    return bearer((await gateway.account(cents=0))[1])


async def fail(gateway: Gateway, webhook_id: str, reason: str | None) -> None:
    """As delivery leaves an endpoint that fails, or was switched off for it."""
    await gateway.admin.execute(
        "UPDATE webhooks.endpoint SET enabled = $2::text IS NULL, disabled_reason = $2,"
        " disabled_at = CASE WHEN $2::text IS NULL THEN NULL ELSE $3::timestamptz END,"
        " failing_since = $3, held_until = $3 WHERE id = $1",
        UUID(webhook_id),
        reason,
        gateway.clock.now(),
    )


async def test_a_webhook_that_was_switched_off_is_a_notice_until_it_is_enabled(
    gateway: Gateway, mine: dict[str, str], other: dict[str, str]
) -> None:
    made, fine = await created(gateway, mine), await created(gateway, mine)
    assert (await get(gateway, mine, "/v1/me"))["notices"] == []
    await fail(gateway, made["id"], "failing")

    seen = await get(gateway, mine, f"{PATH}/{made['id']}")
    (notice,) = (await get(gateway, mine, "/v1/me"))["notices"]
    wakes = len(gateway.wakes)
    enabled = decoded(await patch(gateway, mine, made["id"], enabled=True))

    assert (seen["enabled"], seen["disabled_reason"]) == (False, "failing")
    assert set(notice) == {"code", "message", "created_at", "webhook_id"}
    assert (notice["code"], notice["webhook_id"]) == ("webhook_disabled", made["id"])
    assert notice["created_at"] == seen["disabled_at"]
    assert URL in notice["message"]
    assert (await get(gateway, other, "/v1/me"))["notices"] == []
    for name in ("disabled_reason", "disabled_at", "failing_since", "held_until"):
        assert enabled[name] is None, name
    assert enabled["enabled"] is True
    assert len(gateway.wakes) > wakes
    assert (await get(gateway, mine, "/v1/me"))["notices"] == []
    assert (await get(gateway, mine, f"{PATH}/{fine['id']}"))["enabled"] is True


async def test_whoever_switches_a_webhook_off_is_not_told_of_it(
    gateway: Gateway, mine: dict[str, str]
) -> None:
    made = await created(gateway, mine)
    await fail(gateway, made["id"], "gone")
    before = await get(gateway, mine, "/v1/me")

    off = decoded(await patch(gateway, mine, made["id"], enabled=False))

    assert [notice["webhook_id"] for notice in before["notices"]] == [made["id"]]
    assert (off["enabled"], off["disabled_reason"]) == (False, None)
    assert off["disabled_at"] == before["notices"][0]["created_at"]
    renamed = await gateway.client.patch("/v1/me", headers=mine, json={"name": "renamed"})
    assert decoded(renamed)["notices"] == []


async def test_what_an_old_url_did_is_not_held_against_a_new_one(
    gateway: Gateway, mine: dict[str, str]
) -> None:
    made = await created(gateway, mine)
    await fail(gateway, made["id"], None)

    described = decoded(await patch(gateway, mine, made["id"], description="x"))
    moved = decoded(await patch(gateway, mine, made["id"], url="https://new.example/"))

    assert described["failing_since"]
    assert described["held_until"]
    assert moved["failing_since"] is moved["held_until"] is None
