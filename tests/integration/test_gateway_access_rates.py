"""Rate limits over HTTP: on every answer to a known caller, per account, before a body is read."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from deploy.local.s3 import S3Settings
from services.gateway.access.accounts import limit_account
from services.gateway.access.keys import CACHE_SECONDS
from tests.integration.gateway_app import Gateway, bearer, decoded, running_gateway
from tests.support.stack import Database, Nats


@pytest.fixture(scope="module")
async def gateway(
    database: Database, nats_server: Nats, s3: S3Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    models: Path = tmp_path_factory.mktemp("models")
    async with running_gateway(database, nats_server, s3, models) as running:
        running.clock.stopped_at = time.monotonic()  # no bucket fills while this machine is slow
        yield running


@pytest.fixture
async def free(gateway: Gateway) -> dict[str, str]:
    """An account of two requests a minute, one at once."""
    return bearer((await gateway.account(cents=0, requests_per_minute=2))[1])


async def ask(gateway: Gateway, headers: dict[str, str], path: str = "/v1/jobs") -> httpx.Response:
    return await gateway.client.get(path, headers=headers)


async def test_the_free_plan_allows_a_burst_and_then_ten_a_second(gateway: Gateway) -> None:
    headers = bearer((await gateway.account(cents=0, requests_per_minute=None))[1])

    first = await ask(gateway, headers)
    answers = await asyncio.gather(*(ask(gateway, headers) for _ in range(140)))
    refused = [answer for answer in answers if answer.status_code == 429]

    assert first.headers["ratelimit-policy"] == '"default";q=100;w=10'
    assert first.headers["ratelimit"] == '"default";r=99;t=1'
    assert len(refused) == 41
    assert {answer.status_code for answer in answers} == {200, 429}
    assert {answer.headers["retry-after"] for answer in refused} == {"1"}


async def test_whoever_asks_too_often_is_told_when_to_come_back_and_may_then(
    gateway: Gateway, free: dict[str, str]
) -> None:
    assert (await ask(gateway, free)).status_code == 200

    refused = await ask(gateway, free)
    assert refused.status_code == 429
    assert decoded(refused)["error"]["code"] == "rate_limited"
    assert refused.headers["ratelimit-policy"] == '"default";q=1;w=30'
    wait = int(refused.headers["retry-after"])
    assert wait == 30
    assert refused.headers["ratelimit"] == f'"default";r=0;t={wait}'

    gateway.clock.elapsed += wait - 10
    assert (await ask(gateway, free)).status_code == 429
    gateway.clock.elapsed += 10
    assert (await ask(gateway, free)).status_code == 200


async def test_both_surfaces_and_all_keys_of_an_account_share_its_limit(
    gateway: Gateway, free: dict[str, str]
) -> None:
    other = await gateway.client.post("/v1/api-keys", headers=free, json={"name": "second"})
    second = bearer(decoded(other)["key"])

    assert (await ask(gateway, second)).status_code == 429
    assert (await ask(gateway, free, "/api/v1/runs")).status_code == 429
    assert (await ask(gateway, gateway.headers)).status_code == 200


@pytest.mark.parametrize("path", ["/nowhere", "/v1/jobs/x", "/v1/jobs?limit=0"])
async def test_a_refusal_counts_and_says_so(
    gateway: Gateway, free: dict[str, str], path: str
) -> None:
    answer = await ask(gateway, free, path)

    assert answer.status_code in (404, 422)
    assert answer.headers["ratelimit"] == '"default";r=0;t=30'
    assert (await ask(gateway, free)).status_code == 429


async def test_nothing_is_counted_or_said_without_a_caller(gateway: Gateway) -> None:
    for path, status in (("/v1/jobs", 401), ("/v1/healthz", 200), ("/docs", 200)):
        answer = await gateway.client.get(path)
        assert answer.status_code == status
        assert "ratelimit" not in answer.headers


async def test_who_asks_too_often_is_refused_before_the_body_has_arrived(
    gateway: Gateway, free: dict[str, str]
) -> None:
    assert (await ask(gateway, free)).status_code == 200
    host, port = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /api/v1/runs HTTP/1.1\r\nHost: x\r\nContent-Length: 600000000\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n"
        b"Authorization: %s\r\n\r\n" % free["Authorization"].encode()
    )

    status = await asyncio.wait_for(reader.readline(), timeout=60)

    assert b" 429 " in status
    writer.close()


async def test_an_operators_change_holds_as_soon_as_a_key_is_looked_up_again(
    gateway: Gateway,
) -> None:
    account_id, key = await gateway.account(cents=0)
    assert (await ask(gateway, bearer(key))).headers["ratelimit-policy"].startswith('"default";q=1')

    assert await limit_account(gateway.admin, account_id=account_id, requests_per_minute=60)
    gateway.clock.elapsed += CACHE_SECONDS
    changed = await ask(gateway, bearer(key))
    assert changed.headers["ratelimit-policy"] == '"default";q=10;w=10'

    assert await limit_account(gateway.admin, account_id=account_id, requests_per_minute=None)
    gateway.clock.elapsed += CACHE_SECONDS
    default = await ask(gateway, bearer(key))
    assert default.headers["ratelimit-policy"] == '"default";q=100;w=10'
