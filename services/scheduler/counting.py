"""What the scheduler's events say to whoever counts: jobs by their ends, waits and runs."""

from collections.abc import Sequence
from datetime import datetime

from libs.contracts.events import JobEvent
from libs.contracts.gateway import JobSubmitted
from libs.contracts.scheduler import (
    JobCancelled,
    JobCheckpointed,
    JobCompleted,
    JobFailed,
    JobLeased,
    JobReclaimed,
)
from libs.jobstate.state import JobState
from libs.observability.metrics import (
    FIRST_CHECKPOINT,
    JOB_RUN,
    JOB_WAIT,
    JOBS_CANCELLED,
    JOBS_COMPLETED,
    JOBS_FAILED,
    JOBS_RECLAIMED,
    JOBS_SUBMITTED,
)


def count(before: JobState, events: Sequence[JobEvent], now: datetime) -> None:
    """``events`` were committed at ``now``, to a job that was in the state ``before``; of one that
    was submitted, it is the state that it begins in."""
    kind = {"job_type": before.type}
    for event in events:
        match event:
            case JobSubmitted():
                JOBS_SUBMITTED.add(1, kind)
            case JobLeased() if before.epoch == 0:
                JOB_WAIT.record((now - before.created_at).total_seconds(), kind)
            case JobCheckpointed() if before.checkpoint is None and before.started_at is not None:
                FIRST_CHECKPOINT.record((now - before.started_at).total_seconds(), kind)
            case JobReclaimed():
                how = "handed back" if event.handed_back else "lost"
                JOBS_RECLAIMED.add(1, kind | {"how": how})
            case JobCompleted():
                JOBS_COMPLETED.add(1, kind)
                _ended(before, "completed", now)
            case JobFailed():
                JOBS_FAILED.add(1, kind | {"reason": event.code})
                _ended(before, "failed", now)
            case JobCancelled():
                JOBS_CANCELLED.add(1, kind)
                _ended(before, "cancelled", now)


def _ended(before: JobState, outcome: str, now: datetime) -> None:
    if before.started_at is not None:  # one that never ran has no time to tell
        seconds = (now - before.started_at).total_seconds()
        JOB_RUN.record(seconds, {"job_type": before.type, "outcome": outcome})
