"""What API keys are hashed with is changed: no key is refused for it, and the operator sees which
ones still need the former pepper."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import httpx
import pytest

from deploy.local.s3 import S3Settings
from services.gateway.access.keys import CACHE_SECONDS, list_keys, revoke_key, stale_keys
from services.gateway.access.peppers import PepperError, Peppers, peppers_of
from tests.integration.gateway_app import PEPPER, PEPPERS, Gateway, bearer, decoded, running_gateway
from tests.support.stack import Database, Nats

NEXT = b"the next pepper"
TOLD = Peppers(PEPPER, (NEXT,))  # the step before: every gateway knows the next one
CHANGED = Peppers(NEXT, (PEPPER,))
DONE = Peppers(NEXT)
USES = 5  # of a key that is believed for a quarter of a second: each is looked up


class Stages(NamedTuple):
    """A gateway as it is started before, while and after the pepper is changed, all at once: as
    restarts one by one have them side by side."""

    before: Gateway
    told: Gateway
    changed: Gateway
    done: Gateway


@pytest.fixture(scope="module")
async def at(
    database: Database, nats_server: Nats, s3: S3Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stages]:
    models: Path = tmp_path_factory.mktemp("models")
    async with AsyncExitStack() as stack:
        yield Stages(
            *[
                await stack.enter_async_context(
                    running_gateway(database, nats_server, s3, models, peppers=peppers)
                )
                for peppers in (PEPPERS, TOLD, CHANGED, DONE)
            ]
        )


async def ask(gateway: Gateway, key: str) -> int:
    gateway.clock.elapsed += CACHE_SECONDS  # what is known of the key is forgotten
    return (await gateway.client.get("/v1/jobs", headers=bearer(key))).status_code


async def make(gateway: Gateway, key: str) -> httpx.Response:
    headers = bearer(key) | {"Idempotency-Key": "once"}
    return await gateway.client.post("/v1/api-keys", headers=headers, json={"name": "ci"})


async def use(gateways: Sequence[Gateway], keys: list[str]) -> set[int]:
    return {
        status
        for _ in range(USES)
        for status in await asyncio.gather(*(ask(one, key) for one in gateways for key in keys))
    }


async def stale(gateway: Gateway) -> set[UUID]:
    found = await stale_keys(gateway.admin, pepper=NEXT, now=gateway.clock.now())
    return {one.id for one in found}


async def key_id(gateway: Gateway, account_id: UUID) -> UUID:
    (mine,) = await list_keys(gateway.admin, account_id=account_id)
    return mine.id


async def test_gateways_are_restarted_one_by_one_with_another_pepper_and_refuse_no_key(
    at: Stages,
) -> None:
    keys = [(await at.before.account(cents=0))[1] for _ in range(3)]
    account_id, idle = await at.before.account(cents=0)
    idle_id = await key_id(at.before, account_id)

    for side_by_side in ((at.before, at.told), (at.told, at.changed), (at.changed,)):
        assert await use(side_by_side, keys) == {200}
    assert idle_id in await stale(at.changed)
    assert await use((at.changed, at.done), keys) == {200}

    assert await ask(at.done, idle) == 401
    assert await ask(at.changed, idle) == 200  # used at last
    assert await ask(at.done, idle) == 200
    assert idle_id not in await stale(at.done)


async def test_a_key_that_was_taken_back_stays_so_under_any_pepper(at: Stages) -> None:
    account_id, key = await at.before.account(cents=0)
    mine = await key_id(at.before, account_id)
    assert await revoke_key(at.before.admin, key_id=mine, now=at.before.clock.now())

    assert [await ask(gateway, key) for gateway in at] == [401] * 4
    assert mine not in await stale(at.changed)


async def test_a_repeated_request_shows_the_key_that_was_made_under_the_pepper_of_then(
    at: Stages,
) -> None:
    _, admin = await at.before.account(cents=0)
    made = decoded(await make(at.before, admin))["key"]

    unused = await make(at.changed, admin)
    assert await ask(at.changed, made) == 200  # from now on it is hashed with the next one
    used = await make(at.changed, admin)

    assert [decoded(one)["key"] for one in (unused, used)] == [made, made]
    assert await ask(at.done, made) == 200
    lost = await make(at.done, admin)
    assert (lost.status_code, decoded(lost)["error"]["code"]) == (409, "idempotency_conflict")
    assert "can't be shown again" in decoded(lost)["error"]["message"]


def test_peppers_are_hexadecimal_and_the_former_ones_are_optional() -> None:
    assert peppers_of("0aff", None) == peppers_of("0aff", "") == Peppers(b"\x0a\xff")
    assert peppers_of("0a", "0b, 0c").all == (b"\x0a", b"\x0b", b"\x0c")
    for current, previous in (("pepper", None), ("0a", "x")):
        with pytest.raises(PepperError, match="TUNEYARD_KEY_PEPPER_PREVIOUS"):
            peppers_of(current, previous)
