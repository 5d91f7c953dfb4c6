"""What an older release has made of NATS's streams and consumers becomes what this one declares."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import msgspec
import pytest
from faststream.nats import NatsBroker
from faststream.nats.subscriber.usecases import PullStreamSubscriber
from msgspec import Struct, field
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, RetentionPolicy

from libs.bus.broker import make_broker
from libs.bus.consume import durable_name, forget_ended, subscribe, update_consumers
from libs.bus.streams import DAY, EVENTS, EVENTS_DAYS, REPORTS, NotChanged, declare_streams
from libs.contracts.base import Envelope
from libs.contracts.scheduler import JobReclaimed
from libs.eventlog.connection import Pool, create_pool
from libs.eventlog.dead_letters import DeadLetters
from libs.eventlog.inbox import enter
from libs.eventlog.record import Inbox
from services.scheduler import reports
from tests.support.jobs import envelope
from tests.support.running import running
from tests.support.stack import Database, Nats
from tests.support.waiting import eventually, patient

LONG = 600.0  # seconds; a test that waited for the old setting would fail
SOON = 1.0
MANY = 20  # pulls that fail
WORKING = 2  # tasks of a consumer: one pulls, one hands out
ADVISORY = "$JS.EVENT.ADVISORY.API"


@pytest.fixture
async def jetstream(operator: NatsBroker) -> JetStreamContext:
    return patient(await operator.connect())


class Counter(Struct, kw_only=True):
    """A consumer of one job's events, as webhooks has them: its effect is a row of the inbox."""

    pool: Pool
    durable: str
    subject: str
    given: list[UUID] = field(default_factory=list)
    handled: list[UUID] = field(default_factory=list)

    async def handle(self, payload: bytes) -> None:
        event_id = msgspec.json.decode(payload, type=Envelope).event_id
        self.given.append(event_id)
        async with self.pool.acquire() as connection, connection.transaction():
            await enter(connection, Inbox(consumer=self.durable, event_id=event_id))
        self.handled.append(event_id)

    def process(self, url: str) -> NatsBroker:
        """A process of this release, about to start."""
        broker = make_broker(url)
        subscribe(
            broker,
            service="webhooks",
            stream="EVENTS",
            subject=self.subject,
            durable=self.durable,
            handle=self.handle,
            letters=DeadLetters(pool=self.pool),
            ack_wait=SOON,
        )
        return broker

    def of_old(self, **changes: object) -> ConsumerConfig:
        settings: dict[str, object] = {
            "name": self.durable,
            "durable_name": self.durable,
            "filter_subject": self.subject,
            "ack_policy": AckPolicy.EXPLICIT,
            "deliver_policy": DeliverPolicy.ALL,
            "ack_wait": LONG,
            "max_deliver": 5,
            "max_ack_pending": 7,
        }
        return ConsumerConfig(**(settings | changes))  # type: ignore[arg-type]


@pytest.fixture
async def counter(fresh_database: Database) -> AsyncIterator[Counter]:
    async with create_pool(fresh_database.dsn("webhooks"), size=2) as pool:
        name = uuid4().hex
        subject = f"events.job.reclaimed.v1.{name}"
        yield Counter(pool=pool, durable=durable_name("webhooks", name), subject=subject)


async def publish(jetstream: JetStreamContext, subject: str) -> UUID:
    sent = envelope(uuid4(), uuid4(), JobReclaimed(epoch=1, reason="lost", retries=1))
    await jetstream.publish(subject, msgspec.json.encode(sent))
    return sent.event_id


async def test_a_consumer_of_an_older_release_gets_this_ones_settings_and_keeps_its_place(
    jetstream: JetStreamContext, nats_server: Nats, counter: Counter
) -> None:
    await jetstream.add_consumer("EVENTS", counter.of_old())
    events = [await publish(jetstream, counter.subject) for _ in range(4)]
    # A process of the older release handles the first, and dies with the second and the third,
    # of which one has had its effect.
    former = await jetstream.pull_subscribe_bind(durable=counter.durable, stream="EVENTS")
    first, _, third = await former.fetch(3, timeout=5)
    await counter.handle(first.data)
    await first.ack_sync()
    await counter.handle(third.data)
    await former.unsubscribe()
    counter.given.clear()

    replicas = [counter.process(nats_server.url("webhooks")) for _ in range(2)]
    await asyncio.gather(*(update_consumers(one) for one in replicas))

    info = await jetstream.consumer_info("EVENTS", counter.durable)
    assert (info.num_ack_pending, info.num_pending) == (2, 1)
    now = info.config
    assert (now.ack_wait, now.max_deliver, now.max_ack_pending) == (SOON, -1, 1_000)
    assert now.filter_subject == counter.subject
    for one in replicas:
        await one.start()

    async def waiting() -> int:
        info = await jetstream.consumer_info("EVENTS", counter.durable)
        return (info.num_ack_pending or 0) + (info.num_pending or 0)

    await eventually(waiting, lambda number: number == 0)
    for one in replicas:
        await one.stop()
    assert sorted(counter.given) == sorted(events[1:])
    assert sorted(counter.handled) == sorted(events), "each has had its effect once"


async def test_nothing_is_written_where_nothing_differs(
    operator: NatsBroker, jetstream: JetStreamContext, nats_server: Nats, counter: Counter
) -> None:
    asked: list[str] = []
    client = await operator.connect()

    async def note(message: object) -> None:
        asked.append(msgspec.json.decode(message.data)["subject"])  # type: ignore[attr-defined]

    advisories = await client.subscribe(ADVISORY, cb=note)
    creates = f"$JS.API.CONSUMER.CREATE.EVENTS.{counter.durable}.{counter.subject}"

    async def writes(times: int) -> int:
        for _ in range(times):
            broker = counter.process(nats_server.url("webhooks"))
            await update_consumers(broker)
            await broker.stop()
        last = await jetstream.add_consumer("EVENTS", ConsumerConfig(name=uuid4().hex))
        mark = f"$JS.API.CONSUMER.CREATE.EVENTS.{last.name}"

        async def seen() -> list[str]:
            return asked

        await eventually(seen, lambda subjects: mark in subjects)
        await jetstream.delete_consumer("EVENTS", last.name)
        return asked.count(creates)

    assert await writes(1) == 0, "subscribing makes what is missing"
    await jetstream.add_consumer("EVENTS", counter.of_old())
    assert await writes(3) == 2, "it was made, and changed once"
    await advisories.unsubscribe()


async def test_pulls_that_fail_are_begun_anew_and_leave_nothing_behind(
    jetstream: JetStreamContext, nats_server: Nats, counter: Counter
) -> None:
    broker = counter.process(nats_server.url("webhooks"))
    await broker.start()
    (one,) = broker.subscribers
    assert isinstance(one, PullStreamSubscriber)
    assert one.subscription is not None
    fetch, failures = one.subscription.fetch, 0

    async def fail(**_: object) -> list[Msg]:
        nonlocal failures
        failures += 1
        await asyncio.sleep(0)
        raise TimeoutError  # as nats-py does where it should raise its own

    async def failed() -> int:
        return failures

    async def handled() -> list[UUID]:
        return counter.handled

    one.subscription.fetch = fail  # type: ignore[method-assign]
    await eventually(failed, lambda number: number > MANY)
    kept = len(one.tasks)
    one.subscription.fetch = fetch  # type: ignore[method-assign]
    await forget_ended(broker)

    assert kept > MANY
    assert len(one.tasks) <= WORKING
    event = await publish(jetstream, counter.subject)
    await eventually(handled, lambda events: events == [event])
    await broker.stop()


async def test_what_nats_refuses_to_change_is_said_with_what_to_do(
    jetstream: JetStreamContext, nats_server: Nats, counter: Counter
) -> None:
    await jetstream.add_consumer("EVENTS", counter.of_old(deliver_policy=DeliverPolicy.NEW))
    broker = counter.process(nats_server.url("webhooks"))

    with pytest.raises(NotChanged, match=f"nats consumer rm EVENTS {counter.durable}") as told:
        await update_consumers(broker)

    await broker.stop()
    assert "deliver policy can not be updated" in str(told.value)
    assert "'deliver_policy': " in str(told.value)
    info = await jetstream.consumer_info("EVENTS", counter.durable)
    assert info.config.ack_wait == LONG, "it is as it was"


async def test_a_scheduler_updates_its_consumer_of_reports_as_it_starts(
    operator: NatsBroker,
    jetstream: JetStreamContext,
    nats_server: Nats,
    fresh_database: Database,
) -> None:
    former = ConsumerConfig(
        name=reports.REPORTS,
        durable_name=reports.REPORTS,
        filter_subject="reports.>",
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=10.0,
        max_deliver=-1,
        max_ack_pending=1_000,
    )
    await jetstream.add_consumer("REPORTS", former)
    settings = {
        "database_url": fresh_database.dsn("scheduler"),
        "nats_url": nats_server.url("scheduler"),
    }

    async with running("scheduler", settings, operator):
        info = await jetstream.consumer_info("REPORTS", reports.REPORTS)

    assert info.config.ack_wait == reports.WAIT


async def test_streams_are_updated_by_a_process_that_starts_and_by_no_other(
    jetstream: JetStreamContext,
) -> None:
    async def max_age() -> float | None:
        return (await jetstream.stream_info("EVENTS")).config.max_age

    await jetstream.update_stream(EVENTS.evolve(max_age=DAY, num_replicas=1))

    await declare_streams(jetstream, update=False)
    assert await max_age() == DAY
    await declare_streams(jetstream)
    assert await max_age() == EVENTS_DAYS * DAY


async def test_a_stream_that_nats_refuses_to_change_is_said_with_what_to_do(
    jetstream: JetStreamContext,
) -> None:
    await jetstream.delete_stream("REPORTS")
    await jetstream.add_stream(REPORTS.evolve(retention=RetentionPolicy.LIMITS))
    try:
        with pytest.raises(NotChanged, match="nats stream rm REPORTS"):
            await declare_streams(jetstream)
    finally:
        await jetstream.delete_stream("REPORTS")
        await declare_streams(jetstream)
