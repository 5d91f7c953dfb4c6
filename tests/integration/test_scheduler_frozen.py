"""Two schedulers, of which one was frozen, or which heard nobody for a while: no trainer whose
heart beats loses its job for it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

import pytest
from faststream.nats import NatsBroker

from libs.bus.broker import make_broker
from libs.contracts.scheduler_rpc import Heartbeat, LeaseGranted, NoWork
from libs.eventlog.connection import create_pool
from services.scheduler import handlers, leasing, reports
from tests.integration.test_scheduler import asking, lease, scheduler_at, state, submit
from tests.support.jobs import Clock
from tests.support.nats_front import hanging
from tests.support.stack import Database


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def pair(fresh_database: Database, clock: Clock) -> AsyncIterator[list[handlers.Scheduler]]:
    async with create_pool(fresh_database.dsn("scheduler"), size=8) as pool:
        yield [scheduler_at(clock, pool) for _ in range(2)]


def beat_of(grant: LeaseGranted) -> Heartbeat:
    return Heartbeat(
        trainer_id="trainer-0", job_id=grant.job_id, epoch=1, step=1, tokens_processed=1
    )


async def test_no_trainer_is_lost_to_an_absence_of_nats(
    pair: list[handlers.Scheduler], clock: Clock
) -> None:
    """Nobody's heart can be heard then, and both schedulers go on sweeping."""
    job_id = await submit(pair[0])
    grant = await lease(pair[0])
    await asyncio.gather(*map(leasing.reclaim_lapsed, pair))
    for each in pair:
        each.hears = deaf
    for _ in range(15):
        clock.now += timedelta(seconds=1)
        for each in pair:
            await leasing.reclaim_lapsed(each)
    for each in pair:
        each.hears = handlers.nats_answers
    await asyncio.gather(*map(leasing.reclaim_lapsed, pair))
    assert (await state(pair[0], job_id)).retries == 0
    assert (await leasing.renew_lease(pair[0], beat_of(grant))).verdict == "continue"


async def deaf() -> bool:
    return False


async def test_a_scheduler_knows_whether_nats_hangs(operator: NatsBroker, nats_url: str) -> None:
    flows = asyncio.Event()
    flows.set()
    async with hanging(nats_url, flows) as url:
        broker = make_broker(url)
        assert await reports.hears(broker)
        flows.clear()
        assert not await reports.hears(broker)
        flows.set()
        await broker.stop()


async def test_a_scheduler_that_was_frozen_takes_no_job_from_a_trainer_whose_heart_beats(
    pair: list[handlers.Scheduler], clock: Clock
) -> None:
    """It saw the lease lapse; when it goes on, the other one has heard of the trainer."""
    frozen, other = pair
    job_id = await submit(other)
    grant = await lease(other)
    await leasing.reclaim_lapsed(other)
    asleep, woken = asyncio.Event(), asyncio.Event()

    async def asks_nats(_: UUID) -> bool:
        asleep.set()
        await woken.wait()
        return False

    frozen.unheard = asks_nats
    clock.now += timedelta(seconds=4)
    await leasing.reclaim_lapsed(other)
    clock.now += timedelta(seconds=4)
    await leasing.reclaim_lapsed(other)
    clock.now += timedelta(seconds=3)
    reclaiming = asyncio.create_task(leasing.reclaim_lapsed(frozen))
    await asleep.wait()
    assert (await leasing.renew_lease(other, beat_of(grant))).verdict == "continue"

    woken.set()
    await reclaiming
    assert (await state(other, job_id)).retries == 0
    assert (await leasing.renew_lease(other, beat_of(grant))).verdict == "continue"


async def test_a_heartbeat_that_was_held_up_in_a_frozen_scheduler_shortens_no_lease(
    pair: list[handlers.Scheduler], clock: Clock
) -> None:
    await submit(pair[0])
    grant = await lease(pair[0])
    await leasing.reclaim_lapsed(pair[0])
    frozen, then = pair[1], clock.now
    frozen.now = lambda: then
    clock.now += timedelta(seconds=4)
    await leasing.reclaim_lapsed(pair[0])
    assert (await leasing.renew_lease(pair[0], beat_of(grant))).verdict == "continue"
    assert (await leasing.renew_lease(frozen, beat_of(grant))).verdict == "continue"
    clock.now += timedelta(seconds=4)
    await leasing.reclaim_lapsed(pair[0])
    clock.now += timedelta(seconds=3)
    await leasing.reclaim_lapsed(pair[0])
    assert (await leasing.renew_lease(pair[0], beat_of(grant))).verdict == "continue"


async def test_a_trainer_that_asked_before_a_freeze_is_given_nothing_after_it(
    pair: list[handlers.Scheduler], clock: Clock
) -> None:
    """It has asked the other one by now, or is gone; nobody would train what it was given."""
    job_id = await submit(pair[0])
    times = iter((clock.now, *[clock.now + timedelta(seconds=45)] * 9))
    pair[0].now = lambda: next(times)
    assert isinstance(await leasing.lease_job(pair[0], asking()), NoWork)
    assert (await lease(pair[1], asking("trainer-1"))).job_id == job_id
