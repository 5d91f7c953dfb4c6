"""One sequence an account, whoever writes it, whatever dies, and however old the job is."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import msgspec
import pytest
from faststream.nats import NatsBroker

from deploy.local.s3 import S3Settings
from libs.bus.rpc import ask
from libs.contracts.telemetry_rpc import MESSAGES, GetMessages, StreamMessage
from libs.contracts.training import LogLine, MetricPoint
from libs.eventlog.migrations import ROOT
from services.gateway.routes.stream import NewLines, NewPoints
from services.gateway.streams.channel import ALL_KINDS
from tests.integration.gateway_app import Gateway, bearer, running_gateway
from tests.support.running import running
from tests.support.stack import Database, Nats, Servers
from tests.support.stream_jobs import COMPLETED, STARTED, happened, lines, points, submitted_job
from tests.support.streams import (
    Message,
    Reader,
    job_path,
    publish,
    reading,
    relaying,
    telemetry_settings,
)
from tests.support.waiting import eventually

STEPS = 300
Account = tuple[UUID, dict[str, str]]


@pytest.fixture(scope="module")
async def gateway(
    database: Database,
    nats_server: Nats,
    s3: S3Settings,
    operator: NatsBroker,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Gateway]:
    """Telemetry is each test's own."""
    models: Path = tmp_path_factory.mktemp("models")
    async with (
        relaying(operator, database),
        running_gateway(database, nats_server, s3, models) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def settings(database: Database, nats_server: Nats) -> dict[str, str]:
    return telemetry_settings(database, nats_server)


@pytest.fixture
async def account(gateway: Gateway) -> Account:
    account_id, key = await gateway.account(cents=0)
    return account_id, bearer(key)


async def until_step(stream: Reader, step: int) -> list[Message]:
    seen = [await stream.next()]
    while seen[-1].event != "metrics" or seen[-1].data["points"][-1]["step"] < step:
        seen.append(await stream.next())
    return seen


def steps(messages: list[Message]) -> list[int]:
    return [p["step"] for m in messages if m.event == "metrics" for p in m.data["points"]]


async def stored(broker: NatsBroker, account_id: UUID) -> list[StreamMessage]:
    """The account's whole stream, page by page."""
    found: list[StreamMessage] = []
    while True:
        after = found[-1].place if found else 0
        question = GetMessages(account_id=account_id, job_id=None, kinds=ALL_KINDS, after=after)
        page = await ask(broker, MESSAGES, question)
        if not page.messages:
            return found
        found += page.messages


async def test_two_replicas_of_which_one_is_killed_leave_no_gap_and_repeat_nothing(
    gateway: Gateway,
    trainer: NatsBroker,
    operator: NatsBroker,
    settings: dict[str, str],
    account: Account,
) -> None:
    account_id, headers = account
    async with (
        running("telemetry", settings, operator),
        running("telemetry", settings, operator) as other,
        reading(gateway.client, "/v1/stream", headers) as stream,
    ):
        job = await submitted_job(gateway.admin, account_id)
        for step in range(STEPS):
            if step == STEPS // 2:
                other.kill()
                await other.wait()
            await publish(trainer, points(job, step))
            await publish(trainer, lines(job, step))
        seen: list[Message] = []
        while len(set(steps(seen))) < STEPS:
            seen.append(await stream.next())
        assert sorted(steps(seen)) == list(range(STEPS))
        assert [m.id for m in seen] == list(range(seen[0].id, seen[0].id + len(seen)))


async def test_a_restart_of_nats_loses_nothing(
    gateway: Gateway,
    trainer: NatsBroker,
    operator: NatsBroker,
    settings: dict[str, str],
    account: Account,
    servers: Servers,
) -> None:
    account_id, headers = account
    job = await submitted_job(gateway.admin, account_id)
    async with (
        running("telemetry", settings, operator),
        reading(gateway.client, job_path(job), headers) as stream,
    ):
        await publish(trainer, points(job, 0))
        seen = await until_step(stream, 0)
        await servers.kill("nats")
        await servers.answers_again("nats")
        for step in range(1, 20):
            await publish_at_last(trainer, job, step)
        seen += await until_step(stream, 19)
    assert sorted(steps(seen)) == list(range(20))
    assert [m.id for m in seen] == sorted({m.id for m in seen})


async def publish_at_last(trainer: NatsBroker, job: UUID, step: int) -> None:
    """The trainer's connection may still be on its way back; the message's id makes it one."""

    async def sent() -> bool:
        try:
            await publish(trainer, points(job, step))
        except Exception:
            return False
        return True

    await eventually(sent, bool)


async def test_a_hint_that_is_lost_is_made_up_for(
    gateway: Gateway,
    trainer: NatsBroker,
    operator: NatsBroker,
    settings: dict[str, str],
    account: Account,
) -> None:
    """Nothing comes behind it that would show the hole."""
    account_id, headers = account
    job = await submitted_job(gateway.admin, account_id)
    async with (
        running("telemetry", settings, operator),
        reading(gateway.client, job_path(job), headers) as stream,
    ):
        first = await stream.next()
        await gateway.admin.execute(
            "UPDATE telemetry.sequence SET last = last + 1 WHERE account_id = $1", account_id
        )
        await gateway.admin.execute(
            "INSERT INTO telemetry.message (account_id, place, job_id, kind, payload)"
            " VALUES ($1, $2, $3, 'log', $4)",
            *(account_id, first.id + 1, job, b'{"job_id": null, "lines": []}'),
        )
        assert (await stream.next()).id == first.id + 1


async def test_a_job_that_ended_before_there_were_streams_is_told_whole(
    gateway: Gateway, operator: NatsBroker, settings: dict[str, str], account: Account
) -> None:
    """Its events are no longer on NATS: the log alone has them."""
    account_id, headers = account
    job = await submitted_job(gateway.admin, account_id)
    await happened(gateway.admin, account_id, job, *STARTED, COMPLETED)
    async with running("telemetry", settings, operator):
        await eventually(lambda: stored(operator, account_id), lambda found: len(found) == 4)
        async with gateway.admin.acquire() as connection:
            await connection.execute(
                "DELETE FROM telemetry.message WHERE account_id = $1", account_id
            )
        async with reading(gateway.client, job_path(job), headers) as stream:
            seen = await stream.rest()
    assert [m.data["type"] for m in seen] == [
        "job.queued",
        "job.running",
        *2 * ["job.completed"],
    ]
    assert [m.id for m in seen] == [5, 6, 7, 8]


async def test_the_end_of_a_job_comes_behind_what_its_trainer_said_before(
    gateway: Gateway,
    trainer: NatsBroker,
    operator: NatsBroker,
    settings: dict[str, str],
    account: Account,
) -> None:
    """All of it waits for telemetry, which is not there."""
    account_id, headers = account
    job = await submitted_job(gateway.admin, account_id)
    for step in range(200):
        await publish(trainer, points(job, step))
        await publish(trainer, lines(job, step))
    await happened(gateway.admin, account_id, job, *STARTED, COMPLETED)
    await eventually(
        lambda: gateway.admin.fetchval("SELECT count(*) FROM log.outbox"), lambda left: left == 0
    )
    async with (
        running("telemetry", settings, operator),
        reading(gateway.client, job_path(job), headers) as stream,
    ):
        seen = await stream.rest()
    assert sorted(steps(seen)) == list(range(200))
    assert len([one for m in seen if m.event == "log" for one in m.data["lines"]]) == 200
    assert [m.event for m in seen[-2:]] == ["state", "done"]


async def test_a_later_attempt_is_told_again_and_a_repetition_is_not(
    gateway: Gateway,
    trainer: NatsBroker,
    operator: NatsBroker,
    settings: dict[str, str],
    account: Account,
) -> None:
    account_id, headers = account
    job = await submitted_job(gateway.admin, account_id)
    async with (
        running("telemetry", settings, operator),
        reading(gateway.client, job_path(job), headers) as stream,
    ):
        await publish(trainer, points(job, 1, 2, loss=3.0))
        seen = await until_step(stream, 2)
        await publish(trainer, points(job, 1, 2, loss=3.0))
        await publish(trainer, points(job, 2, 3, epoch=2, loss=2.0))
        seen += await until_step(stream, 3)
        await publish(trainer, points(job, 2, 3, 4, epoch=1, loss=9.0))
        seen += await until_step(stream, 4)
    told = [p for m in seen if m.event == "metrics" for p in m.data["points"]]
    assert [(p["step"], p["loss"]) for p in told] == [
        *[(1, 3.0), (2, 3.0)],
        *[(2, 2.0), (3, 2.0)],
        (4, 9.0),
    ]


async def test_what_was_told_before_there_were_streams_gets_its_place(
    gateway: Gateway,
    trainer: NatsBroker,
    operator: NatsBroker,
    settings: dict[str, str],
    account: Account,
    database: Database,
) -> None:
    """The change of the schema, done again on what the tests before have left."""
    account_id, _ = account
    job = await submitted_job(gateway.admin, account_id)
    async with running("telemetry", settings, operator):
        await publish(trainer, points(job, *range(1_200)))
        await publish(trainer, lines(job, *range(25), text='"quoted"\n\\ \U0001f600'))
        told = await eventually(
            lambda: stored(operator, account_id), lambda found: _counts(found) == (1_200, 25)
        )
    await gateway.admin.execute("DROP TABLE telemetry.message, telemetry.sequence")
    for name in ("schema_002_stream.sql", "schema_003_stream_of_job.sql"):
        await gateway.admin.execute((ROOT / "services/telemetry" / name).read_text())
    async with running("telemetry", settings, operator):
        again = await stored(operator, account_id)
    assert _counts(again) == (1_200, 25)
    assert _points(again) == _points(told)
    assert _lines(again) == _lines(told)
    assert [m.place for m in again] == list(range(1, len(again) + 1))


def _counts(found: list[StreamMessage]) -> tuple[int, int]:
    return len(_points(found)), len(_lines(found))


def _points(found: list[StreamMessage]) -> list[MetricPoint]:
    return [
        point
        for message in found
        if message.kind == "metrics"
        for point in msgspec.json.decode(message.payload, type=NewPoints).points
    ]


def _lines(found: list[StreamMessage]) -> list[LogLine]:
    return [
        line
        for message in found
        if message.kind == "log"
        for line in msgspec.json.decode(message.payload, type=NewLines).lines
    ]
