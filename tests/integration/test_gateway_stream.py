"""The live stream from end to end: a trainer's metric, real telemetry, a client's connection."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest
from faststream.nats import NatsBroker

from deploy.local.s3 import S3Settings
from tests.integration.gateway_app import Gateway, bearer, decoded
from tests.integration.stream_app import streaming
from tests.support.stack import Database, Nats
from tests.support.stream_jobs import COMPLETED, STARTED, happened, lines, points, submitted_job
from tests.support.streams import (
    Message,
    job_path,
    publish,
    reading,
)
from tests.support.waiting import eventually

Account = tuple[UUID, dict[str, str]]


@pytest.fixture(scope="module")
async def gateway(
    database: Database,
    nats_server: Nats,
    s3: S3Settings,
    operator: NatsBroker,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Gateway]:
    models: Path = tmp_path_factory.mktemp("models")
    async with streaming(database, nats_server, s3, operator, models) as gateway:
        yield gateway


@pytest.fixture
async def account(gateway: Gateway) -> Account:
    account_id, key = await gateway.account(cents=0)
    return account_id, bearer(key)


async def told(gateway: Gateway, trainer: NatsBroker, account: Account) -> UUID:
    """A whole job: started, two messages of each kind, completed."""
    account_id, headers = account
    job = await submitted_job(gateway.admin, account_id)
    await happened(gateway.admin, account_id, job, *STARTED)
    async with reading(gateway.client, job_path(job), headers) as stream:
        await stream.some(2)
    for number in (1, 2):
        await publish(trainer, points(job, number))
        await publish(trainer, lines(job, number))
    await happened(gateway.admin, account_id, job, COMPLETED)
    return job


def shape(messages: list[Message]) -> list[str]:
    """In short: what kinds of messages, states by their names."""
    return [m.data["type"] if m.event == "state" else m.event for m in messages]


async def test_a_job_is_told_from_its_beginning_to_its_end_as_it_happens(
    gateway: Gateway, trainer: NatsBroker, account: Account
) -> None:
    account_id, headers = account
    job = await submitted_job(gateway.admin, account_id)
    async with reading(gateway.client, job_path(job), headers) as stream:
        assert stream.response.headers["content-type"] == "text/event-stream"
        assert stream.response.headers["cache-control"] == "no-store"
        assert stream.response.headers["x-accel-buffering"] == "no"
        first = await stream.next()
        assert (first.event, first.data["type"]) == ("state", "job.queued")
        await happened(gateway.admin, account_id, job, *STARTED)
        assert (await stream.next()).data["type"] == "job.running"
        await publish(trainer, points(job, 1, 2))
        measured = await stream.next()
        assert (measured.event, measured.data["job_id"]) == ("metrics", str(job))
        assert [point["step"] for point in measured.data["points"]] == [1, 2]
        await publish(trainer, lines(job, 1))
        said = await stream.next()
        assert (said.event, said.data["lines"][0]["text"]) == ("log", "line 1")
        await happened(gateway.admin, account_id, job, COMPLETED)
        *_, last, done = await stream.rest()
    assert (last.event, last.data["type"]) == ("state", "job.completed")
    assert (done.event, done.data) == ("done", last.data)
    shown = await gateway.client.get(f"/v1/jobs/{job}", headers=headers)
    assert done.data["data"] == decoded(shown)


async def test_whoever_comes_back_at_any_id_gets_exactly_the_rest(
    gateway: Gateway, trainer: NatsBroker, account: Account
) -> None:
    _, headers = account
    job = await told(gateway, trainer, account)
    async with reading(gateway.client, job_path(job), headers) as stream:
        whole = await stream.rest()
    assert [m.id for m in whole] == sorted({m.id for m in whole})
    assert shape(whole)[-2:] == ["job.completed", "done"]
    assert sorted(shape(whole)[2:-2]) == ["log", "log", "metrics", "metrics"]
    for number, message in enumerate(whole[:-1]):
        async with reading(gateway.client, job_path(job), headers, message.id) as stream:
            assert await stream.rest() == whole[number + 1 :]

    after = {"Last-Event-ID": str(whole[-1].id)}
    nothing = await gateway.client.get(job_path(job), headers=headers | after)
    assert (nothing.status_code, nothing.content) == (204, b"")


async def test_nobody_is_left_behind_when_clients_have_gone(
    gateway: Gateway, account: Account
) -> None:
    account_id, headers = account
    job = await submitted_job(gateway.admin, account_id)
    streams = gateway.parts.streams
    async with (
        reading(gateway.client, job_path(job), headers) as one,
        reading(gateway.client, "/v1/stream", headers),
    ):
        await one.next()
        assert (streams.open, streams.channels) == (2, 1)

    async def left() -> tuple[int, int]:
        return streams.open, streams.channels

    assert await eventually(left, lambda counts: counts == (0, 0)) == (0, 0)
