"""Two schedulers on one queue: what one of them does not know, or no longer does, harms nobody."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from uuid import UUID, uuid4

import msgspec
import pytest
from faststream.nats import NatsBroker
from msgspec.structs import replace
from nats.js.errors import NotFoundError

from libs.bus.streams import REPORTS, report_subject
from libs.contracts.events import decode_job_event
from libs.contracts.scheduler import JobCheckpointed, JobLeased, JobStarted, JobTrained
from libs.contracts.scheduler_rpc import Heartbeat, LeaseGranted, NoWork
from libs.contracts.trainer import Report
from libs.eventlog.connection import Connection, connect, create_pool
from libs.eventlog.read import load
from libs.jobstate.state import job_stream
from services.scheduler import handlers, leasing, reports
from tests.integration.test_scheduler import (
    asking,
    checkpointed,
    finished,
    lease,
    report,
    scheduler_at,
    started,
    state,
    submit,
)
from tests.support.jobs import Clock
from tests.support.running import running
from tests.support.stack import Database, Nats
from tests.support.waiting import eventually, held_open, patient

JOBS = 12
TRAINED_SQL = "SELECT count(*) FROM log.event WHERE type = 'job.trained.v1'"
WAITING_SQL = """
SELECT count(*) FROM pg_stat_activity
WHERE wait_event_type = 'Lock' AND datname = current_database()
"""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def pair(fresh_database: Database, clock: Clock) -> AsyncIterator[list[handlers.Scheduler]]:
    dsn = fresh_database.dsn("scheduler")
    async with create_pool(dsn, size=8) as one, create_pool(dsn, size=8) as other:
        yield [scheduler_at(clock, pool) for pool in (one, other)]


@pytest.fixture
async def admin(fresh_database: Database) -> AsyncIterator[Connection]:
    connection = await connect(fresh_database.admin_dsn)
    yield connection
    await connection.close()


async def test_a_trainer_that_asks_both_gets_one_lease(pair: list[handlers.Scheduler]) -> None:
    for _ in range(10):
        await submit(pair[0])
    for turn in range(5):
        request = asking(f"trainer-{turn}", uuid4())
        one, other = await asyncio.gather(*(lease(each, request) for each in pair))
        assert one == other


async def test_no_lease_is_given_twice(pair: list[handlers.Scheduler]) -> None:
    jobs = {await submit(pair[0]) for _ in range(JOBS)}

    async def until_granted(turn: int) -> LeaseGranted:
        request = asking(f"trainer-{turn}", uuid4())
        while True:  # two may reach for the same job, and one of them for nothing
            answer = await leasing.lease_job(pair[turn % 2], request)
            if isinstance(answer, LeaseGranted):
                return answer

    granted = await asyncio.gather(*map(until_granted, range(JOBS)))
    assert {one.job_id for one in granted} == jobs
    assert {one.epoch for one in granted} == {1}


async def test_a_scheduler_that_starts_again_and_again_keeps_no_dead_trainers_lease_alive(
    pair: list[handlers.Scheduler], clock: Clock
) -> None:
    job_id = await submit(pair[0])
    await lease(pair[0])
    await leasing.reclaim_lapsed(pair[0])
    for _ in range(11):
        clock.now += timedelta(seconds=1)
        await leasing.reclaim_lapsed(pair[0])
        restarted = handlers.Scheduler(
            pool=pair[1].pool, now=lambda: clock.now, new_id=uuid4, committed=lambda: None
        )
        await leasing.reclaim_lapsed(restarted)
    assert (await state(pair[0], job_id)).retries == 1


async def test_after_an_outage_both_give_trainers_their_time_again(
    pair: list[handlers.Scheduler], clock: Clock
) -> None:
    await submit(pair[0])
    grant = await lease(pair[0])
    for each in pair:
        await leasing.reclaim_lapsed(each)
    clock.now += timedelta(minutes=3)
    await asyncio.gather(*map(leasing.reclaim_lapsed, pair))
    beat = Heartbeat(
        trainer_id="trainer-0", job_id=grant.job_id, epoch=1, step=1, tokens_processed=1
    )
    assert (await leasing.renew_lease(pair[0], beat)).verdict == "continue"


async def test_a_trainer_whose_report_waits_for_us_has_not_fallen_silent(
    pair: list[handlers.Scheduler], operator: NatsBroker, clock: Clock
) -> None:
    """It has reported its end and renews nothing; a scheduler that is behind must not have the job
    trained again for that."""
    scheduler = pair[0]
    scheduler.unheard = partial(reports.unheard, operator)
    job_id = await submit(scheduler)
    grant = await lease(scheduler)
    await leasing.reclaim_lapsed(scheduler)
    ended = finished(grant)
    held = await publish(operator, ended)
    for _ in range(30):
        clock.now += timedelta(seconds=1)
        await leasing.reclaim_lapsed(scheduler)
    await reports.handle_in_turn(operator, scheduler, msgspec.json.encode(ended))
    assert (await state(scheduler, job_id)).trained

    silent = await submit(scheduler)
    await lease(scheduler)
    assert REPORTS.name is not None
    await patient(await operator.connect()).delete_msg(REPORTS.name, held)
    for _ in range(11):
        clock.now += timedelta(seconds=1)
        await leasing.reclaim_lapsed(scheduler)
    assert (await state(scheduler, silent)).retries == 1


async def test_a_trainer_is_not_given_again_what_it_has_reported_on(
    pair: list[handlers.Scheduler], operator: NatsBroker
) -> None:
    """It is two short jobs ahead of us: its last words on the first wait, and it has named another
    as its last one since."""
    scheduler = pair[0]
    scheduler.unheard = partial(reports.unheard, operator)
    for _ in range(3):
        await submit(scheduler)
    request, grants = asking(), []
    for _ in range(3):
        grant = await lease(scheduler, request)
        grants.append(grant)
        await publish(operator, finished(grant))
        request = replace(request, last_job_id=grant.job_id, last_epoch=grant.epoch)
    assert len({grant.job_id for grant in grants}) == 3

    # Nor does it lose them to a restart in between.
    assert isinstance(await leasing.lease_job(scheduler, asking(instance=uuid4())), NoWork)
    for grant in grants:
        assert (await state(scheduler, grant.job_id)).epoch == 1
        await report(scheduler, finished(grant))
        assert (await state(scheduler, grant.job_id)).trained


async def test_a_report_that_changes_nothing_does_not_undo_what_the_other_has_just_done(
    pair: list[handlers.Scheduler], admin: Connection
) -> None:
    """One reclaims the job; the other has loaded it before, and finds that a repeated report means
    nothing. Both come to the job's row in the queue, and the one who knows less comes last."""
    job_id = await submit(pair[0])
    grant = await lease(pair[0])
    await report(pair[0], started(grant))
    async with held_open(admin):
        await admin.fetch("SELECT * FROM scheduler.queue WHERE job_id = $1 FOR UPDATE", job_id)
        held = handlers.queue.Lease(job_id=job_id, epoch=1, trainer_id="trainer-0")
        reclaiming = asyncio.create_task(leasing.reclaim(pair[0], held, "it was lost"))
        await eventually(lambda: admin.fetchval(WAITING_SQL), lambda waiting: waiting == 1)
        repeated = asyncio.create_task(report(pair[1], started(grant)))
        await eventually(
            lambda: admin.fetchval(WAITING_SQL), lambda waiting: waiting == 2 or repeated.done()
        )
    await asyncio.gather(reclaiming, repeated)

    again = await lease(pair[1], asking("trainer-1", uuid4()))
    assert (again.job_id, again.epoch) == (job_id, 2)


async def test_a_report_waits_for_the_one_that_was_sent_before_it(
    pair: list[handlers.Scheduler], operator: NatsBroker
) -> None:
    jetstream = patient(await operator.connect())
    job_id = await submit(pair[0])
    grant = await lease(pair[0])
    first, second = started(grant), finished(grant)
    held = await publish(operator, first)
    await publish(operator, second)

    with pytest.raises(reports.OutOfTurn):
        await reports.handle_in_turn(operator, pair[1], msgspec.json.encode(second))
    await reports.handle_in_turn(operator, pair[0], msgspec.json.encode(first))
    assert REPORTS.name is not None
    await jetstream.delete_msg(REPORTS.name, held)  # as its acknowledgement does
    await reports.handle_in_turn(operator, pair[1], msgspec.json.encode(second))

    after = await state(pair[0], job_id)
    assert (after.status, after.trained, after.steps_total) == ("running", True, 100)


async def test_the_reports_of_a_job_are_handled_in_order_by_two_schedulers(
    pair: list[handlers.Scheduler],
    fresh_database: Database,
    nats_server: Nats,
    operator: NatsBroker,
    admin: Connection,
) -> None:
    jetstream = patient(await operator.connect())
    assert REPORTS.name is not None
    await jetstream.purge_stream(REPORTS.name)
    jobs = [await submit(pair[0]) for _ in range(JOBS)]
    granted = [await lease(pair[0], asking(f"trainer-{turn}", uuid4())) for turn in range(JOBS)]
    await admin.execute("UPDATE scheduler.lease SET expires_at = 'infinity'")  # hearts beat
    settings = {
        "database_url": fresh_database.dsn("scheduler"),
        "nats_url": nats_server.url("scheduler"),
    }
    async with (
        running("scheduler", settings, operator),
        running("scheduler", settings, operator) as victim,
    ):
        await eventually(lambda: askers(operator), lambda asking: asking == 2)
        for grant in granted:
            for sent in (
                started(grant),
                checkpointed(grant, 10),
                checkpointed(grant, 20),
                finished(grant),
            ):
                await publish(operator, sent)
        await eventually(lambda: admin.fetchval(TRAINED_SQL), lambda trained: trained > JOBS / 3)
        victim.kill()  # with a report in its hands
        await victim.wait()
        await eventually(lambda: admin.fetchval(TRAINED_SQL), lambda trained: trained == JOBS)
    for job_id in jobs:
        assert await kinds(pair[0], job_id) == [
            *(JobLeased, JobStarted, JobCheckpointed, JobCheckpointed, JobTrained)
        ]


async def publish(broker: NatsBroker, sent: Report) -> int:
    jetstream = patient(await broker.connect())
    ack = await jetstream.publish(report_subject(sent), msgspec.json.encode(sent))
    return ack.seq


async def kinds(scheduler: handlers.Scheduler, job_id: UUID) -> list[type]:
    """What happened to a job after its submission."""
    async with scheduler.pool.acquire() as connection:
        _, events = await load(connection, job_stream(job_id), decode_job_event)
    return [type(stored.event) for stored in events][1:]


async def askers(broker: NatsBroker) -> int:
    """How many schedulers wait for the next report."""
    assert REPORTS.name is not None
    jetstream = patient(await broker.connect())
    try:
        return (await jetstream.consumer_info(REPORTS.name, reports.REPORTS)).num_waiting or 0
    except NotFoundError:  # a scheduler answers before it has made all its consumers
        return 0
