"""Waits for the end of a job."""

from collections.abc import Callable

from tuneyard._call import Options
from tuneyard._effects import Flow, Sleep
from tuneyard._retry import WORTH_REPEATING
from tuneyard.errors import APIConnectionError, APIError, WaitTimeoutError
from tuneyard.types import Job

ENDED = ("completed", "failed", "cancelled")
POLL = 2.0  # seconds: shorter than anybody notices, beside jobs of minutes
# Questions in a row without an answer, each with its repetitions: longer than a restart.
PATIENCE = 10


def wait_for(
    options: Options, ask: Callable[[], Flow[Job]], *, timeout: float | None, poll: float
) -> Flow[Job]:
    """The job once it has ended. Raises WaitTimeoutError, and what `PATIENCE` was lost with."""
    monotonic = options.seams.monotonic
    begin, failures, seen = monotonic(), 0, "not known yet"
    while True:
        pause = poll
        try:
            job = yield from ask()
        except (APIConnectionError, APIError) as error:
            failures += 1
            passing = isinstance(error, APIConnectionError) or error.status in WORTH_REPEATING
            if not passing or failures > PATIENCE:
                raise
            if isinstance(error, APIError) and error.retry_after is not None:
                pause = max(poll, error.retry_after)
        else:
            if job.status in ENDED:
                return job
            failures, seen = 0, job.status
        waited = monotonic() - begin
        if timeout is not None and waited + pause > timeout:
            raise WaitTimeoutError(f"the job is {seen} after {waited:.0f} s of waiting")
        yield Sleep(pause)
