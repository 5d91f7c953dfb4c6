"""What webhooks answers about endpoints, as its own process and when answers are lost."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
from faststream.nats import NatsBroker

from libs.bus.rpc import ask
from libs.contracts.webhooks_rpc import (
    CREATE,
    CreateEndpoint,
    EndpointCreated,
    EndpointKeyTaken,
    RotateSecret,
    SecretRotated,
    UnknownEndpoint,
    UrlRefused,
)
from libs.eventlog.connection import connect, create_pool
from services.webhooks.answering import KEY_LIFE, LOCK_SQL, Answering, forget_answers
from services.webhooks.endpoints import create_endpoint, rotate_secret
from services.webhooks.secrets import SECRET_BYTES
from tests.support.running import running
from tests.support.stack import Database, Nats
from tests.support.waiting import eventually, held_open

POOL_SIZE = 4
WAITING_SQL = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = NOW


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def answering(database: Database, clock: Clock) -> AsyncIterator[Answering]:
    async with create_pool(database.dsn("webhooks"), size=POOL_SIZE) as pool:
        yield Answering(
            pool=pool,
            now=lambda: clock.now,
            new_id=uuid4,
            new_secret=partial(secrets.token_bytes, SECRET_BYTES),
            wake=lambda: None,
            allow_loopback=False,
        )


def creation(account_id: UUID, **changes: Any) -> CreateEndpoint:
    fields: dict[str, Any] = {
        "account_id": account_id,
        "url": "https://example.com/",
        "event_types": None,
        "description": None,
        "enabled": True,
        "idempotency_key": "create",
        "request_sha256": "0" * 64,
    }
    return CreateEndpoint(**(fields | changes))


def rotation(account_id: UUID, endpoint_id: UUID, **changes: Any) -> RotateSecret:
    fields: dict[str, Any] = {
        "account_id": account_id,
        "endpoint_id": endpoint_id,
        "idempotency_key": "rotate",
        "request_sha256": "1" * 64,
    }
    return RotateSecret(**(fields | changes))


async def made(answering: Answering, account_id: UUID) -> EndpointCreated:
    answer = await create_endpoint(answering, creation(account_id))
    assert isinstance(answer, EndpointCreated)
    return answer


async def test_a_question_whose_answer_was_lost_is_answered_again_and_done_once(
    answering: Answering,
) -> None:
    account_id = uuid4()
    first = await made(answering, account_id)
    again = await made(answering, account_id)
    endpoint_id = first.endpoint.id
    rotated = await rotate_secret(answering, rotation(account_id, endpoint_id))
    repeated = await rotate_secret(answering, rotation(account_id, endpoint_id))

    assert (first.replayed, again.replayed) == (False, True)
    assert again.endpoint == first.endpoint
    assert isinstance(rotated, SecretRotated)
    assert isinstance(repeated, SecretRotated)
    assert repeated.endpoint == rotated.endpoint
    assert rotated.endpoint.secret != first.endpoint.secret
    other = await rotate_secret(
        answering, rotation(account_id, endpoint_id, request_sha256="2" * 64)
    )
    assert isinstance(other, EndpointKeyTaken)
    unknown = await rotate_secret(answering, rotation(uuid4(), endpoint_id))
    assert isinstance(unknown, UnknownEndpoint)


async def test_what_breaks_off_leaves_neither_an_effect_nor_an_answer(
    answering: Answering,
) -> None:
    account_id = uuid4()

    def broken() -> bytes:
        raise OSError("no randomness")

    with pytest.raises(OSError, match="no randomness"):
        await create_endpoint(
            Answering(
                pool=answering.pool,
                now=answering.now,
                new_id=answering.new_id,
                new_secret=broken,
                wake=answering.wake,
                allow_loopback=False,
            ),
            creation(account_id),
        )

    assert not (await made(answering, account_id)).replayed
    count = "SELECT count(*) FROM webhooks.endpoint WHERE account_id = $1"
    assert await answering.pool.fetchval(count, account_id) == 1


async def test_an_account_that_asks_much_at_once_keeps_nobody_else_waiting(
    answering: Answering, database: Database
) -> None:
    busy = uuid4()
    elsewhere = await connect(database.admin_dsn)
    async with held_open(elsewhere):
        await elsewhere.execute(LOCK_SQL, busy)  # a long answer, by another replica
        asked = [
            asyncio.create_task(create_endpoint(answering, creation(busy, idempotency_key=f"{n}")))
            for n in range(4 * POOL_SIZE)
        ]
        await eventually(lambda: elsewhere.fetchval(WAITING_SQL), bool)
        assert not (await made(answering, uuid4())).replayed
        assert not any(one.done() for one in asked)
    assert {type(answer) for answer in await asyncio.gather(*asked)} == {EndpointCreated}
    await elsewhere.close()


async def test_answers_and_the_secrets_in_them_are_forgotten_after_a_day(
    answering: Answering, clock: Clock
) -> None:
    account_id = uuid4()
    first = await made(answering, account_id)
    clock.now = NOW + KEY_LIFE
    await forget_answers(answering)
    within = await made(answering, account_id)
    clock.now = NOW + KEY_LIFE + timedelta(seconds=1)
    await forget_answers(answering)

    count = "SELECT count(*) FROM webhooks.answer WHERE account_id = $1"
    assert await answering.pool.fetchval(count, account_id) == 0
    assert within.endpoint == first.endpoint
    assert (await made(answering, account_id)).endpoint.id != first.endpoint.id


@pytest.mark.parametrize("allowed", [False, True])
async def test_the_service_answers_and_takes_this_machines_addresses_only_where_it_is_told_to(
    operator: NatsBroker, nats_server: Nats, database: Database, allowed: bool
) -> None:
    settings = {"database_url": database.dsn("webhooks"), "nats_url": nats_server.url("webhooks")}
    if allowed:
        settings["allow_loopback"] = "true"
    async with running("webhooks", settings, operator):
        here = creation(uuid4(), url="http://127.0.0.1:9000/hooks")
        answer = await ask(operator, CREATE, here)
        again = await ask(operator, CREATE, here)
        elsewhere = await ask(operator, CREATE, creation(uuid4(), url="https://10.0.0.1/"))

    assert isinstance(elsewhere, UrlRefused)
    if allowed:
        assert isinstance(answer, EndpointCreated)
        assert isinstance(again, EndpointCreated)
        assert again.endpoint == answer.endpoint
    else:
        assert isinstance(answer, UrlRefused)
