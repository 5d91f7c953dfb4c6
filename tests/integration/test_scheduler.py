"""The scheduler on a real PostgreSQL: leases, fencing, reclaim, cancellation, fair turns."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import msgspec
import pytest
from msgspec.structs import replace

from libs.contracts.artifact import ArtifactPublished
from libs.contracts.events import decode_job_event
from libs.contracts.scheduler import Checkpoint
from libs.contracts.scheduler_rpc import (
    AlreadyEnded,
    CancelJob,
    Cancelling,
    Heartbeat,
    LeaseGranted,
    LeaseRequest,
    NoWork,
)
from libs.contracts.trainer import Checkpointed, Failed, Finished, Report, Started, Stopped
from libs.eventlog.append import append_in
from libs.eventlog.connection import Pool, create_pool
from libs.eventlog.read import load
from libs.eventlog.record import AlreadyHandled
from libs.jobstate.state import JobState, decode_state, job_stream, state_of
from services.scheduler import handlers, leasing, model
from services.scheduler.reports import handle_report
from tests.support.jobs import NOON, Clock, envelope, finished_result, first_append, submission
from tests.support.stack import Database
from tests.support.waiting import eventually


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def scheduler(fresh_database: Database, clock: Clock) -> AsyncIterator[handlers.Scheduler]:
    async with create_pool(fresh_database.dsn("scheduler"), size=8) as pool:
        yield scheduler_at(clock, pool)


def scheduler_at(clock: Clock, pool: Pool) -> handlers.Scheduler:
    """One that keeps no trainer waiting for work."""
    return handlers.Scheduler(
        pool=pool,
        now=lambda: clock.now,
        new_id=uuid4,
        committed=lambda: None,
        look_seconds=0.0,
    )


async def submit(
    scheduler: handlers.Scheduler,
    *,
    account: UUID | None = None,
    at: datetime = NOON,
    **fields: object,
) -> UUID:
    """A job in the log and in the queue."""
    job_id, account_id, event = uuid4(), account or uuid4(), submission(**fields)
    async with scheduler.pool.acquire() as connection:
        await append_in(connection, first_append(job_id, account_id, event, at)[0])
    await handlers.enqueue_job(scheduler, envelope(job_id, account_id, event), event)
    return job_id


INSTANCE = uuid4()


def asking(trainer: str = "trainer-0", instance: UUID = INSTANCE) -> LeaseRequest:
    return LeaseRequest(trainer_id=trainer, instance_id=instance, memory_bytes=2**34)


async def lease(scheduler: handlers.Scheduler, request: LeaseRequest | None = None) -> LeaseGranted:
    answer = await leasing.lease_job(scheduler, request or asking())
    assert isinstance(answer, LeaseGranted)
    return answer


async def report(scheduler: handlers.Scheduler, sent: Report) -> None:
    await handle_report(scheduler, msgspec.json.encode(sent))


async def state(scheduler: handlers.Scheduler, job_id: UUID) -> JobState:
    """The read model's state, checked to be what the events fold to."""
    async with scheduler.pool.acquire() as connection:
        row = await connection.fetchrow("SELECT * FROM log.job WHERE id = $1", job_id)
        assert row is not None
        _, events = await load(connection, job_stream(job_id), decode_job_event)
    shown = decode_state(row["state"])
    assert shown == state_of(list(events), job_id=job_id, account_id=row["account_id"])
    assert shown.status == row["status"]
    return shown


def started(grant: LeaseGranted) -> Started:
    return Started(
        report_id=uuid4(),
        job_id=grant.job_id,
        epoch=grant.epoch,
        trainer_id="trainer-0",
        device="cpu",
        steps_total=100,
        resumed_from_step=0,
    )


def checkpointed(grant: LeaseGranted, step: int) -> Checkpointed:
    return Checkpointed(
        report_id=uuid4(),
        job_id=grant.job_id,
        epoch=grant.epoch,
        trainer_id="trainer-0",
        checkpoint=Checkpoint(
            step=step, key=f"k/{step}", sha256="a" * 64, size_bytes=1, tokens_processed=step * 1_024
        ),
    )


def finished(grant: LeaseGranted) -> Finished:
    return Finished(
        report_id=uuid4(),
        job_id=grant.job_id,
        epoch=grant.epoch,
        trainer_id="trainer-0",
        result=finished_result(),
        files=(),
    )


def beat(grant: LeaseGranted) -> Heartbeat:
    return Heartbeat(
        trainer_id="trainer-0",
        job_id=grant.job_id,
        epoch=grant.epoch,
        step=1,
        tokens_processed=1,
    )


async def publish(scheduler: handlers.Scheduler, job_id: UUID) -> None:
    event = ArtifactPublished(files=(), expires_at=NOON + timedelta(days=7))
    await handlers.complete_job(scheduler, envelope(job_id, uuid4(), event), event)


async def test_a_job_runs_from_lease_to_completion(scheduler: handlers.Scheduler) -> None:
    job_id = await submit(scheduler)
    grant = await lease(scheduler)
    assert (grant.job_id, grant.epoch) == (job_id, 1)
    await report(scheduler, started(grant))
    assert (await state(scheduler, job_id)).status == "running"
    await report(scheduler, finished(grant))
    assert (await state(scheduler, job_id)).status == "running"
    await publish(scheduler, job_id)
    done = await state(scheduler, job_id)
    assert (done.status, done.charge_cents) == ("completed", 700)
    assert isinstance(await leasing.lease_job(scheduler, asking()), NoWork)


async def test_a_job_is_leased_to_one_trainer_only(scheduler: handlers.Scheduler) -> None:
    await submit(scheduler)
    await lease(scheduler)
    assert isinstance(await leasing.lease_job(scheduler, asking("trainer-1", uuid4())), NoWork)


async def test_a_lapsed_lease_is_reclaimed_and_resumes_from_the_checkpoint(
    scheduler: handlers.Scheduler, clock: Clock
) -> None:
    job_id = await submit(scheduler)
    grant = await lease(scheduler)
    await report(scheduler, started(grant))
    await report(scheduler, checkpointed(grant, 50))
    await leasing.reclaim_lapsed(scheduler)

    for _ in range(11):  # a sweep a second, as in life: no outage of our own
        clock.now += timedelta(seconds=1)
        await leasing.reclaim_lapsed(scheduler)

    queued = await state(scheduler, job_id)
    assert (queued.status, queued.retries) == ("queued", 1)
    again = await lease(scheduler, asking("trainer-1", uuid4()))
    assert again.epoch == 2
    assert again.checkpoint is not None
    assert again.checkpoint.step == 50


async def test_heartbeats_keep_a_lease(scheduler: handlers.Scheduler, clock: Clock) -> None:
    await submit(scheduler)
    grant = await lease(scheduler)
    for _ in range(30):
        clock.now += timedelta(seconds=1)
        assert (await leasing.renew_lease(scheduler, beat(grant))).verdict == "continue"
        await leasing.reclaim_lapsed(scheduler)


async def test_after_an_outage_of_the_scheduler_trainers_get_their_time_again(
    scheduler: handlers.Scheduler, clock: Clock
) -> None:
    await submit(scheduler)
    grant = await lease(scheduler)
    await leasing.reclaim_lapsed(scheduler)
    clock.now += timedelta(minutes=3)
    await leasing.reclaim_lapsed(scheduler)
    assert (await leasing.renew_lease(scheduler, beat(grant))).verdict == "continue"


async def test_a_restarted_trainer_gets_its_job_back_at_once(scheduler: handlers.Scheduler) -> None:
    job_id = await submit(scheduler)
    await lease(scheduler)
    again = await lease(scheduler, asking(instance=uuid4()))
    assert (again.job_id, again.epoch) == (job_id, 2)
    assert (await state(scheduler, job_id)).retries == 1


async def test_a_grant_whose_answer_was_lost_is_given_again(
    scheduler: handlers.Scheduler,
) -> None:
    await submit(scheduler)
    await submit(scheduler)
    first = await lease(scheduler)
    assert await lease(scheduler) == first


async def test_a_trainer_whose_last_report_is_unread_gets_the_next_job(
    scheduler: handlers.Scheduler,
) -> None:
    await submit(scheduler)
    await submit(scheduler)
    first = await lease(scheduler)
    done = replace(asking(), last_job_id=first.job_id, last_epoch=first.epoch)
    assert (await lease(scheduler, done)).job_id != first.job_id


async def test_a_lost_attempt_changes_nothing(scheduler: handlers.Scheduler) -> None:
    job_id = await submit(scheduler)
    old = await lease(scheduler)
    await lease(scheduler, asking(instance=uuid4()))
    before = await state(scheduler, job_id)
    for sent in (started(old), checkpointed(old, 10), finished(old)):
        await report(scheduler, sent)
    assert await state(scheduler, job_id) == before
    assert (await leasing.renew_lease(scheduler, beat(old))).verdict == "lost"


async def test_a_repeated_report_changes_nothing(scheduler: handlers.Scheduler) -> None:
    job_id = await submit(scheduler)
    grant = await lease(scheduler)
    sent = checkpointed(grant, 10)
    await report(scheduler, sent)
    version = (await state(scheduler, job_id)).version
    with pytest.raises(AlreadyHandled):
        await report(scheduler, sent)
    assert (await state(scheduler, job_id)).version == version


async def test_a_waiting_job_is_cancelled_at_once_and_costs_nothing(
    scheduler: handlers.Scheduler,
) -> None:
    job_id = await submit(scheduler)
    answer = await handlers.cancel_job(scheduler, CancelJob(job_id=job_id))
    assert answer == Cancelling(status="cancelled")
    cancelled = await state(scheduler, job_id)
    assert (cancelled.status, cancelled.charge_cents) == ("cancelled", 0)
    again = await handlers.cancel_job(scheduler, CancelJob(job_id=job_id))
    assert again == AlreadyEnded(status="cancelled")
    assert isinstance(await leasing.lease_job(scheduler, asking()), NoWork)


async def test_a_running_job_is_cancelled_through_its_heartbeat_and_costs_its_share(
    scheduler: handlers.Scheduler,
) -> None:
    job_id = await submit(scheduler)
    grant = await lease(scheduler)
    await report(scheduler, started(grant))
    await handlers.cancel_job(scheduler, CancelJob(job_id=job_id))
    assert (await leasing.renew_lease(scheduler, beat(grant))).verdict == "cancel"
    await report(
        scheduler,
        Stopped(
            report_id=uuid4(),
            job_id=job_id,
            epoch=1,
            trainer_id="trainer-0",
            tokens_processed=51_200,
        ),
    )
    cancelled = await state(scheduler, job_id)
    assert (cancelled.status, cancelled.charge_cents) == ("cancelled", 350)


async def test_a_job_that_loses_its_trainer_too_often_fails_with_the_reason(
    scheduler: handlers.Scheduler,
) -> None:
    job_id = await submit(scheduler)
    for _ in range(model.MAX_RETRIES + 1):
        await lease(scheduler, asking(instance=uuid4()))
    assert isinstance(await leasing.lease_job(scheduler, asking(instance=uuid4())), NoWork)
    failed = await state(scheduler, job_id)
    assert (failed.status, failed.failure_code) == ("failed", "retries_exhausted")
    assert failed.failure_message is not None
    assert "submit it again" in failed.failure_message


async def test_a_failure_that_will_not_go_away_ends_the_job(scheduler: handlers.Scheduler) -> None:
    job_id = await submit(scheduler)
    grant = await lease(scheduler)
    await report(
        scheduler,
        Failed(
            report_id=uuid4(),
            job_id=job_id,
            epoch=grant.epoch,
            trainer_id="trainer-0",
            code="invalid_dataset",
            message="line 3 has no label token",
            retryable=False,
        ),
    )
    assert (await state(scheduler, job_id)).failure_code == "invalid_dataset"


async def test_priority_first_then_accounts_take_turns(
    scheduler: handlers.Scheduler, clock: Clock
) -> None:
    busy, quiet = uuid4(), uuid4()
    first = [
        await submit(scheduler, account=busy, at=NOON - timedelta(seconds=9 - n)) for n in range(3)
    ]
    other = await submit(scheduler, account=quiet)
    urgent = await submit(scheduler, account=busy, priority=True)
    order = []
    for n in range(5):
        clock.now += timedelta(seconds=1)
        order.append((await lease(scheduler, asking(f"trainer-{n}", uuid4()))).job_id)
    assert order == [urgent, other, *first]


async def test_no_job_waits_for_ever_behind_priority(
    scheduler: handlers.Scheduler, clock: Clock
) -> None:
    old = await submit(scheduler, at=NOON - timedelta(minutes=31))
    await submit(scheduler, priority=True)
    assert (await lease(scheduler)).job_id == old


async def test_a_model_that_does_not_fit_waits_for_a_larger_trainer(
    scheduler: handlers.Scheduler,
) -> None:
    await submit(scheduler)
    small = LeaseRequest(trainer_id="small", instance_id=uuid4(), memory_bytes=2**20)
    assert isinstance(await leasing.lease_job(scheduler, small), NoWork)
    assert isinstance(await leasing.lease_job(scheduler, asking()), LeaseGranted)


async def test_a_waiting_trainer_hears_of_a_job_when_it_is_queued(
    scheduler: handlers.Scheduler,
) -> None:
    scheduler.look_seconds = 3_600.0  # nobody would look again while the test runs
    asked = asyncio.create_task(leasing.lease_job(scheduler, asking()))
    await asyncio.sleep(0.1)
    job_id = await submit(scheduler)
    async with asyncio.timeout(30):
        granted = await asked
    assert isinstance(granted, LeaseGranted)
    assert granted.job_id == job_id


async def test_trainers_beyond_those_that_can_wait_are_answered_at_once(
    scheduler: handlers.Scheduler,
) -> None:
    """Questions that are held take the place of those that others ask."""
    scheduler.look_seconds = 60.0
    waiting = [
        asyncio.create_task(leasing.lease_job(scheduler, asking(f"waits-{n}", uuid4())))
        for n in range(leasing.MOST_WAITING)
    ]
    await eventually(idle(scheduler), lambda count: count == leasing.MOST_WAITING)
    answer = await leasing.lease_job(scheduler, asking("beyond", uuid4()))
    assert answer == NoWork(retry_after_seconds=leasing.CROWDED_SECONDS)
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert scheduler.idle.waiting == 0


def idle(scheduler: handlers.Scheduler) -> Callable[[], Awaitable[int]]:
    async def count() -> int:
        return scheduler.idle.waiting

    return count


async def test_a_job_that_is_cancelled_while_it_is_leased_ends_one_way_or_the_other(
    scheduler: handlers.Scheduler,
) -> None:
    for n in range(20):
        job_id = await submit(scheduler)
        answer, _ = await asyncio.gather(
            leasing.lease_job(scheduler, asking(f"trainer-{n}", uuid4())),
            handlers.cancel_job(scheduler, CancelJob(job_id=job_id)),
        )
        after = await state(scheduler, job_id)
        leased = isinstance(answer, LeaseGranted)
        assert (after.status == "cancelled") is not leased
        assert after.leased is leased
