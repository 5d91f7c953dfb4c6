"""What trainers report: each job's in the order in which it was sent, by any number of schedulers.

A report that was handled is gone from its stream. So the first one of its job that is still there
is the one whose turn it is, wherever the others are: in another scheduler's hands, in those of one
that was killed, or waiting to be tried again.
"""

import asyncio
from uuid import UUID

import msgspec
import nats.errors
import nats.js.errors
from faststream.exceptions import FastStreamException
from faststream.nats import NatsBroker
from msgspec import Struct

from libs.bus import streams
from libs.contracts.trainer import AnyReport
from libs.eventlog.record import Inbox
from libs.observability.spans import current_span
from services.scheduler import model
from services.scheduler.handlers import Scheduler, change

REPORTS = "scheduler-reports"  # the consumer, and its name in the inbox
LOOKS = 10  # another scheduler needs milliseconds for a report; it is not worth a redelivery
LOOK_SECONDS = 0.02
WAIT = 3.0
"""Seconds until the report of a scheduler that died is delivered to another. With the tries of
those behind it, well within the lease: who has reported the end of its work does not renew it."""
HEARING = 2.0  # seconds; NATS that takes longer is away
DELAYS = (0.2, 0.5, 1.0, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class OutOfTurn(Exception):
    """An earlier report of the job has not been handled yet."""


class _Named(Struct, frozen=True):
    report_id: UUID
    job_id: UUID


_decode_name = msgspec.json.Decoder(_Named).decode
_decode = msgspec.json.Decoder(AnyReport).decode


async def handle_in_turn(broker: NatsBroker, scheduler: Scheduler, payload: bytes) -> None:
    """Handle a report when its turn has come. Raises OutOfTurn when that takes too long."""
    report = _decode_name(payload)
    async with scheduler.reports.turn(report.job_id):
        for _ in range(LOOKS):
            if await _first(broker, report.job_id) in (report.report_id, None):
                return await handle_report(scheduler, payload)
            await asyncio.sleep(LOOK_SECONDS)
    raise OutOfTurn(f"report {report.report_id} of job {report.job_id} waits for an earlier one")


async def unheard(broker: NatsBroker, job_id: UUID) -> bool:
    """Whether a report of the job waits to be handled."""
    return await _first(broker, job_id) is not None


async def hears(broker: NatsBroker) -> bool:
    """Whether NATS answers now."""
    assert streams.REPORTS.name is not None
    try:
        jetstream = (await broker.connect()).jetstream(timeout=HEARING)
        await jetstream.stream_info(streams.REPORTS.name)
    except (TimeoutError, nats.errors.Error, nats.js.errors.Error, FastStreamException):
        return False
    return True


async def _first(broker: NatsBroker, job_id: UUID) -> UUID | None:
    """None for a dead letter, which is in no stream any more."""
    assert streams.REPORTS.name is not None
    jetstream = (await broker.connect()).jetstream()
    try:
        found = await jetstream.get_msg(
            streams.REPORTS.name, seq=1, subject=streams.reports_of(job_id), next=True
        )
    except nats.js.errors.NotFoundError:
        return None
    return _decode_name(found.data or b"").report_id


async def handle_report(scheduler: Scheduler, payload: bytes) -> None:
    """A trainer's report becomes events, once, unless its lease is no longer the job's."""
    report: AnyReport = _decode(payload)
    current_span().set(report=type(report).__name__.lower(), job_id=str(report.job_id))
    inbox = Inbox(consumer=REPORTS, event_id=report.report_id)
    await change(scheduler, report.job_id, lambda state: model.decide_report(state, report), inbox)
