"""A subscriber's place in the stream, made by an older release: brought up to date, and kept."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig

from deploy import subscribers as commands
from deploy.local.nats import OPERATOR
from deploy.local.program import StackError, free_port
from deploy.local.subscribers import update_places
from libs.contracts.base import Envelope
from libs.contracts.scheduler import JobCancelRequested, JobReclaimed
from libs.subscriber import ACK_WAIT, Subscriber
from tests.support.jobs import envelope
from tests.support.subscribers import House, house
from tests.support.waiting import eventually, patient

LONG = 3_600.0  # seconds: nothing comes again while a test runs
RECLAIMED = "events.job.reclaimed.v1.*"


@pytest.fixture(scope="module")
async def stack() -> AsyncIterator[House]:
    async with house() as running:
        yield running


def of_old(name: str) -> ConsumerConfig:
    return ConsumerConfig(
        durable_name=name,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=LONG,
        max_deliver=5,
        max_ack_pending=7,
        filter_subjects=[RECLAIMED],
    )


def reclaimed() -> Envelope:
    return envelope(uuid4(), uuid4(), JobReclaimed(epoch=1, reason="lost", retries=1))


@asynccontextmanager
async def reader_of_old(stack: House, name: str) -> AsyncIterator[tuple[str, list[Envelope]]]:
    """(its address, what it has not dealt with): it has acknowledged one event, holds a second one,
    and has not been given a third."""
    url = await stack.create(name, "--types", "job.reclaimed.v1")
    jetstream = patient(await stack.operator.connect())
    await jetstream.delete_consumer("EVENTS", f"sub-{name}")
    await jetstream.purge_stream("EVENTS")
    await jetstream.add_consumer("EVENTS", of_old(f"sub-{name}"))
    sent = [reclaimed() for _ in range(3)]
    for one in sent:
        await stack.publish(one)
    former = await jetstream.pull_subscribe_bind(f"sub-{name}", "EVENTS")
    first, _ = await former.fetch(2, timeout=5)
    await first.ack_sync()
    await former.unsubscribe()
    yield url, sent[1:]
    await stack.command("remove", name)


async def settings(jetstream: JetStreamContext, name: str) -> ConsumerConfig:
    return (await jetstream.consumer_info("EVENTS", name)).config


async def test_up_gives_an_older_consumer_its_settings_and_leaves_it_its_place(
    stack: House,
) -> None:
    jetstream = patient(await stack.operator.connect())
    async with reader_of_old(stack, "ada") as (url, left):
        await stack.restart()

        async def state() -> tuple[int | None, int | None]:
            info = await jetstream.consumer_info("EVENTS", "sub-ada")
            return info.num_ack_pending, info.num_pending

        await eventually(state, lambda found: found == (1, 1))
        now = await settings(jetstream, "sub-ada")
        assert (now.ack_wait, now.max_deliver) == (ACK_WAIT, -1)
        assert (now.filter_subject or now.filter_subjects) in (RECLAIMED, [RECLAIMED])
        assert now.max_ack_pending == 7, "a release says nothing of it"

        await stack.publish(envelope(uuid4(), uuid4(), JobCancelRequested(epoch=1)))
        async with Subscriber(url) as events:
            got = [await anext(events) for _ in left]
            for one in got:
                await one.ack()
        assert sorted(one.envelope.event_id for one in got) == sorted(one.event_id for one in left)
        assert sorted(one.tries for one in got) == [1, 2], "what was held comes again, soon"


async def test_the_command_updates_subscribers_and_nobody_else_and_says_whom(
    stack: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jetstream = patient(await stack.operator.connect())
    await stack.create("eve")
    await jetstream.add_consumer("EVENTS", of_old("billing-job-reclaimed-v1"))
    monkeypatch.setenv("TUNEYARD_NATS_URL", stack.stack.nats_url(OPERATOR))
    async with reader_of_old(stack, "bob"):
        await commands.update()
        assert capsys.readouterr().out.split("\n") == ["updated bob", ""]
        assert (await settings(jetstream, "sub-bob")).ack_wait == ACK_WAIT
        assert (await settings(jetstream, "billing-job-reclaimed-v1")).ack_wait == LONG

        await commands.update()
        assert capsys.readouterr().out == "", "nothing differs any more"


async def test_all_of_many_are_updated(stack: House) -> None:
    jetstream = patient(await stack.operator.connect())
    names = [f"sub-{number}" for number in range(300)]  # more than NATS lists at once
    for name in names:
        await jetstream.add_consumer("EVENTS", of_old(name))
    assert len(await update_places(stack.stack.nats_url(OPERATOR))) == len(names)
    for name in names:
        await jetstream.delete_consumer("EVENTS", name)


async def test_without_nats_the_command_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEYARD_NATS_URL", f"nats://operator:x@127.0.0.1:{free_port()}")
    with pytest.raises(StackError, match="NATS does not answer"):
        await commands.update()
