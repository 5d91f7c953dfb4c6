"""API keys over HTTP: shown once, at most three, no stronger than their maker, deleted at once."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from msgspec.structs import replace

from deploy.local.s3 import S3Settings
from services.gateway.access.key_text import well_formed
from services.gateway.access.own_keys import Wanted, make_key
from tests.integration.gateway_app import Gateway, bearer, decoded, running_gateway
from tests.support.stack import Database, Nats
from tests.support.waiting import eventually, held_open

WAITING_SQL = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'
"""

PATH = "/v1/api-keys"
KEYS = 50
AT_ONCE = 5  # few enough that a request takes less than a key is believed for
USE_SECONDS = 20.0  # far longer than a deletion takes
PAUSE_SECONDS = 0.02  # between two uses of a key: a fraction of the time that it is believed
ALL = ["read", "write", "billing", "admin"]


@pytest.fixture(scope="module")
async def gateway(
    database: Database, nats_server: Nats, s3: S3Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    models: Path = tmp_path_factory.mktemp("models")
    async with running_gateway(database, nats_server, s3, models) as running:
        yield running


@pytest.fixture
async def admin(gateway: Gateway) -> dict[str, str]:
    """The first key of a new account: two more may be made."""
    return bearer((await gateway.account(cents=0))[1])


async def make(
    gateway: Gateway, admin: dict[str, str], key: str | None = None, **body: Any
) -> httpx.Response:
    headers = admin | ({"Idempotency-Key": key} if key else {})
    return await gateway.client.post(PATH, headers=headers, json={"name": "ci"} | body)


async def made(gateway: Gateway, admin: dict[str, str], **body: Any) -> Any:
    answer = await make(gateway, admin, **body)
    assert answer.status_code == 201, answer.text
    return decoded(answer)


async def delete(gateway: Gateway, admin: dict[str, str], key_id: object) -> httpx.Response:
    return await gateway.client.delete(f"{PATH}/{key_id}", headers=admin)


async def works(gateway: Gateway, key: str) -> bool:
    answer = await gateway.client.get("/v1/jobs", headers=bearer(key))
    assert answer.status_code in (200, 401, 403)
    return answer.status_code == 200


async def listed(gateway: Gateway, admin: dict[str, str], **query: Any) -> Any:
    answer = await gateway.client.get(PATH, headers=admin, params=query)
    assert answer.status_code == 200, answer.text
    return decoded(answer)


async def test_keys_begin_with_the_operators_prefix_and_those_of_before_stay_good(
    gateway: Gateway, admin: dict[str, str]
) -> None:
    """Replayed after another change of the prefix, a key is still the one that was made."""
    parts = gateway.parts
    account_id = UUID(decoded(await gateway.client.get("/v1/me", headers=admin))["id"])

    async def make_with(prefix: str) -> str:
        wanted = Wanted(
            account_id=account_id,
            name="ci",
            scopes=["read"],
            expires_at=None,
            idempotency_key="k",
            request_sha256="0" * 64,
        )
        done = await make_key(
            parts.pool,
            wanted,
            limits=replace(parts.limits, key_prefix=prefix),
            peppers=parts.peppers,
            key_id=uuid4(),
            secret=bytes(32),
            now=parts.now(),
        )
        assert done is not None
        return done.key.key

    key = await make_with("acme_")

    assert key.startswith("acme_")
    assert await works(gateway, key)
    assert await works(gateway, admin["Authorization"].removeprefix("Bearer "))
    assert await make_with("other_") == key


async def test_a_key_is_shown_once_and_works(gateway: Gateway, admin: dict[str, str]) -> None:
    created = await made(gateway, admin, name="laptop")
    stored = await gateway.admin.fetchrow(
        "SELECT * FROM gateway.api_key WHERE id = $1", UUID(created["id"])
    )

    assert set(created) == {
        *("id", "name", "prefix", "scopes", "created_at", "expires_at", "last_used_at", "key")
    }
    assert well_formed(created["key"])
    assert created["key"].startswith(created["prefix"])
    assert (created["name"], created["scopes"]) == ("laptop", ALL)
    assert created["expires_at"] is created["last_used_at"] is None
    assert created["key"] not in str(stored)
    assert await works(gateway, created["key"])
    (mine, _first) = (await listed(gateway, admin))["data"]
    assert "key" not in mine
    assert mine | {"last_used_at": None, "key": created["key"]} == created
    assert mine["last_used_at"]


async def test_a_list_shows_a_page_at_a_time_and_no_other_accounts_keys(
    gateway: Gateway, admin: dict[str, str]
) -> None:
    newest = [(await made(gateway, admin, name=name))["id"] for name in ("a", "b")][::-1]

    first = await listed(gateway, admin, limit=2)
    rest = await listed(gateway, admin, limit=2, cursor=first["next_cursor"])

    assert [key["id"] for key in first["data"]] == newest
    assert (first["has_more"], rest["has_more"], rest["next_cursor"]) == (True, False, None)
    assert [key["name"] for key in rest["data"]] == ["test"]


async def test_a_plan_allows_so_many_active_keys_and_no_more(
    gateway: Gateway, admin: dict[str, str]
) -> None:
    answers = await asyncio.gather(*(make(gateway, admin) for _ in range(10)))
    refused = next(answer for answer in answers if answer.status_code == 409)

    assert Counter(answer.status_code for answer in answers) == {201: 2, 409: 8}
    error = decoded(refused)["error"]
    assert error["code"] == "api_key_limit"
    assert error["details"] == {"active": 3, "max_api_keys": 3}

    one = next(decoded(answer) for answer in answers if answer.status_code == 201)
    assert (await delete(gateway, admin, one["id"])).status_code == 200
    assert (await make(gateway, admin)).status_code == 201


async def test_an_expired_key_is_refused_and_leaves_its_place(
    gateway: Gateway, admin: dict[str, str]
) -> None:
    soon = (gateway.clock.now() + timedelta(hours=1)).isoformat()
    keys = [await made(gateway, admin, expires_at=soon) for _ in range(2)]
    assert await works(gateway, keys[0]["key"])
    assert (await make(gateway, admin)).status_code == 409

    gateway.clock.ahead = timedelta(hours=1, seconds=1)
    gateway.clock.elapsed += 3_601
    try:
        assert not await works(gateway, keys[0]["key"])
        assert (await make(gateway, admin)).status_code == 201
    finally:
        gateway.clock.ahead = timedelta()


async def test_a_key_can_not_give_what_it_lacks(gateway: Gateway, admin: dict[str, str]) -> None:
    keeper = await made(gateway, admin, scopes=["admin", "read", "read"])
    assert keeper["scopes"] == ["read", "admin"]

    grasping = await make(gateway, bearer(keeper["key"]), scopes=["write", "read"])
    inherited = await made(gateway, bearer(keeper["key"]))

    assert grasping.status_code == 403
    assert decoded(grasping)["error"]["code"] == "insufficient_scope"
    assert "write" in decoded(grasping)["error"]["message"]
    assert inherited["scopes"] == ["read", "admin"]


@pytest.mark.parametrize("scopes", [["read"], ["write"], ["read", "write", "billing"]])
async def test_only_an_admin_key_sees_or_changes_keys(
    gateway: Gateway, admin: dict[str, str], scopes: list[str]
) -> None:
    weak = await made(gateway, admin, scopes=scopes)
    headers = bearer(weak["key"])

    answers = [
        await make(gateway, headers),
        await gateway.client.get(PATH, headers=headers),
        await delete(gateway, headers, weak["id"]),
    ]

    assert [answer.status_code for answer in answers] == [403] * 3
    assert {decoded(answer)["error"]["code"] for answer in answers} == {"insufficient_scope"}


@pytest.mark.parametrize(
    "body",
    [
        {"name": ""},
        {"name": "x" * 256},
        {"name": "\x00"},
        {"name": None},
        {"scopes": []},
        {"scopes": ["everything"]},
        {"scopes": ["read"] * 17},
        {"expires_at": "2020-01-01T00:00:00Z"},
        {"expires_at": "2090-01-01T00:00:00Z"},
        {"expires_at": "9999-12-31T23:59:59-23:59"},
        {"expires_at": "0001-01-01T00:00:00+23:59"},
        {"expires_at": "2030-01-01T00:00:00"},
        {"expires_at": "soon"},
        {"surprise": 1},
    ],
)
async def test_a_wish_that_makes_no_sense_is_refused(
    gateway: Gateway, admin: dict[str, str], body: dict[str, Any]
) -> None:
    answer = await make(gateway, admin, **body)

    assert answer.status_code == 422, answer.text
    assert decoded(answer)["error"]["code"] == "validation_failed"


async def test_a_repetition_shows_the_same_key_again(
    gateway: Gateway, admin: dict[str, str]
) -> None:
    answers = await asyncio.gather(*(make(gateway, admin, "once", name="a") for _ in range(8)))
    quoted = await make(gateway, admin, '"once"', name="a")
    key = decoded(answers[0])["key"]
    assert await works(gateway, key)  # its last use is no part of the first answer
    answers += [quoted, await make(gateway, admin, "once", name="a")]

    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert [a.headers.get("idempotency-replayed") for a in answers].count(None) == 1
    assert len((await listed(gateway, admin))["data"]) == 2


async def test_an_idempotency_key_stands_for_one_request_of_one_account_for_a_day(
    gateway: Gateway, admin: dict[str, str]
) -> None:
    stranger = bearer((await gateway.account(cents=0))[1])
    first = await make(gateway, admin, "once", name="a")
    other = await make(gateway, admin, "once", name="b")
    theirs = await make(gateway, stranger, "once", name="a")

    assert (other.status_code, decoded(other)["error"]["code"]) == (409, "idempotency_conflict")
    assert theirs.status_code == 201
    assert decoded(theirs)["key"] != decoded(first)["key"]

    gateway.clock.ahead = timedelta(hours=24, seconds=1)
    try:
        anew = await make(gateway, admin, "once", name="a")
    finally:
        gateway.clock.ahead = timedelta()
    assert anew.status_code == 201
    assert "idempotency-replayed" not in anew.headers
    assert decoded(anew)["key"] != decoded(first)["key"]


async def test_what_is_not_the_accounts_can_not_be_deleted(
    gateway: Gateway, admin: dict[str, str]
) -> None:
    created = await made(gateway, admin)
    stranger = bearer((await gateway.account(cents=0))[1])

    foreign = await delete(gateway, stranger, created["id"])
    first = await delete(gateway, admin, created["id"])
    again = await delete(gateway, admin, created["id"])

    assert (first.status_code, decoded(first)) == (200, {"id": created["id"], "deleted": True})
    for answer in (foreign, again, await delete(gateway, admin, uuid4())):
        assert answer.status_code == 404
        assert decoded(answer)["error"]["code"] == "not_found"
    assert created["id"] not in str(await listed(gateway, admin))


async def test_a_key_may_delete_itself(gateway: Gateway) -> None:
    _, key = await gateway.account(cents=0)
    (mine,) = (await listed(gateway, bearer(key)))["data"]

    assert (await delete(gateway, bearer(key), mine["id"])).status_code == 200
    assert not await works(gateway, key)


async def test_a_deleted_key_is_refused_by_every_replica_when_its_deletion_has_answered(
    gateway: Gateway,
    database: Database,
    nats_server: Nats,
    s3: S3Settings,
    tmp_path: Path,
) -> None:
    """Fifty keys, each in constant use on both gateways, deleted through either."""
    believed: list[int] = []
    async with running_gateway(database, nats_server, s3, tmp_path) as second:
        replicas = (gateway, second)
        for _ in range(0, KEYS, AT_ONCE):
            believed += await asyncio.gather(
                *(_deleted_under_load(replicas, number) for number in range(AT_ONCE))
            )
    assert believed == [0] * KEYS


async def _deleted_under_load(replicas: tuple[Gateway, Gateway], number: int) -> int:
    """How often a key was believed in a request that was sent after its deletion had answered."""
    gone = asyncio.Event()
    known = [asyncio.Event() for _ in replicas]
    _, key = await replicas[0].account(cents=0)
    (mine,) = (await listed(replicas[0], bearer(key)))["data"]

    async def use(number: int) -> int:
        after, end = 0, time.monotonic() + USE_SECONDS
        while time.monotonic() < end:
            was_gone = gone.is_set()
            if await works(replicas[number], key):
                known[number].set()
                after += was_gone
            elif was_gone:
                break
            await asyncio.sleep(PAUSE_SECONDS)
        return after

    uses = [asyncio.create_task(use(number)) for number in range(len(replicas))]
    await asyncio.gather(*(one.wait() for one in known))
    answer = await delete(replicas[number % 2], bearer(key), mine["id"])
    gone.set()
    assert answer.status_code == 200
    return sum(await asyncio.gather(*uses))


async def test_an_answer_that_comes_after_the_deletion_is_not_believed_for_longer(
    gateway: Gateway,
) -> None:
    """The question was put before the deletion, and PostgreSQL answers it late."""
    _, key = await gateway.account(cents=0)
    (mine,) = (await listed(gateway, bearer(key)))["data"]
    gateway.clock.elapsed += 1  # what is known is forgotten

    # Asking notes the key's use after it has read the row: that waits for whoever has it locked.
    await gateway.admin.execute(
        "UPDATE gateway.api_key SET last_used_at = NULL WHERE id = $1", UUID(mine["id"])
    )
    async with gateway.admin.acquire() as connection, held_open(connection):
        await connection.execute(
            "UPDATE gateway.api_key SET revoked_at = now() WHERE id = $1", UUID(mine["id"])
        )
        late = asyncio.create_task(works(gateway, key))
        await eventually(lambda: gateway.admin.fetchval(WAITING_SQL), bool)
        assert not late.done()
        gateway.clock.elapsed += 1

    assert await late  # it was sent before
    assert not await works(gateway, key)


async def test_keys_are_dated_in_utc(gateway: Gateway, admin: dict[str, str]) -> None:
    east = (datetime.now(UTC) + timedelta(days=1)).astimezone().isoformat()
    created = await made(gateway, admin, expires_at=east)

    assert created["expires_at"].endswith("Z")
    assert datetime.fromisoformat(created["expires_at"]) == datetime.fromisoformat(east)
