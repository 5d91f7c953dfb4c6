"""Jobs as tests need them: a submission with every field, and appends of it."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import msgspec
from msgspec import Struct

from libs.contracts.base import DatasetRef, Envelope, Event, ModelRef, ModelSource
from libs.contracts.events import type_of
from libs.contracts.gateway import JobSubmitted
from libs.contracts.results import RunResult
from libs.contracts.scheduler import JobCompleted
from libs.contracts.training import FinetuneParams
from libs.eventlog.append import append_in
from libs.eventlog.connection import Connection
from libs.eventlog.record import Append, Context, Head, JobRow, records_after
from libs.jobstate.state import JobState, fold, job_stream, row_of, submitted

NOON = datetime(2026, 3, 19, 12, 0, tzinfo=UTC)


class Clock(Struct):
    """Time that a test moves."""

    now: datetime = NOON


def context(now: datetime = NOON) -> Context:
    return Context(now=now, new_id=uuid4)


def submission(**changes: object) -> JobSubmitted:
    """A fine-tune of 700 cents on the development model."""
    fields: dict[str, object] = {
        "job_type": "finetune",
        "surface": "runs",
        "model": ModelRef(
            id=UUID(int=1),
            slug="tiny-llama",
            params=3_000_000,
            source=ModelSource(kind="local", location="tiny-llama"),
        ),
        "dataset": DatasetRef(
            id=UUID(int=2),
            key="datasets/2",
            sha256="0" * 64,
            size_bytes=1_000_000,
            rows=1_000,
            tokens=250_000,
            kind="messages",
        ),
        "params": FinetuneParams(steps=100, learning_rate=1e-3, seq_len=128, batch_size=8),
        "output_name": None,
        "label": "My first run",
        "priority": False,
        "price_cents": 700,
        "currency": "USD",
        "plan_name": "Launch M",
        "balance_after_cents": 9_300,
        "tokens_planned": 102_400,
        "request_sha256": "1" * 64,
        "output_model_id": UUID(int=3),
    }
    return JobSubmitted(**(fields | changes))  # type: ignore[arg-type]


def first_append(
    job_id: UUID, account_id: UUID, event: JobSubmitted, at: datetime = NOON
) -> tuple[Append, JobState]:
    """The append that creates a job, and the state it leads to."""
    state = submitted(event, job_id=job_id, account_id=account_id, at=at, traceparent=None)
    records = records_after(
        Head(stream=job_stream(job_id)),
        [event],
        context(at),
        job_id=job_id,
        account_id=account_id,
    )
    return Append(records=records, job=row_of(state)), state


def next_append(head: Head, state: JobState, *events: Event, job: JobRow | None = None) -> Append:
    """Further events of a job; with ``job``, its read-model row after them."""
    return Append(
        job=job,
        records=records_after(
            head, events, context(), job_id=state.id, account_id=state.account_id
        ),
    )


async def complete(
    connection: Connection, account_id: UUID, *, at: datetime = NOON, keep: timedelta | None = None
) -> JobState:
    """Put a job into the log that was submitted and completed at ``at``; ``keep`` is how long its
    files are kept, a week by default."""
    event, job_id = submission(), uuid4()
    done = JobCompleted(
        tokens_processed=102_400,
        artifacts_expires_at=at + (timedelta(days=7) if keep is None else keep),
    )
    first, state = first_append(job_id, account_id, event, at)
    await append_in(connection, first)
    head = Head(stream=job_stream(job_id), version=1, hash=first.records[0].hash)
    state = fold(state, done, at)
    records = records_after(head, [done], context(at), job_id=job_id, account_id=account_id)
    await append_in(connection, Append(records=records, job=row_of(state)))
    return state


def envelope(job_id: UUID, account_id: UUID, event: Event) -> Envelope:
    """An event as the relay would deliver it, with an id of its own."""
    return Envelope(
        event_id=uuid4(),
        position=1,
        stream=job_stream(job_id),
        version=1,
        type=type_of(type(event)),
        job_id=job_id,
        account_id=account_id,
        occurred_at=NOON,
        causation_id=None,
        traceparent=None,
        data=msgspec.Raw(msgspec.json.encode(event)),
    )


def finished_result() -> RunResult:
    """A result such as a short fine-tune reports."""
    return RunResult(
        ppl_baseline=40.0,
        ppl_final=10.0,
        ppl_delta_pct=-75.0,
        loss_final=2.3026,
        params_before=3_000_000,
        params_after=3_100_000,
        params_delta=100_000,
        function_preservation=0.0,
        gpu_seconds=12.5,
        tokens_processed=102_400,
        split="validation",
        steps=100,
        train_loss_final=2.2,
        rows_truncated=0,
        tokens_truncated=0,
        device="cpu",
    )
