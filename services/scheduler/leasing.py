"""Leases: given to trainers that ask, prolonged while their hearts beat, taken back when not."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import structlog

from libs.bus.rpc import TRY_TIMEOUT
from libs.contracts.scheduler_rpc import (
    Heartbeat,
    HeartbeatAnswer,
    LeaseGranted,
    LeaseRequest,
    NoWork,
)
from libs.eventlog.connection import Connection
from libs.eventlog.record import VersionConflict
from libs.jobstate.state import JobState
from libs.observability.spans import current_span, span
from libs.observability.trace import continued
from services.scheduler import model, queue
from services.scheduler.counting import count
from services.scheduler.fairness import in_turn
from services.scheduler.handlers import (
    Condition,
    Scheduler,
    append,
    change,
    load_job,
    whatever_else,
)

LOOKS = 3  # at the queue while a trainer waits for the answer; within its patience
PATIENCE = timedelta(seconds=TRY_TIMEOUT)
"""What was frozen for longer gives nothing: the trainer has asked another scheduler, or is gone."""
MOST_WAITING = 32  # trainers that wait here; half of the questions that are answered at once
CROWDED_SECONDS = 1.0  # until those beyond ask again
LATE_SWEEP = timedelta(seconds=5)
"""A sweep this late means that PostgreSQL or every scheduler was away, and heartbeats with it."""

logger = structlog.get_logger()


async def lease_job(scheduler: Scheduler, request: LeaseRequest) -> LeaseGranted | NoWork:
    """The next job in turn that fits the trainer, under a new fencing epoch; waits for one a while.

    The wait is what makes an idle trainer start at once without asking all the time.
    """
    asked_at = scheduler.now()
    async with scheduler.pool.acquire() as connection:
        held = await queue.leases_of(connection, request.trainer_id)
        again = await _granted_before(connection, request, held)
    for lease in held:
        if lease.instance_id != request.instance_id and not await scheduler.unheard(lease.job_id):
            await reclaim(scheduler, lease, "the trainer was restarted")
    if again is not None:
        return again
    if scheduler.idle.waiting >= MOST_WAITING:
        found = await _lease_next(scheduler, request)
        return found or NoWork(retry_after_seconds=CROWDED_SECONDS)
    for _ in range(LOOKS):
        waiter, granted = scheduler.idle.enter(), None
        try:
            if scheduler.now() - asked_at > PATIENCE:
                break
            if (granted := await _lease_next(scheduler, request)) is not None:
                return granted
            await scheduler.idle.woken(waiter, scheduler.look_seconds)
        finally:
            scheduler.idle.leave(waiter, has_work=granted is not None)
    return NoWork(retry_after_seconds=0.0)


async def _lease_next(scheduler: Scheduler, request: LeaseRequest) -> LeaseGranted | None:
    now = scheduler.now()
    async with scheduler.pool.acquire() as connection:
        waiting = await queue.candidates(connection, memory_bytes=request.memory_bytes, now=now)
        for candidate in in_turn(waiting, now=now, memory_bytes=request.memory_bytes):
            try:
                granted = await _lease_one(scheduler, connection, request, candidate.job_id)
            except VersionConflict:
                continue  # it was cancelled just now
            if granted is not None:
                return granted
    return None


async def _lease_one(
    scheduler: Scheduler, connection: Connection, request: LeaseRequest, job_id: UUID
) -> LeaseGranted | None:
    async with connection.transaction():
        # A trainer that waited in vain has asked another scheduler by now: it gets one job.
        await queue.alone_with(connection, request.trainer_id)
        held = await queue.leases_of(connection, request.trainer_id)
        if (again := await _granted_before(connection, request, held)) is not None:
            return again
        if (floor := await queue.claim(connection, job_id)) is None:
            return None
        head, before = await load_job(connection, job_id)
        with continued(before.traceparent, job_id=str(job_id)), span("grant lease"):
            events = model.decide_lease(before, request.trainer_id, floor=floor)
            state = await append(scheduler, connection, head, before, events)
            if not events:
                await queue.project(connection, state)  # the row was behind the log
                return None
            now = scheduler.now()
            await queue.record_lease(
                connection,
                state,
                instance_id=request.instance_id,
                now=now,
                until=model.lease_until(now),
            )
            current_span().set(epoch=state.epoch, trainer_id=request.trainer_id)
    scheduler.committed()
    count(before, events, now)
    with continued(state.traceparent, job_id=str(job_id)):
        logger.info("job leased", epoch=state.epoch, trainer_id=request.trainer_id)
    return _grant(state)


async def renew_lease(scheduler: Scheduler, beat: Heartbeat) -> HeartbeatAnswer:
    """Prolong the lease; tells the trainer to go on, to cancel, or that it has lost the job."""
    async with scheduler.pool.acquire() as connection:
        cancel = await queue.renew_lease(
            connection,
            job_id=beat.job_id,
            epoch=beat.epoch,
            trainer_id=beat.trainer_id,
            until=model.lease_until(scheduler.now()),
        )
    if cancel is None:
        return HeartbeatAnswer(verdict="lost")
    return HeartbeatAnswer(verdict="cancel" if cancel else "continue")


async def reclaim_lapsed(scheduler: Scheduler) -> None:
    """Queue again what lost its trainer; after an outage of our own, first give everyone time.

    While NATS is away no heart can be heard: that is an outage too, and such a round is none.
    """
    if not await scheduler.hears():
        return
    now = scheduler.now()
    async with scheduler.pool.acquire() as connection, connection.transaction():
        swept_at = await queue.begin_sweep(connection, now)
        if swept_at is None or now - swept_at > LATE_SWEEP:
            await queue.prolong_all(connection, model.lease_until(now))
        lapsed = await queue.lapsed_leases(connection, now)
    for lease in lapsed:
        if await scheduler.unheard(lease.job_id):
            # It is we who are late. A trainer that has reported its end renews nothing any more.
            async with scheduler.pool.acquire() as connection:
                await queue.prolong(connection, lease, model.lease_until(now))
        else:
            await reclaim_if_lapsed(scheduler, lease)


async def _granted_before(
    connection: Connection, request: LeaseRequest, held: Sequence[queue.Held]
) -> LeaseGranted | None:
    """A lease of this very process that it does not know of: the answer was lost on its way.

    A trainer is given a lease only when it knows of all before, so it knows of all but the newest.
    One that is some short jobs ahead of us holds several: we have yet to handle its reports.
    """
    for lease in held:
        known = (lease.job_id, lease.epoch) == (request.last_job_id, request.last_epoch)
        if known or not lease.newest or lease.instance_id != request.instance_id:
            continue
        _, state = await load_job(connection, lease.job_id)
        if state.leased and state.epoch == lease.epoch:
            return _grant(state)
    return None


async def reclaim_if_lapsed(scheduler: Scheduler, lease: queue.Lease) -> None:
    """Another scheduler may have heard of the trainer since: this one may have been frozen."""

    async def still(connection: Connection) -> bool:
        return await queue.has_lapsed(connection, lease, scheduler.now())

    await reclaim(scheduler, lease, "the trainer stopped answering", condition=still)


async def reclaim(
    scheduler: Scheduler,
    lease: queue.Lease,
    reason: str,
    *,
    condition: Condition = whatever_else,
) -> None:
    logger.warning("lease reclaimed", job_id=str(lease.job_id), epoch=lease.epoch, reason=reason)
    await change(
        scheduler,
        lease.job_id,
        lambda state: model.decide_reclaim(state, lease.epoch, reason),
        None,
        condition=condition,
    )


def _grant(state: JobState) -> LeaseGranted:
    return LeaseGranted(
        job_id=state.id,
        account_id=state.account_id,
        epoch=state.epoch,
        lease_seconds=model.LEASE.total_seconds(),
        job_type=state.type,
        model=state.model,
        dataset=state.dataset,
        params=state.params,
        train_params=state.train_params,
        contract_params=state.contract_params,
        validation=state.validation,
        start_from=state.start_from,
        checkpoint=state.checkpoint,
        traceparent=state.traceparent,
    )
