"""The scheduler's verbs: load a job, decide, append, and bring the queue to the new state."""

from collections.abc import Awaitable, Callable
from datetime import datetime
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
)
from libs.eventlog.append import append_in
from libs.eventlog.connection import Connection, Pool
from libs.eventlog.inbox import enter as enter_inbox
from libs.eventlog.read import load
from libs.eventlog.record import Append, Context, Head, Inbox, VersionConflict, records_after
from libs.jobstate.state import JobState, fold, job_stream, row_of, state_of
from libs.observability.trace import continued, traceparent_within
from services.scheduler import model, queue
from services.scheduler.counting import count
from services.scheduler.idle import Idle, InOrder

TRIES = 10  # conflicts on one job are few and short
LOOK_SECONDS = 0.5  # another replica may have queued a job, or one been woken that it does not fit

Decision = Callable[[JobState], list[JobEvent]]
Condition = Callable[[Connection], Awaitable[bool]]

logger = structlog.get_logger()


async def nothing_unheard(_: UUID) -> bool:
    return False


async def nats_answers() -> bool:
    return True


async def whatever_else(_: Connection) -> bool:
    return True


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
    hears: Callable[[], Awaitable[bool]] = nats_answers
    """Whether NATS is there, and with it the trainers' heartbeats."""


class UnknownJob(Exception):
    """A message names a job that the log does not have."""


async def enqueue_job(scheduler: Scheduler, envelope: Envelope, event: JobSubmitted) -> None:
    """The job waits from now on, if nothing has happened to it yet."""
    async with scheduler.pool.acquire() as connection, connection.transaction():
        await enter_inbox(connection, inbox_of(envelope, JobSubmitted))
        _, state = await load_job(connection, envelope.job_id)
        await queue.project(connection, state)
    scheduler.idle.wake()
    count(state, [event], scheduler.now())


async def cancel_job(scheduler: Scheduler, request: CancelJob) -> Cancelling | AlreadyEnded:
    """Cancel a waiting job at once, ask the trainer of a running one."""
    for _ in range(TRIES):
        try:
            async with scheduler.pool.acquire() as connection, connection.transaction():
                head, before = await load_job(connection, request.job_id)
                events, answer = model.decide_cancel(before)
                state = await append(scheduler, connection, head, before, events)
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


def inbox_of(envelope: Envelope, event_class: type[Event]) -> Inbox:
    consumer = durable_name("scheduler", type_of(event_class))
    return Inbox(consumer=consumer, event_id=envelope.event_id)


async def load_job(connection: Connection, job_id: UUID) -> tuple[Head, JobState]:
    head, events = await load(connection, job_stream(job_id), decode_job_event)
    if not events:
        raise UnknownJob(str(job_id))
    account_id = await connection.fetchval("SELECT account_id FROM log.job WHERE id = $1", job_id)
    return head, state_of(list(events), job_id=job_id, account_id=account_id)


async def change(
    scheduler: Scheduler,
    job_id: UUID,
    decide: Decision,
    inbox: Inbox | None,
    *,
    condition: Condition = whatever_else,
) -> JobState:
    """Load, decide, append, project; again from the start when another writer was faster. Nothing
    is decided unless the ``condition`` holds in the same transaction."""
    for _ in range(TRIES):
        try:
            async with scheduler.pool.acquire() as connection, connection.transaction():
                if inbox is not None:
                    await enter_inbox(connection, inbox)
                head, before = await load_job(connection, job_id)
                with continued(before.traceparent, job_id=str(job_id)):
                    cause = inbox.event_id if inbox else None
                    events = decide(before) if await condition(connection) else []
                    state = await append(scheduler, connection, head, before, events, cause)
        except VersionConflict:
            continue
        scheduler.committed()
        count(before, events, scheduler.now())
        return state
    raise VersionConflict(job_stream(job_id))


async def append(
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
    await queue.hold(connection, state.id)
    await append_in(connection, Append(records=records, job=row_of(after)))
    await queue.project(connection, after)
    return after
