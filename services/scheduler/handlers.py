"""The scheduler's verbs: load a job, decide, append, and bring the queue to the new state."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from functools import reduce
from uuid import UUID

import msgspec
import structlog
from msgspec import Struct

from libs.bus.consume import durable_name
from libs.contracts.artifact import ArtifactPublished, ArtifactRejected
from libs.contracts.base import Envelope, Event
from libs.contracts.events import JobEvent, decode_job_event, type_of
from libs.contracts.gateway import JobSubmitted
from libs.contracts.scheduler_rpc import (
    AlreadyEnded,
    CancelJob,
    Cancelling,
    Heartbeat,
    HeartbeatAnswer,
    LeaseGranted,
    LeaseRequest,
    NoWork,
)
from libs.eventlog.append import append_in
from libs.eventlog.connection import Connection, Pool
from libs.eventlog.inbox import enter as enter_inbox
from libs.eventlog.read import load
from libs.eventlog.record import Append, Context, Head, Inbox, VersionConflict, records_after
from libs.jobstate.state import JobState, fold, job_stream, row_of, state_of
from libs.observability.spans import current_span, span
from libs.observability.trace import continued, traceparent_within
from services.scheduler import model, queue
from services.scheduler.counting import count
from services.scheduler.fairness import in_turn
from services.scheduler.idle import Idle, InOrder

TRIES = 10  # conflicts on one job are few and short
LOOKS = 3  # at the queue while a trainer waits for the answer; within its 2 s of patience
LOOK_SECONDS = 0.5  # another replica may have queued a job, or one been woken that it does not fit
LATE_SWEEP = timedelta(seconds=5)
"""A sweep this late means that PostgreSQL or every scheduler was away, and heartbeats with it."""

Decision = Callable[[JobState], list[JobEvent]]

logger = structlog.get_logger()


async def nothing_unheard(_: UUID) -> bool:
    return False


class Scheduler(Struct, kw_only=True):
    """What every verb needs."""

    pool: Pool
    now: Callable[[], datetime]
    new_id: Callable[[], UUID]
    committed: Callable[[], None]
    idle: Idle = msgspec.field(default_factory=Idle)
    reports: InOrder = msgspec.field(default_factory=InOrder)
    look_seconds: float = LOOK_SECONDS
    unheard: Callable[[UUID], Awaitable[bool]] = nothing_unheard
    """Whether something that the job's trainer has reported waits to be handled."""


class UnknownJob(Exception):
    """A message names a job that the log does not have."""


async def enqueue_job(scheduler: Scheduler, envelope: Envelope, event: JobSubmitted) -> None:
    """The job waits from now on, if nothing has happened to it yet."""
    async with scheduler.pool.acquire() as connection, connection.transaction():
        await enter_inbox(connection, inbox_of(envelope, JobSubmitted))
        _, state = await _load(connection, envelope.job_id)
        await queue.project(connection, state)
    scheduler.idle.wake()
    count(state, [event], scheduler.now())


async def lease_job(scheduler: Scheduler, request: LeaseRequest) -> LeaseGranted | NoWork:
    """The next job in turn that fits the trainer, under a new fencing epoch; waits for one a while.

    The wait is what makes an idle trainer start at once without asking all the time.
    """
    async with scheduler.pool.acquire() as connection:
        held = await queue.leases_of(connection, request.trainer_id)
        again = await _granted_before(connection, request, held)
    for lease in held:
        if lease.instance_id != request.instance_id:
            await _reclaim(scheduler, lease, "the trainer was restarted")
    if again is not None:
        return again
    for _ in range(LOOKS):
        waiter, granted = scheduler.idle.enter(), None
        try:
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
            async with connection.transaction():
                # A trainer that waited in vain has asked another scheduler by now: it gets one job.
                await queue.alone_with(connection, request.trainer_id)
                held = await queue.leases_of(connection, request.trainer_id)
                if (again := await _granted_before(connection, request, held)) is not None:
                    return again
                if (floor := await queue.claim(connection, candidate.job_id)) is None:
                    continue
                head, before = await _load(connection, candidate.job_id)
                with continued(before.traceparent, job_id=str(before.id)), span("grant lease"):
                    events = model.decide_lease(before, request.trainer_id, floor=floor)
                    state = await _append(scheduler, connection, head, before, events)
                    if not events:
                        await queue.project(connection, state)  # the row was behind the log
                        continue
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
            with continued(state.traceparent, job_id=str(state.id)):
                logger.info("job leased", epoch=state.epoch, trainer_id=request.trainer_id)
            return _grant(state)
    return None


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


async def cancel_job(scheduler: Scheduler, request: CancelJob) -> Cancelling | AlreadyEnded:
    """Cancel a waiting job at once, ask the trainer of a running one."""
    for _ in range(TRIES):
        try:
            async with scheduler.pool.acquire() as connection, connection.transaction():
                head, before = await _load(connection, request.job_id)
                events, answer = model.decide_cancel(before)
                state = await _append(scheduler, connection, head, before, events)
                if state.leased and state.cancel_requested:
                    await queue.ask_to_cancel(connection, state.id)
        except VersionConflict:
            continue
        scheduler.committed()
        count(before, events, scheduler.now())
        return answer
    raise VersionConflict(job_stream(request.job_id))


async def complete_job(scheduler: Scheduler, envelope: Envelope, event: ArtifactPublished) -> None:
    await change(
        scheduler,
        envelope.job_id,
        lambda state: model.decide_published(state, event),
        inbox_of(envelope, ArtifactPublished),
    )


async def reject_job(scheduler: Scheduler, envelope: Envelope, event: ArtifactRejected) -> None:
    await change(
        scheduler,
        envelope.job_id,
        lambda state: model.decide_rejected(state, event),
        inbox_of(envelope, ArtifactRejected),
    )


async def reclaim_lapsed(scheduler: Scheduler) -> None:
    """Queue again what lost its trainer; after an outage of our own, first give everyone time."""
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
            await _reclaim(scheduler, lease, "the trainer stopped answering")


async def _granted_before(
    connection: Connection, request: LeaseRequest, held: Sequence[queue.Held]
) -> LeaseGranted | None:
    """A lease of this very process that it does not know of: the answer was lost on its way."""
    for lease in held:
        known = (lease.job_id, lease.epoch) == (request.last_job_id, request.last_epoch)
        if known or lease.instance_id != request.instance_id:
            continue
        _, state = await _load(connection, lease.job_id)
        if state.leased and state.epoch == lease.epoch:
            return _grant(state)
    return None


async def _reclaim(scheduler: Scheduler, lease: queue.Lease, reason: str) -> None:
    logger.warning("lease reclaimed", job_id=str(lease.job_id), epoch=lease.epoch, reason=reason)
    await change(
        scheduler,
        lease.job_id,
        lambda state: model.decide_reclaim(state, lease.epoch, reason),
        None,
    )


def inbox_of(envelope: Envelope, event_class: type[Event]) -> Inbox:
    consumer = durable_name("scheduler", type_of(event_class))
    return Inbox(consumer=consumer, event_id=envelope.event_id)


async def _load(connection: Connection, job_id: UUID) -> tuple[Head, JobState]:
    head, events = await load(connection, job_stream(job_id), decode_job_event)
    if not events:
        raise UnknownJob(str(job_id))
    account_id = await connection.fetchval("SELECT account_id FROM log.job WHERE id = $1", job_id)
    return head, state_of(list(events), job_id=job_id, account_id=account_id)


async def change(
    scheduler: Scheduler, job_id: UUID, decide: Decision, inbox: Inbox | None
) -> JobState:
    """Load, decide, append, project; again from the start when another writer was faster."""
    for _ in range(TRIES):
        try:
            async with scheduler.pool.acquire() as connection, connection.transaction():
                if inbox is not None:
                    await enter_inbox(connection, inbox)
                head, before = await _load(connection, job_id)
                with continued(before.traceparent, job_id=str(job_id)):
                    cause = inbox.event_id if inbox else None
                    events = decide(before)
                    state = await _append(scheduler, connection, head, before, events, cause)
        except VersionConflict:
            continue
        scheduler.committed()
        count(before, events, scheduler.now())
        return state
    raise VersionConflict(job_stream(job_id))


async def _append(
    scheduler: Scheduler,
    connection: Connection,
    head: Head,
    state: JobState,
    events: list[JobEvent],
    cause: UUID | None = None,
) -> JobState:
    """Append ``events`` with the job's row and its place in the queue; the state after them.

    Without an event nothing is written: another scheduler may have brought the queue to a later
    state than this one, and only an append finds that out.
    """
    if not events:
        return state
    now = scheduler.now()
    after = reduce(lambda s, event: fold(s, event, now), events, state)
    trace, new_id = traceparent_within(state.traceparent), scheduler.new_id
    context = Context(now=now, new_id=new_id, causation_id=cause, traceparent=trace)
    records = records_after(head, events, context, job_id=state.id, account_id=state.account_id)
    await append_in(connection, Append(records=records, job=row_of(after)))
    await queue.project(connection, after)
    return after


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
