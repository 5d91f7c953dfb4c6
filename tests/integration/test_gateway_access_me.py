"""The account behind a key: what it is, how it stands, and what it wants to be told."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from deploy.local.s3 import S3Settings
from libs.bus.rpc import ask
from libs.contracts.billing_rpc import Subscription
from libs.contracts.gateway_rpc import KEEP_PLAN, KeepPlan, PlanKept
from services.gateway.access.keys import CACHE_SECONDS
from tests.integration.gateway_app import Gateway, bearer, decoded, running_gateway
from tests.support.stack import Database, Nats

DEFAULTS = {"job_completed": True, "job_failed": True, "billing": True, "product_news": False}


@pytest.fixture(scope="module")
async def gateway(
    database: Database, nats_server: Nats, s3: S3Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    models: Path = tmp_path_factory.mktemp("models")
    async with running_gateway(database, nats_server, s3, models) as running:
        yield running


@pytest.fixture
async def headers(gateway: Gateway) -> dict[str, str]:
    return bearer((await gateway.account(cents=0, requests_per_minute=None))[1])


async def me(gateway: Gateway, headers: dict[str, str]) -> Any:
    answer = await gateway.client.get("/v1/me", headers=headers)
    assert answer.status_code == 200, answer.text
    return decoded(answer)


async def test_an_account_sees_what_it_is_and_how_it_stands(gateway: Gateway) -> None:
    account_id, key = await gateway.account(cents=0, requests_per_minute=None)

    seen = await me(gateway, bearer(key))

    created_at = seen.pop("created_at")
    assert created_at.endswith("Z")
    assert seen == {
        "id": str(account_id),
        "name": "test",
        "email": None,
        "plan": "free",
        "subscription": "none",
        "paused": False,
        "paused_reason": None,
        "has_card": False,
        "portal_url": None,
        "notification_preferences": DEFAULTS,
        "limits": {"requests_per_minute": 600, "burst": 100, "max_api_keys": 3},
        "notices": [],
    }


async def test_a_subscription_raises_the_limits_within_a_moment_and_its_end_lowers_them(
    gateway: Gateway,
) -> None:
    """What billing read last is in force, however its tellings overtake each other."""
    account_id, key = await gateway.account(cents=0, requests_per_minute=None)

    async def told(subscription: Subscription, reading: int) -> tuple[str, int, int]:
        told = KeepPlan(account_id=account_id, subscription=subscription, reading=reading)
        assert await ask(gateway.parts.broker, KEEP_PLAN, told) == PlanKept()
        await asyncio.sleep(2 * CACHE_SECONDS)
        answer = await gateway.client.get("/v1/me", headers=bearer(key))
        seen = decoded(answer)
        assert f"q={seen['limits']['burst']};" in answer.headers["RateLimit-Policy"]
        return seen["plan"], seen["limits"]["requests_per_minute"], seen["limits"]["max_api_keys"]

    assert await told("pro", 3) == ("pro", 12_000, 100)
    assert await told("none", 2) == ("pro", 12_000, 100)
    assert await told("plus", 4) == ("plus", 3_000, 20)
    assert await told("none", 5) == ("free", 600, 3)
    assert await told("none", 5) == ("free", 600, 3)


async def test_a_plan_that_an_operator_gave_is_not_for_a_subscription_to_take(
    gateway: Gateway, database: Database
) -> None:
    account_id, key = await gateway.account(cents=0, requests_per_minute=None)
    connection = await asyncpg.connect(database.admin_dsn)
    await connection.execute("UPDATE gateway.account SET plan = 'lab' WHERE id = $1", account_id)
    await connection.close()
    told = KeepPlan(account_id=account_id, subscription="plus", reading=1)
    await ask(gateway.parts.broker, KEEP_PLAN, told)
    assert (await me(gateway, bearer(key)))["plan"] == "lab"


async def test_a_change_leaves_everything_else_as_it_is(
    gateway: Gateway, headers: dict[str, str]
) -> None:
    before = await me(gateway, headers)
    changed: list[Any] = []
    for patch in (
        {"name": "Ada"},
        {"notification_preferences": {"job_completed": False}},
        {"notification_preferences": {"product_news": True}},
        {"notification_preferences": {}},
        {},
    ):
        answer = await gateway.client.patch("/v1/me", headers=headers, json=patch)
        assert answer.status_code == 200, answer.text
        changed.append(decoded(answer))

    expected = before | {
        "name": "Ada",
        "notification_preferences": DEFAULTS | {"job_completed": False, "product_news": True},
    }
    assert changed[0] == before | {"name": "Ada"}
    assert changed[-1] == expected == await me(gateway, headers)


async def test_changes_that_race_are_all_kept(gateway: Gateway, headers: dict[str, str]) -> None:
    patches = [{"notification_preferences": {name: not told}} for name, told in DEFAULTS.items()]
    await asyncio.gather(
        *(gateway.client.patch("/v1/me", headers=headers, json=patch) for patch in patches)
    )

    seen = await me(gateway, headers)
    assert seen["notification_preferences"] == {name: not told for name, told in DEFAULTS.items()}


@pytest.mark.parametrize(
    "patch",
    [
        {"name": ""},
        {"name": None},
        {"name": "a\x00b"},
        {"plan": "pro"},
        {"notification_preferences": {"job_completed": None}},
        {"notification_preferences": {"job_completed": "no"}},
        {"notification_preferences": {"everything": True}},
        {"notification_preferences": []},
        [],
    ],
)
async def test_a_change_that_makes_no_sense_changes_nothing(
    gateway: Gateway, headers: dict[str, str], patch: Any
) -> None:
    before = await me(gateway, headers)
    answer = await gateway.client.patch("/v1/me", headers=headers, json=patch)

    assert answer.status_code == 422, answer.text
    assert decoded(answer)["error"]["code"] == "validation_failed"
    assert await me(gateway, headers) == before


async def test_a_key_that_only_reads_changes_nothing(
    gateway: Gateway, headers: dict[str, str]
) -> None:
    created = await gateway.client.post(
        "/v1/api-keys", headers=headers, json={"name": "reader", "scopes": ["read"]}
    )
    reader = bearer(decoded(created)["key"])

    answer = await gateway.client.patch("/v1/me", headers=reader, json={"name": "x"})

    assert (answer.status_code, decoded(answer)["error"]["code"]) == (403, "insufficient_scope")
    assert (await me(gateway, reader))["name"] == "test"
