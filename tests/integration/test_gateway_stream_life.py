"""How long a stream lives, what it may cost, and who may read it."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from faststream.nats import NatsBroker

from deploy.local.s3 import S3Settings
from services.gateway.access.keys import create_key, revoke_key
from services.gateway.streams.channel import KEPT_BYTES
from services.gateway.streams.hub import Streams
from tests.integration.gateway_app import PEPPER, Gateway, bearer, decoded, running_gateway
from tests.integration.stream_app import streaming
from tests.support.stack import Database, Nats
from tests.support.stream_jobs import COMPLETED, STARTED, happened, lines, points, submitted_job
from tests.support.streams import PATIENCE, job_path, publish, reading
from tests.support.waiting import eventually

Account = tuple[UUID, dict[str, str]]
MEGABYTES = 6  # of log lines for clients that read nothing: twelve times what a channel keeps
LINE = "x" * 3_900
MOST_STREAMS = 10  # of an account; the gateway's own limit would be a thousand connections here


@pytest.fixture(scope="module")
async def gateway(
    database: Database,
    nats_server: Nats,
    s3: S3Settings,
    operator: NatsBroker,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Gateway]:
    models: Path = tmp_path_factory.mktemp("models")
    async with streaming(database, nats_server, s3, operator, models, MOST_STREAMS) as running:
        yield running


@pytest.fixture
async def account(gateway: Gateway) -> Account:
    account_id, key = await gateway.account(cents=0)
    return account_id, bearer(key)


async def test_an_accounts_stream_begins_now_and_shows_all_jobs(
    gateway: Gateway, trainer: NatsBroker, account: Account
) -> None:
    account_id, headers = account
    before = await submitted_job(gateway.admin, account_id)
    async with reading(gateway.client, job_path(before), headers) as stream:
        await stream.next()
    async with reading(gateway.client, "/v1/stream", headers) as stream:
        one, other = [await submitted_job(gateway.admin, account_id) for _ in range(2)]
        first, second = await stream.some(2)
        assert {first.data["data"]["id"], second.data["data"]["id"]} == {str(one), str(other)}
        await publish(trainer, points(before, 1))
        assert (await stream.next()).data["job_id"] == str(before)
    async with reading(gateway.client, "/v1/stream", headers, first.id) as stream:
        assert await stream.next() == second
    async with reading(gateway.client, "/v1/stream", headers, 0) as stream:
        assert (await stream.next()).data["data"]["id"] == str(before)


async def test_whoever_is_cut_off_before_the_first_message_misses_nothing(
    gateway: Gateway, trainer: NatsBroker, account: Account
) -> None:
    account_id, headers = account
    job = await submitted_job(gateway.admin, account_id)
    async with reading(gateway.client, job_path(job), headers) as stream:
        first = await stream.next()
    async with reading(gateway.client, "/v1/stream", headers) as stream:
        await stream.beat()
        assert stream.last_id == first.id
    await publish(trainer, points(job, 1))
    async with reading(gateway.client, "/v1/stream", headers, stream.last_id) as again:
        assert (await again.next()).event == "metrics"


async def test_types_are_what_is_sent_of_an_accounts_stream(
    gateway: Gateway, trainer: NatsBroker, account: Account
) -> None:
    account_id, headers = account
    job = await submitted_job(gateway.admin, account_id)
    async with reading(gateway.client, "/v1/stream", headers, types="log,done") as stream:
        await happened(gateway.admin, account_id, job, *STARTED)
        await publish(trainer, points(job, 1))
        await publish(trainer, lines(job, 1))
        assert (await stream.next()).event == "log"
        await happened(gateway.admin, account_id, job, COMPLETED)
        assert (await stream.next()).event == "done"
    for wrong in ("", "logs", "log,,done", "log;done"):
        answer = await gateway.client.get("/v1/stream", headers=headers, params={"types": wrong})
        assert (answer.status_code, decoded(answer)["error"]["code"]) == (422, "validation_failed")
        assert decoded(answer)["error"]["message"].startswith("types:")


@pytest.mark.parametrize("wrong", ["-1", "1.5", "abc", "9" * 16, "999999", "1 2", "0x1", "١"])
async def test_an_id_that_is_none_of_ours_is_refused_with_what_to_do(
    gateway: Gateway, account: Account, wrong: str
) -> None:
    account_id, headers = account
    job = await submitted_job(gateway.admin, account_id)
    sent = {name.encode(): of.encode() for name, of in {**headers, "Last-Event-ID": wrong}.items()}
    for path in (job_path(job), "/v1/stream"):
        answer = await gateway.client.get(path, headers=sent)
        assert answer.status_code == 422, answer.text
        assert decoded(answer)["error"]["message"].startswith("Last-Event-ID: ")
    assert gateway.parts.streams.open == 0


@pytest.mark.parametrize("method", ["HEAD", "POST", "DELETE", "OPTIONS"])
async def test_other_methods_are_answered_as_everywhere(
    gateway: Gateway, account: Account, method: str
) -> None:
    _, headers = account
    stream = await gateway.client.request(method, "/v1/stream", headers=headers)
    other = await gateway.client.request(method, "/v1/me", headers=headers)
    assert stream.status_code == (204 if method == "OPTIONS" else 405)
    assert "GET" in stream.headers["allow"]
    assert "GET" in other.headers["allow"]


async def test_a_silent_stream_says_that_it_lives(gateway: Gateway, account: Account) -> None:
    _, headers = account
    async with reading(gateway.client, "/v1/stream", headers) as stream:
        await stream.beat()
        await stream.beat()


async def test_a_revoked_or_expired_key_ends_its_stream_and_no_other(
    gateway: Gateway, account: Account
) -> None:
    account_id, headers = account

    async def another_key(**more: Any) -> tuple[str, UUID]:
        key = await create_key(
            gateway.admin,
            account_id=account_id,
            name="to be lost",
            pepper=PEPPER,
            secret=secrets.token_bytes(32),
            now=gateway.clock.now(),
            **more,
        )
        shown = await gateway.client.get("/v1/api-keys", headers=headers)
        (row,) = [row for row in decoded(shown)["data"] if key.startswith(row["prefix"])]
        return key, UUID(row["id"])

    revoked, key_id = await another_key()
    expiring, _ = await another_key(expires_at=gateway.clock.now() + timedelta(seconds=600))
    async with (
        reading(gateway.client, "/v1/stream", headers) as living,
        reading(gateway.client, "/v1/stream", bearer(revoked)) as first,
        reading(gateway.client, "/v1/stream", bearer(expiring)) as second,
    ):
        assert await revoke_key(gateway.admin, key_id=key_id, now=gateway.clock.now())
        assert await first.rest() == []
        gateway.clock.ahead += timedelta(seconds=601)
        assert await second.rest() == []
        job = await submitted_job(gateway.admin, account_id)
        assert (await living.next()).data["data"]["id"] == str(job)
    gateway.clock.ahead -= timedelta(seconds=601)


async def test_a_key_that_may_not_read_opens_no_stream(gateway: Gateway, account: Account) -> None:
    account_id, _ = account
    key = await create_key(
        gateway.admin,
        account_id=account_id,
        name="writes",
        pepper=PEPPER,
        secret=secrets.token_bytes(32),
        now=gateway.clock.now(),
        scopes=["write"],
    )
    answer = await gateway.client.get("/v1/stream", headers=bearer(key))
    assert decoded(answer)["error"]["code"] == "insufficient_scope"


async def test_an_account_has_only_so_many_streams_and_another_has_its_own(
    gateway: Gateway, account: Account
) -> None:
    _, headers = account
    async with AsyncExitStack() as stack:
        for _ in range(MOST_STREAMS):
            await stack.enter_async_context(reading(gateway.client, "/v1/stream", headers))
        async with asyncio.timeout(PATIENCE):  # one that is let in never ends
            answer = await gateway.client.get("/v1/stream", headers=headers)
        assert (answer.status_code, decoded(answer)["error"]["code"]) == (429, "too_many_streams")
        assert f" {MOST_STREAMS} streams " in decoded(answer)["error"]["message"]
        assert answer.headers["retry-after"]
        _, key = await gateway.account(cents=0)
        async with reading(gateway.client, "/v1/stream", bearer(key)):
            pass
    streams = gateway.parts.streams
    await eventually(lambda: closed(streams), bool)
    async with reading(gateway.client, "/v1/stream", headers):
        pass


async def closed(streams: Streams) -> bool:
    """A gateway sees a moment later that a client has gone."""
    return streams.open == 0


async def test_clients_that_read_nothing_cost_little_and_miss_nothing(
    gateway: Gateway, trainer: NatsBroker, account: Account
) -> None:
    account_id, headers = account
    job = await submitted_job(gateway.admin, account_id)
    number = MEGABYTES * 1_000_000 // len(LINE) // 100 * 100
    async with (
        httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE) as slow,
        reading(slow, "/v1/stream", headers, 0) as one,
        reading(slow, job_path(job), headers) as other,
        reading(gateway.client, job_path(job), headers) as quick,
    ):
        channel = gateway.parts.streams.channel_of(account_id)
        assert channel is not None
        seen = [await quick.next()]
        for start in range(0, number, 100):
            await publish(trainer, lines(job, *range(start, start + 100), text=LINE))
        while _newest(seen[-1]) < number - 1:
            seen.append(await quick.next())
            assert channel.kept_bytes <= KEPT_BYTES
        assert await one.some(len(seen)) == seen
        assert await other.some(len(seen)) == seen


def _newest(message: Any) -> int:
    return int(message.data["lines"][-1]["seq"]) if message.event == "log" else -1


async def test_a_gateway_that_stops_ends_its_streams_and_another_goes_on(
    gateway: Gateway,
    trainer: NatsBroker,
    account: Account,
    database: Database,
    nats_server: Nats,
    s3: S3Settings,
    tmp_path: Path,
) -> None:
    account_id, headers = account
    job = await submitted_job(gateway.admin, account_id)
    async with (
        httpx.AsyncClient(timeout=PATIENCE) as client,
        asyncio.timeout(PATIENCE),  # a server waits for its connections, for ever
    ):
        async with running_gateway(database, nats_server, s3, tmp_path) as second:
            opened = reading(client, second.url + job_path(job), headers)
            stream = await opened.__aenter__()
            await publish(trainer, points(job, 1))
            seen = await stream.some(2)
            rest = asyncio.create_task(stream.rest())
        assert await rest == []
        await opened.__aexit__(None, None, None)
    assert second.parts.streams.open == 0
    await publish(trainer, points(job, 2))
    async with reading(gateway.client, job_path(job), headers, seen[-1].id) as stream:
        (measured,) = (await stream.next()).data["points"]
        assert measured["step"] == 2
