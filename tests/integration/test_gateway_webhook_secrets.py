"""What a webhook's owner asks for twice is done once; and its secrets, which are told once."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from deploy.local.s3 import S3Settings
from libs.bus.broker import make_broker
from libs.bus.rpc import answer
from libs.contracts.webhooks_rpc import REMOVE, EndpointRemoved, RemoveEndpoint
from services.webhooks.endpoints import REMOVE_SQL
from tests.integration.gateway_app import Gateway, bearer, decoded, running_gateway
from tests.integration.webhook_client import (
    FIELDS,
    PATH,
    create,
    created,
    error_of,
    get,
    key_of,
    rotate,
    row_of,
)
from tests.support.stack import Database, Nats

DAY = timedelta(hours=24)
SEVERAL = 3


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


async def test_the_same_request_under_one_key_makes_one_webhook_and_tells_its_secret_again(
    gateway: Gateway, mine: dict[str, str]
) -> None:
    first = await create(gateway, mine, "a", description="one")
    await rotate(gateway, mine, decoded(first)["id"])
    again = await create(gateway, mine, '"a"', description="one")
    conflict = await create(gateway, mine, "a", description="another")

    assert again.status_code == first.status_code == 201
    assert again.content == first.content
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    error_of(conflict, 409, "idempotency_conflict")
    assert len((await get(gateway, mine, PATH))["data"]) == 1


async def test_a_key_stands_for_one_operation_of_one_account(
    gateway: Gateway, mine: dict[str, str], other: dict[str, str]
) -> None:
    made = decoded(await create(gateway, mine, "a"))
    theirs = await create(gateway, other, "a")
    rotated = await rotate(gateway, mine, made["id"], "a")

    assert theirs.status_code == 201
    assert "idempotency-replayed" not in theirs.headers
    assert decoded(theirs)["secret"] != made["secret"]
    error_of(rotated, 409, "idempotency_conflict")


@pytest.mark.parametrize("key", ["first", "second", "third"])
async def test_many_equal_requests_at_once_make_one_webhook(
    gateway: Gateway, mine: dict[str, str], key: str
) -> None:
    await asyncio.gather(*(created(gateway, mine) for _ in range(8)))  # all connections are open
    before = len((await get(gateway, mine, PATH))["data"])

    answers = await asyncio.gather(*(create(gateway, mine, key) for _ in range(16)))

    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    fresh = [answer for answer in answers if "idempotency-replayed" not in answer.headers]
    assert len(fresh) == 1
    assert len((await get(gateway, mine, PATH))["data"]) == before + 1


async def test_a_refused_request_is_not_remembered(gateway: Gateway, mine: dict[str, str]) -> None:
    refused = await create(gateway, mine, "a", url="https://127.0.0.1/")
    mended = await create(gateway, mine, "a")

    assert (refused.status_code, mended.status_code) == (422, 201)


async def test_a_key_is_free_again_after_a_day(gateway: Gateway, mine: dict[str, str]) -> None:
    first = await create(gateway, mine, "a")
    try:
        gateway.clock.ahead = DAY - timedelta(minutes=1)
        within = await create(gateway, mine, "a")
        gateway.clock.ahead = DAY + timedelta(minutes=1)
        after = await create(gateway, mine, "a")
    finally:
        gateway.clock.ahead = timedelta()

    assert within.content == first.content
    assert after.status_code == 201
    assert decoded(after)["id"] != decoded(first)["id"]


async def test_a_rotation_keeps_the_old_secret_for_a_day_and_happens_once_under_a_key(
    gateway: Gateway, mine: dict[str, str]
) -> None:
    made = await created(gateway, mine)
    before = gateway.clock.now()

    rotated = await rotate(gateway, mine, made["id"], "r")
    again = await rotate(gateway, mine, made["id"], "r")

    assert rotated.status_code == 200, rotated.text
    assert again.content == rotated.content
    assert again.headers["idempotency-replayed"] == "true"
    new = decoded(rotated)
    assert set(new) == FIELDS | {"secret"}
    assert new["secret"] != made["secret"]
    row = await row_of(gateway, made["id"])
    assert row["secret"] == key_of(new["secret"])
    assert row["previous_secret"] == key_of(made["secret"])
    assert before + DAY <= row["previous_until"] <= gateway.clock.now() + DAY


async def test_many_rotations_at_once_under_one_key_are_one(
    gateway: Gateway, mine: dict[str, str]
) -> None:
    """Else the secret that a receiver has would be forgotten while it still checks with it."""
    made = await created(gateway, mine)

    answers = await asyncio.gather(*(rotate(gateway, mine, made["id"], "r") for _ in range(8)))

    assert len({answer.content for answer in answers}) == 1
    row = await row_of(gateway, made["id"])
    assert row["previous_secret"] == key_of(made["secret"])


async def test_a_second_rotation_ends_the_first_secret(
    gateway: Gateway, mine: dict[str, str]
) -> None:
    made = await created(gateway, mine)
    second = decoded(await rotate(gateway, mine, made["id"]))
    third = decoded(await rotate(gateway, mine, made["id"]))

    row = await row_of(gateway, made["id"])

    assert row["secret"] == key_of(third["secret"])
    assert row["previous_secret"] == key_of(second["secret"])
    assert len({made["secret"], second["secret"], third["secret"]}) == 3


async def test_a_webhook_whose_removal_is_told_late_was_removed(
    gateway: Gateway, nats_server: Nats, mine: dict[str, str]
) -> None:
    """One of two that answer has done it, and is heard only when the other was asked as well."""
    late = make_broker(nats_server.url("operator"))
    done = list[UUID]()

    async def remove(asked: RemoveEndpoint) -> EndpointRemoved:
        await gateway.admin.execute(REMOVE_SQL, asked.account_id, asked.endpoint_id)
        done.append(asked.endpoint_id)
        raise TimeoutError

    answer(late, REMOVE, remove)
    await late.start()
    try:
        while len(done) < SEVERAL:
            path = f"{PATH}/{(await created(gateway, mine))['id']}"
            assert (await gateway.client.delete(path, headers=mine)).status_code == 200
    finally:
        await late.stop()
