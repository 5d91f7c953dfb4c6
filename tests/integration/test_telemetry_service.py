"""Telemetry over the real bus: what a trainer publishes is what a reader gets."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest
from faststream.nats import NatsBroker
from msgspec.structs import replace

from libs.bus.rpc import ask
from libs.bus.streams import logs_subject, metrics_subject
from libs.contracts.telemetry_rpc import LOGS, METRICS, GetLogs, GetMetrics, LogPage, MetricPage
from libs.contracts.training import LogBatch, LogLine, MetricBatch, MetricPoint
from tests.support.running import running
from tests.support.stack import Database, Nats
from tests.support.waiting import eventually, patient

NOON = datetime(2026, 3, 19, 12, 0, tzinfo=UTC)
Settings = dict[str, str]


@pytest.fixture(scope="module")
def settings(database: Database, nats_server: Nats) -> Settings:
    return {
        "database_url": database.dsn("telemetry"),
        "nats_url": nats_server.url("telemetry"),
    }


@pytest.fixture
async def service(operator: NatsBroker, settings: Settings) -> AsyncIterator[None]:
    async with running("telemetry", settings, operator):
        yield


def point(step: int, phase: str = "train", **changes: object) -> MetricPoint:
    whole = MetricPoint(
        ts=NOON + timedelta(seconds=step),
        step=step,
        cycle=1,
        phase=phase,
        loss=2.5,
        lr=1e-4,
        throughput=3_000.0,
        vram_gb=0.0,
        grad_norm=1.25,
    )
    return replace(whole, **changes)


def line(seq: int, text: str = "training") -> LogLine:
    return LogLine(seq=seq, ts=NOON, stream="stdout", text=text)


async def publish(broker: NatsBroker, batch: MetricBatch | LogBatch | bytes, job_id: UUID) -> None:
    subject = (logs_subject if isinstance(batch, LogBatch) else metrics_subject)(job_id)
    payload = batch if isinstance(batch, bytes) else msgspec.json.encode(batch)
    client = await broker.connect()
    await patient(client).publish(subject, payload)


async def metrics(
    broker: NatsBroker, job_id: UUID, since: int = -1, limit: int = 1_000
) -> MetricPage:
    return await ask(broker, METRICS, GetMetrics(job_id=job_id, since_step=since, limit=limit))


async def logs(broker: NatsBroker, job_id: UUID, since: int = 0, limit: int = 1_000) -> LogPage:
    return await ask(broker, LOGS, GetLogs(job_id=job_id, since=since, limit=limit))


@pytest.mark.usefixtures("service")
async def test_published_points_are_read_oldest_first_and_strictly_newer(
    trainer: NatsBroker, gateway: NatsBroker
) -> None:
    job = uuid4()
    sent = (point(1), point(2), point(2, "eval", ts=NOON + timedelta(seconds=3)), point(4))
    await publish(trainer, MetricBatch(job_id=job, epoch=1, points=sent), job)

    page = await eventually(lambda: metrics(gateway, job), lambda page: page.count)
    assert page == MetricPage(job_id=job, count=4, latest_step=4, points=list(sent))
    assert (await metrics(gateway, job, since=2)).points == [point(4)]
    assert (await metrics(gateway, job, limit=2)).points == [point(1)]
    assert await metrics(gateway, job, since=4) == MetricPage(
        job_id=job, count=0, latest_step=4, points=[]
    )


@pytest.mark.usefixtures("service")
async def test_a_later_attempt_replaces_the_steps_it_repeats_and_a_lost_one_does_not(
    trainer: NatsBroker, gateway: NatsBroker
) -> None:
    job = uuid4()
    again = MetricBatch(job_id=job, epoch=2, points=(point(2, loss=1.0), point(3, loss=0.5)))
    late = MetricBatch(job_id=job, epoch=1, points=(point(1), point(2), point(3)))
    await publish(trainer, again, job)
    await eventually(lambda: metrics(gateway, job), lambda page: page.count == 2)
    await publish(trainer, late, job)

    page = await eventually(lambda: metrics(gateway, job), lambda page: page.count == 3)
    assert [one.loss for one in page.points] == [2.5, 1.0, 0.5]


@pytest.mark.usefixtures("service")
async def test_one_message_may_hold_a_point_twice(trainer: NatsBroker, gateway: NatsBroker) -> None:
    job = uuid4()
    twice = (point(1), point(1, loss=1.5, ts=NOON + timedelta(seconds=9)))
    await publish(trainer, MetricBatch(job_id=job, epoch=1, points=twice), job)
    page = await eventually(lambda: metrics(gateway, job), lambda page: page.count)
    assert [one.loss for one in page.points] == [1.5]


@pytest.mark.usefixtures("service")
async def test_a_message_that_is_no_batch_is_buried_and_holds_nobody_up(
    trainer: NatsBroker, gateway: NatsBroker, database: Database
) -> None:
    job = uuid4()
    await publish(trainer, b'{"points": [{"loss": null}]}', job)
    await publish(trainer, MetricBatch(job_id=job, epoch=1, points=(point(1),)), job)
    await eventually(lambda: metrics(gateway, job), lambda page: page.count == 1)

    connection = await asyncpg.connect(database.admin_dsn)
    try:
        buried = await eventually(
            lambda: connection.fetch(
                "SELECT consumer, payload FROM log.dead_letter WHERE subject = $1",
                metrics_subject(job),
            ),
            len,
        )
    finally:
        await connection.close()
    assert [row["consumer"] for row in buried] == ["telemetry-metrics"]


@pytest.mark.usefixtures("service")
async def test_the_most_extreme_values_that_decode_are_stored(
    trainer: NatsBroker, gateway: NatsBroker
) -> None:
    job = uuid4()
    extreme = point(
        10**9,
        "p\0" * 127,
        ts=datetime(1, 1, 1),  # noqa: DTZ001 (a trainer may send it)
        cycle=2**53,
        loss=1.7e308,
        lr=5e-324,
        throughput=-1.7e308,
    )
    await publish(trainer, MetricBatch(job_id=job, epoch=10**6, points=(extreme,)), job)
    await publish(trainer, LogBatch(job_id=job, epoch=1, lines=(line(2**53, "\0x\x1b[0m"),)), job)
    page = await eventually(lambda: metrics(gateway, job), lambda page: page.count)
    assert page.points[0].loss == 1.7e308
    written = await eventually(lambda: logs(gateway, job), lambda page: page.lines)
    assert written.lines[0].text == "x\x1b[0m"


@pytest.mark.usefixtures("service")
async def test_the_log_is_its_most_recent_lines_oldest_first(
    trainer: NatsBroker, gateway: NatsBroker
) -> None:
    job = uuid4()
    sent = tuple(line(n, f"line {n}") for n in range(1, 11))
    await publish(trainer, LogBatch(job_id=job, epoch=1, lines=sent), job)
    page = await eventually(lambda: logs(gateway, job), lambda page: page.lines)
    assert page == LogPage(job_id=job, latest_seq=10, lines=list(sent))
    assert (await logs(gateway, job, limit=3)).lines == list(sent[-3:])
    assert (await logs(gateway, job, since=8)).lines == list(sent[-2:])
    assert await logs(gateway, job, since=10) == LogPage(job_id=job, latest_seq=10, lines=[])


@pytest.mark.usefixtures("service")
async def test_an_answer_stays_under_what_nats_carries(
    trainer: NatsBroker, gateway: NatsBroker
) -> None:
    job = uuid4()
    long = "\u0001" * 4_000
    for first in range(1, 101, 20):
        lines = tuple(line(n, long) for n in range(first, first + 20))
        await publish(trainer, LogBatch(job_id=job, epoch=1, lines=lines), job)
    page = await eventually(lambda: logs(gateway, job), lambda page: page.latest_seq == 100)
    assert len(page.lines) < 100
    assert page.lines[-1].seq == 100


async def test_a_killed_service_loses_no_point(
    trainer: NatsBroker, gateway: NatsBroker, operator: NatsBroker, settings: Settings
) -> None:
    job = uuid4()
    async with running("telemetry", settings, operator) as process:
        for step in range(100):
            if step == 50:
                process.kill()
                await process.wait()
            await publish(trainer, MetricBatch(job_id=job, epoch=1, points=(point(step),)), job)
    async with running("telemetry", settings, operator):
        page = await eventually(lambda: metrics(gateway, job), lambda page: page.count == 100)
    assert [one.step for one in page.points] == list(range(100))
