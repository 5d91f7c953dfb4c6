"""A durable subscriber: what it is given, how often, and what it lives through."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import msgspec
import pytest
from msgspec.structs import replace

from libs.contracts.base import Envelope
from libs.contracts.scheduler import JobCancelRequested, JobReclaimed
from libs.subscriber import ALIVE_EVERY, Received, Subscriber
from tests.support.jobs import envelope
from tests.support.subscribers import House, house
from tests.support.waiting import PATIENCE, patient

FORGOTTEN_AFTER = ALIVE_EVERY + 9.0  # seconds without a sign; a busy machine may be late with one
LONG = FORGOTTEN_AFTER + ALIVE_EVERY  # seconds that a handler takes


@pytest.fixture(scope="module")
async def stack() -> AsyncIterator[House]:
    async with house() as running:
        yield running


@pytest.fixture
async def url(stack: House) -> AsyncIterator[str]:
    """Of a subscriber to a stream that is empty."""
    jetstream = patient(await stack.operator.connect())
    await jetstream.purge_stream("EVENTS")
    yield await stack.create("ada")
    await stack.command("remove", "ada")


def reclaimed() -> Envelope:
    return envelope(uuid4(), uuid4(), JobReclaimed(epoch=1, reason="lost", retries=1))


async def take(events: Subscriber) -> Received:
    async with asyncio.timeout(PATIENCE):
        return await anext(events)


async def test_what_is_newer_than_the_program_comes_as_it_is(stack: House, url: str) -> None:
    made_up = replace(
        reclaimed(), type="job.dreamt.v1", data=msgspec.Raw(b'{"type":"job.dreamt.v1","of":"x"}')
    )
    changed = replace(reclaimed(), data=msgspec.Raw(b'{"type":"job.reclaimed.v1","epoch":"two"}'))
    known = reclaimed()
    for sent in (made_up, changed, known):
        await stack.publish(sent)
    async with Subscriber(url) as events:
        for sent in (made_up, changed):
            got = await take(events)
            assert isinstance(got.data, msgspec.Raw)
            assert (got.envelope.event_id, bytes(got.data)) == (sent.event_id, bytes(sent.data))
            await got.ack()
        assert (await take(events)).data == JobReclaimed(epoch=1, reason="lost", retries=1)


async def test_a_message_that_is_no_event_is_passed_over(stack: House, url: str) -> None:
    jetstream = patient(await stack.operator.connect())
    await jetstream.publish("events.job.reclaimed.v1.x", b"\xff no event")
    sent = reclaimed()
    await stack.publish(sent)
    async with Subscriber(url) as events:
        assert (await take(events)).envelope == sent


async def test_other_types_are_passed_over_for_good(stack: House, url: str) -> None:
    wanted = envelope(uuid4(), uuid4(), JobCancelRequested(epoch=1))
    await stack.publish(reclaimed())
    await stack.publish(wanted)
    async with Subscriber(url, types=[JobCancelRequested]) as events:
        got = await take(events)
        await got.ack()
        assert got.envelope == wanted
    await stack.publish(later := reclaimed())
    async with Subscriber(url) as events:
        assert (await take(events)).envelope == later


async def test_what_is_refused_or_left_comes_again(stack: House, url: str) -> None:
    await stack.publish(sent := reclaimed())
    async with Subscriber(url) as events:
        first = await take(events)
        await first.nak(delay=0.1)
        second = await take(events)
    async with Subscriber(url) as events:
        third = await take(events)
    assert [one.envelope for one in (first, second, third)] == [sent] * 3
    assert [one.tries for one in (first, second, third)] == [1, 2, 3]


async def test_it_goes_on_when_nats_has_been_away(stack: House, url: str) -> None:
    async with Subscriber(url) as events:
        waiting = asyncio.create_task(take(events))
        await asyncio.sleep(0)
        await stack.restart()
        await stack.publish(sent := reclaimed())
        assert (await waiting).envelope == sent


async def test_an_event_stays_with_the_process_that_works_on_it(stack: House, url: str) -> None:
    jetstream = patient(await stack.operator.connect())
    config = (await jetstream.consumer_info("EVENTS", "sub-ada")).config
    await jetstream.add_consumer("EVENTS", config.evolve(ack_wait=FORGOTTEN_AFTER))
    for _ in range(2):
        await stack.publish(reclaimed())
    async with Subscriber(url) as events, Subscriber(url) as another:
        first = await take(events)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(another), LONG)
        second = await take(events)
    assert second.envelope != first.envelope
    assert second.tries == 1
