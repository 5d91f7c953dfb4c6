"""Every JetStream stream and subject, declared once. All of them can be rebuilt from the log."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

import nats.errors
import nats.js.errors
from faststream.exceptions import FastStreamException
from faststream.nats import NatsBroker
from nats.js import JetStreamContext
from nats.js.api import ConsumerInfo, RetentionPolicy, StorageType, StreamConfig

from libs.contracts.base import Event
from libs.contracts.events import type_of
from libs.contracts.trainer import Report

DAY = 24 * 3600.0  # seconds
EVENTS_DAYS = 7  # a subscriber that was away for longer rebuilds from the log

EVENTS = StreamConfig(
    name="EVENTS",
    description="Every event of the log, published by the relay",
    subjects=["events.>"],
    storage=StorageType.FILE,
    retention=RetentionPolicy.LIMITS,
    max_age=EVENTS_DAYS * DAY,
    duplicate_window=600.0,  # a relay that died between publish and delete repeats within seconds
)
REPORTS = StreamConfig(
    name="REPORTS",
    description="What trainers report; the scheduler decides what becomes of it",
    subjects=["reports.>"],
    storage=StorageType.FILE,
    retention=RetentionPolicy.WORK_QUEUE,
    duplicate_window=600.0,
)
TELEMETRY = StreamConfig(
    name="TELEMETRY",
    description="Metrics and log lines of running jobs, on their way into PostgreSQL",
    subjects=["telemetry.>"],
    storage=StorageType.FILE,
    retention=RetentionPolicy.LIMITS,
    max_age=DAY,
    duplicate_window=600.0,
)
STREAMS = (EVENTS, REPORTS, TELEMETRY)

PAGE = 256  # consumers; what NATS lists at once
NUDGE = "nudge.outbox"
"""Core NATS: an append was committed. Only a hint; the relay polls as well."""

DECLARE_PATIENCE = 60.0  # seconds; JetStream needs a moment after the server's start
UNCHANGEABLE = 10052  # JetStream's error code for a stream that can't become what is asked for


class NotChanged(Exception):
    """NATS will not make of what an older release left there what this one declares. The text says
    what differs, and what to do."""


def event_subject(type_: str, job_id: UUID | str) -> str:
    return f"events.{type_}.{job_id}"


def events_of(event_class: type[Event]) -> str:
    """The subjects of one event type, over all jobs."""
    return f"events.{type_of(event_class)}.*"


def report_subject(report: Report) -> str:
    return f"reports.{type(report).__name__.lower()}.{report.job_id}"


def reports_of(job_id: UUID) -> str:
    """The subjects of all reports of one job."""
    return f"reports.*.{job_id}"


def metrics_subject(job_id: UUID) -> str:
    return f"telemetry.metrics.{job_id}"


def logs_subject(job_id: UUID) -> str:
    return f"telemetry.logs.{job_id}"


def live_subject(account_id: UUID) -> str:
    """Core NATS: messages were added to the account's stream. Only a hint; readers poll as well."""
    return f"live.{account_id}"


async def declare_streams(
    jetstream: JetStreamContext, *, replicas: int = 1, update: bool = True
) -> None:
    """Create the streams, each on ``replicas`` servers; and ``update`` those that differ.

    A process updates as it starts, and afterwards only creates: of two releases side by side, the
    older one would otherwise take back what the newer one has changed. Raises NotChanged.
    """
    for config in (stream.evolve(num_replicas=replicas) for stream in STREAMS):
        try:
            await jetstream.add_stream(config)
        except nats.js.errors.BadRequestError:
            if update:
                await _update(jetstream, config)


async def _update(jetstream: JetStreamContext, config: StreamConfig) -> None:
    try:
        await jetstream.update_stream(config)
    except nats.js.errors.APIError as error:
        if error.err_code != UNCHANGEABLE:
            raise  # a cluster without enough servers, say: that passes
        raise NotChanged(
            f"NATS can't change the stream {config.name} to what this release declares:"
            f" {error.description}. Stop the services, `nats stream rm {config.name}`, start them,"
            " and `tuneyard-server streams rebuild`."
        ) from error


async def streams_exist(jetstream: JetStreamContext, names: frozenset[str]) -> None:
    """Wait until somebody has declared the streams. Raises TimeoutError after a minute."""
    async with asyncio.timeout(DECLARE_PATIENCE):
        for name in names:
            while True:
                try:
                    await jetstream.stream_info(name)
                    break
                except (nats.errors.Error, nats.js.errors.APIError):
                    await asyncio.sleep(0.2)


async def consumers_of(jetstream: JetStreamContext, stream: str) -> list[ConsumerInfo]:
    """All of them. Raises nats-py's NotFoundError where there is no such stream."""
    found: list[ConsumerInfo] = []
    while True:
        page = await jetstream.consumers_info(stream, offset=len(found))
        found += page
        if len(page) < PAGE:
            return found


def nudge_relay(broker: NatsBroker) -> Callable[[], None]:
    """What to call after a commit: tells the relay, without waiting and without a promise."""
    pending: set[asyncio.Task[None]] = set()

    async def publish() -> None:
        with suppress(nats.errors.Error, FastStreamException):
            client = await broker.connect()
            await client.publish(NUDGE)

    def nudge() -> None:
        if not pending:  # one on its way is as good as many
            task = asyncio.get_running_loop().create_task(publish())
            pending.add(task)
            task.add_done_callback(pending.discard)

    return nudge
