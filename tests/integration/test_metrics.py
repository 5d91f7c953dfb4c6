"""What an operator sees of a whole platform on which one job was run: exactly that, two ways."""

import asyncio
import hashlib
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from msgspec import Struct

from deploy.local.observation import METRICS_LISTEN
from deploy.local.program import Program, free_port
from deploy.local.services import MODULES, environment, trainer_environment
from libs.bus.rpc import ask
from libs.contracts import rpc
from libs.contracts.base import DatasetRef
from libs.contracts.training import FinetuneParams
from libs.objectstore import ObjectStore
from libs.observability.instruments import METRICS, declared
from tests.support.objects import store_settings
from tests.support.platform_ends import (
    PRICE,
    SERVICES,
    START_SECONDS,
    STOP_SECONDS,
    Platform,
    running_platform,
)
from tests.support.receiver import Receiver, always
from tests.support.scraped import Collector, Series, collecting, scrape, series
from tests.support.scripted_platform import eventually, local_model
from tests.support.stand_in_training import TOKENS_A_STEP
from tests.support.webhook_room import ENDPOINT_SQL

STEPS = 40
LOOK = 90.0  # seconds; longer than from one look at the database to the next
JOB = {"job_type": "finetune"}
EVENTS = 8  # of a job's way, from payment.reserved to payment.captured, without checkpoints
NOTICES = 3  # a customer is told of: queued, started, completed
SETTLED = (
    ("relay", series("tuneyard_nats_stream_messages", stream="EVENTS"), EVENTS),
    ("relay", series("tuneyard_outbox_events"), 0),
    ("scheduler", series("tuneyard_lease_held"), 0),
    ("webhooks", series("tuneyard_webhook_pending"), 0),
    ("trainer", series("tuneyard_trainer_busy"), 0),
)
"""What a look at the database, at NATS or at oneself says, each some time after it is so."""
CHANGING = ("tuneyard.process", "tuneyard.postgres", "tuneyard.nats.stream.size")


class Seen(Struct, kw_only=True):
    """``during`` is the trainer's scrape while it trained, ``scraped`` are all at the end."""

    platform: Platform
    collector: Collector
    during: dict[Series, float]
    scraped: dict[str, dict[Series, float]]


async def train(platform: Platform, stack: AsyncExitStack, until: Path) -> None:
    """A trainer of this platform, with training that is quick, and goes on until there is such a
    file; its job is the test's."""
    local_model(platform.stack.models)
    program = Program(
        name="trainer-0",
        argv=(sys.executable, "-m", "tests.support.stand_in_trainer"),
        env=trainer_environment(platform.stack, "trainer-0"),
    )
    await platform.supervisor.start(program)
    await ask(platform.gateway, rpc.ping_of("trainer"), rpc.Ping(), deadline=START_SECONDS)
    script = f"until {until}".encode()
    dataset = DatasetRef(
        id=uuid4(),
        key="datasets/slow",
        sha256=hashlib.sha256(script).hexdigest(),
        size_bytes=len(script),
        rows=1,
        tokens=1,
        kind="text",
    )
    store = await stack.enter_async_context(ObjectStore(store_settings(platform.stack.s3)))
    await store.put(dataset.key, script)
    params = FinetuneParams(
        steps=STEPS, learning_rate=1e-3, seq_len=64, batch_size=4, checkpoint_every=10_000
    )
    await platform.submit(dataset=dataset, params=params)


def free_row(length: int) -> int:
    """The first of so many ports that follow each other, none of which is found again."""
    row = [free_port()]
    while len(row) < length:
        port = free_port()
        row = [*row, port] if port == row[-1] + 1 else [port]
    return row[0]


def listening(platform: Platform, service: str) -> str:
    return environment(platform.stack, service)[METRICS_LISTEN]


async def scrape_all(platform: Platform) -> dict[str, dict[Series, float]]:
    names = (*SERVICES, "gateway", "trainer")
    return {name: await scrape(listening(platform, name)) for name in names}


@pytest.fixture(scope="module")
async def seen(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Seen]:
    async with AsyncExitStack() as stack:
        collector = await stack.enter_async_context(collecting())
        receiver = await stack.enter_async_context(Receiver().serving())
        observation = {
            METRICS_LISTEN: f"127.0.0.1:{free_row(len(MODULES))}",
            "TUNEYARD_OTLP_ENDPOINT": collector.endpoint,
            "OTEL_METRIC_EXPORT_INTERVAL": "500",
        }
        platform = await stack.enter_async_context(
            running_platform(also=("gateway",), observation=observation)
        )
        secret = os.urandom(24)
        endpoint = receiver.add("/told", secret, always())
        await platform.sql.execute(
            ENDPOINT_SQL,
            *(uuid4(), platform.account_id, receiver.url("/told"), None, True, secret, None, None),
            datetime.now(UTC),
        )
        looked = tmp_path_factory.mktemp("training") / "looked"
        await train(platform, stack, until=looked)
        shown = {
            series("tuneyard_trainer_throughput_per_second", **JOB),
            series("tuneyard_trainer_gpu_memory_bytes", **JOB),
        }
        during: dict[Series, float] = {}
        async with asyncio.timeout(LOOK):
            while not shown <= during.keys():
                await asyncio.sleep(0.1)
                during = await scrape(listening(platform, "trainer"))
        looked.touch()
        job_id = await platform.sql.fetchval("SELECT id FROM log.job")
        await platform.ended(job_id, "completed")
        await eventually(lambda: sum(endpoint.accepted.values()) == NOTICES)
        scraped: dict[str, dict[Series, float]] = {}
        async with asyncio.timeout(LOOK):  # until all has been looked at again
            while any(scraped.get(name, {}).get(one) != now for name, one, now in SETTLED):
                await asyncio.sleep(0.2)
                scraped = await scrape_all(platform)
        yield Seen(platform=platform, collector=collector, during=during, scraped=scraped)
        # Before NATS, without which it has nobody to take leave of.
        await platform.supervisor.stop(["trainer-0"], within_seconds=STOP_SECONDS)


async def test_a_scrape_of_each_service_says_exactly_what_happened(seen: Seen) -> None:
    happened = {
        "scheduler": {
            series("tuneyard_job_submitted_total", **JOB): 1,
            series("tuneyard_job_completed_total", **JOB): 1,
            series("tuneyard_job_wait_duration_seconds_count", **JOB): 1,
            series("tuneyard_job_run_duration_seconds_count", outcome="completed", **JOB): 1,
            series("tuneyard_lease_held"): 0,
        },
        "relay": {
            series("tuneyard_payment_amount_total", event="reserved", currency="USD"): PRICE,
            series("tuneyard_payment_amount_total", event="captured", currency="USD"): PRICE,
            series("tuneyard_event_published_total", type="job.completed.v1"): 1,
            series("tuneyard_outbox_events"): 0,
            series("tuneyard_outbox_oldest_age_seconds"): 0,
            series("tuneyard_relay_leads"): 1,
        },
        "artifact": {series("tuneyard_artifact_judged_total", outcome="published"): 1},
        "webhooks": {
            series("tuneyard_webhook_attempts_total", outcome="accepted"): NOTICES,
            series("tuneyard_webhook_delivery_duration_seconds_count"): NOTICES,
            series("tuneyard_webhook_pending"): 0,
            series("tuneyard_webhook_endpoints", state="healthy"): 1,
        },
        "trainer": {
            series("tuneyard_trainer_tokens_total", **JOB): STEPS * TOKENS_A_STEP,
            series("tuneyard_trainer_busy"): 0,
        },
    }
    for service, expected in happened.items():
        shown = {name: seen.scraped[service].get(name) for name in expected}
        assert shown == expected, service
    assert published(seen.scraped["relay"]) == EVENTS


async def test_no_consumer_is_behind_and_every_durable_one_is_shown(seen: Seen) -> None:
    lag = {
        dict(labels)["consumer"]: value
        for (name, labels), value in seen.scraped["relay"].items()
        if name == "tuneyard_consumer_pending"
    }
    assert {"billing-job-completed-v1", "scheduler-reports", "telemetry-metrics"} <= lag.keys()
    assert set(lag.values()) == {0}


async def test_the_wait_and_the_run_took_some_time(seen: Seen) -> None:
    scheduler = seen.scraped["scheduler"]
    wait = scheduler[series("tuneyard_job_wait_duration_seconds_sum", **JOB)]
    run = scheduler[series("tuneyard_job_run_duration_seconds_sum", outcome="completed", **JOB)]
    assert wait > 0
    assert run > 0


async def test_a_trainer_shows_its_speed_and_memory_while_it_trains_and_not_afterwards(
    seen: Seen,
) -> None:
    speed = series("tuneyard_trainer_throughput_per_second", **JOB)
    memory = series("tuneyard_trainer_gpu_memory_bytes", **JOB)
    assert (seen.during[speed], seen.during[memory]) == (1_000, 1.5e9)
    assert seen.during[series("tuneyard_trainer_busy")] == 1
    assert not {speed, memory} & seen.scraped["trainer"].keys()


async def test_every_series_that_a_process_has_is_declared_with_its_labels(seen: Seen) -> None:
    known = declared()
    for service, scraped in seen.scraped.items():
        for name, labels in scraped:
            assert name in known, (service, name)
            assert {label for label, _ in labels} <= set(known[name].attributes), (service, name)


async def test_a_collector_is_sent_the_same_by_otlp(seen: Seen) -> None:
    """Under OpenTelemetry's names, with the units that are declared."""

    def sent() -> dict[str, dict[Series, float]]:
        return {
            service: {key: value for key, value in got.items() if stands_still(key[0])}
            for service in seen.scraped
            if (got := seen.collector.received.get(f"tuneyard-{service}"))
        }

    async def scraped() -> dict[str, dict[Series, float]]:
        now = await scrape_all(seen.platform)
        return {service: as_sent(found) for service, found in now.items()}

    async with asyncio.timeout(LOOK):  # until both are of the same look at everything
        while sent() != await scraped():  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    for name, unit in seen.collector.units.items():
        assert METRICS[name].unit == unit


async def test_what_is_published_again_is_not_counted_again(seen: Seen) -> None:
    """As after the death of a relay that had published and not yet deleted."""
    sql = seen.platform.sql
    await sql.execute("INSERT INTO log.outbox SELECT position FROM log.event")
    async with asyncio.timeout(LOOK):
        while await sql.fetchval("SELECT count(*) FROM log.outbox"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    relay = await scrape(listening(seen.platform, "relay"))

    captured = series("tuneyard_payment_amount_total", event="captured", currency="USD")
    assert relay[captured] == PRICE
    assert published(relay) == EVENTS


def published(relay: dict[Series, float]) -> float:
    """Events, of whatever type."""
    return sum(
        value for (name, _), value in relay.items() if name == "tuneyard_event_published_total"
    )


def stands_still(name: str) -> bool:
    """Not what goes on while nothing happens: questions for work, looks, connections."""
    return name.startswith("tuneyard.") and not name.startswith(CHANGING)


def as_sent(scraped: dict[Series, float]) -> dict[Series, float]:
    """A scrape with the names that it has in OTLP."""
    known = declared()
    found = {}
    for (series_name, labels), value in scraped.items():
        metric = known[series_name]
        ending = series_name.rpartition("_")[2]
        name = f"{metric.name}:{ending}" if metric.kind == "histogram" else metric.name
        if stands_still(name):
            found[(name, labels)] = value
    return found
