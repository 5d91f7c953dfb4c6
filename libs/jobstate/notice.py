"""What a job's owner is told of: the changes of its status, each with the job as it was then.

Webhooks deliver these, and the live stream shows them, byte for byte the same.
"""

from datetime import datetime
from typing import Literal

from msgspec import Struct

from libs.contracts.base import Envelope, Event
from libs.contracts.events import decode_job_event
from libs.contracts.gateway import JobSubmitted
from libs.contracts.scheduler import JobCancelled, JobCompleted, JobFailed, JobStarted
from libs.eventlog.connection import Connection
from libs.eventlog.read import Stored, decode_meta
from libs.jobstate.state import state_of
from libs.jobstate.view import JobView, job_view

NoticeType = Literal["job.queued", "job.running", "job.completed", "job.failed", "job.cancelled"]

NOTICE_TYPES: dict[type[Event], NoticeType] = {
    JobSubmitted: "job.queued",
    JobStarted: "job.running",
    JobCompleted: "job.completed",
    JobFailed: "job.failed",
    JobCancelled: "job.cancelled",
}
"""The events of the log that are told, and their public names (contract, section 12)."""

UNTIL_SQL = "SELECT data, meta FROM log.event WHERE stream = $1 AND version <= $2 ORDER BY version"


class Notice(Struct, frozen=True, kw_only=True):
    """The payload of Standard Webhooks: ``timestamp`` is when it happened (UTC), ``data`` the job
    right after it. The event's id travels beside it, as ``webhook-id``."""

    type: NoticeType
    timestamp: datetime
    data: JobView


class NotInTheLog(Exception):
    """An event that NATS carries and the log does not have: a database restored to before it."""


async def notice_of(connection: Connection, envelope: Envelope, kind: NoticeType) -> Notice:
    """The job as it was after this event, whatever has happened since. Raises NotInTheLog."""
    rows = await connection.fetch(UNTIL_SQL, envelope.stream, envelope.version)
    if len(rows) < envelope.version:
        raise NotInTheLog(f"{envelope.stream} version {envelope.version}")
    events = [
        Stored(event=decode_job_event(row["data"]), meta=decode_meta(row["meta"])) for row in rows
    ]
    state = state_of(events, job_id=envelope.job_id, account_id=envelope.account_id)
    return Notice(type=kind, timestamp=envelope.occurred_at, data=job_view(state))
