"""Dead letters as tests need them: a leased job, its trainer's report, the operator's command."""

import asyncio
import subprocess
import sys
from uuid import UUID, uuid4

import msgspec
from msgspec import Struct

from libs.bus.streams import report_subject
from libs.contracts.scheduler import JobLeased
from libs.contracts.trainer import Started
from libs.eventlog.append import append_in
from libs.eventlog.connection import Connection, connect
from libs.eventlog.record import Head
from libs.jobstate.state import fold, job_stream, row_of
from tests.support.jobs import NOON, first_append, next_append, submission
from tests.support.stack import Database

COMMAND_SECONDS = 240.0
REPORTS = "scheduler-reports"


class Leased(Struct, frozen=True, kw_only=True):
    """A job that a trainer holds, and its report that the training began."""

    job_id: UUID
    subject: str
    payload: bytes


async def leased(connection: Connection) -> Leased:
    job_id, account_id = uuid4(), uuid4()
    first, state = first_append(job_id, account_id, submission())
    await append_in(connection, first)
    lease = JobLeased(epoch=1, trainer_id="t")
    head = Head(stream=job_stream(job_id), version=1, hash=first.records[0].hash)
    row = row_of(fold(state, lease, NOON))
    await append_in(connection, next_append(head, state, lease, job=row))
    report = Started(
        report_id=uuid4(),
        job_id=job_id,
        epoch=1,
        trainer_id="t",
        device="cpu",
        steps_total=9,
        resumed_from_step=0,
    )
    return Leased(
        job_id=job_id, subject=report_subject(report), payload=msgspec.json.encode(report)
    )


async def bury_report(database: Database, job: Leased) -> int:
    """As the scheduler would have after its last try; the letter's number."""
    connection = await connect(database.admin_dsn)
    letter: int = await connection.fetchval(
        "INSERT INTO log.dead_letter (consumer, subject, payload, error, tries)"
        " VALUES ($1, $2, $3, 'OSError()', 30) RETURNING id",
        REPORTS,
        job.subject,
        job.payload,
    )
    await connection.close()
    return letter


async def starts_of(connection: Connection, job: Leased) -> int:
    """How often the log says that the job's training began."""
    count: int = await connection.fetchval(
        "SELECT count(*) FROM log.event WHERE job_id = $1 AND type = 'job.started.v1'", job.job_id
    )
    return count


async def operate(database: Database, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``tuneyard-server dead-letters ...`` on this database."""
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "deploy.server", "dead-letters", *arguments],
        env={"TUNEYARD_DATABASE_URL": database.admin_dsn},
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
