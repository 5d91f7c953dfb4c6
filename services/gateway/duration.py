"""How long a job will run, by how long the ones before it ran. Pure.

The work of a job grows with its tokens and with its model's parameters, so what is measured is the
seconds of computing for a planned token and a parameter. Loading the model, saving and verifying
take a while besides, which does not grow with the tokens. So

    seconds = idle + pace * tokens_planned * model_params

with the medians of recent completed jobs of the same type: of those on the same model if there are
any, else of those on any model. What nobody has ever run here, nobody can know.
"""

from collections.abc import Sequence
from datetime import datetime
from math import ceil
from statistics import median
from uuid import UUID

import msgspec
from msgspec import Struct

from libs.contracts.base import Count, JobType, ModelRef

LONGEST = 10 * 365 * 86_400  # seconds; more is no expectation of a job, but a far extrapolation


class _Model(Struct, frozen=True):
    id: UUID
    params: Count


class _Result(Struct, frozen=True):
    gpu_seconds: float
    stopped_early: bool = False


class Past(Struct, frozen=True, kw_only=True):
    """What of a completed job's stored state its speed follows from."""

    type: JobType
    model: _Model
    tokens_planned: Count
    retries: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None
    result: _Result | None = None


decode_past = msgspec.json.Decoder(Past).decode


def expected_seconds(
    job_type: JobType, model: ModelRef, tokens: int, past: Sequence[Past]
) -> int | None:
    """From its start to its end, in whole seconds; the wait for a trainer is not in it. None when
    nothing that was measured tells."""
    alike = [job for job in past if job.type == job_type and _pace(job) is not None]
    measured = [job for job in alike if job.model.id == model.id] or alike
    paces = [pace for job in measured if (pace := _pace(job)) is not None]
    if not paces:
        return None
    idle = [seconds for job in measured if (seconds := _idle(job)) is not None]
    seconds = median(paces) * tokens * model.params + (median(idle) if idle else 0.0)
    return ceil(seconds) if seconds <= LONGEST else None


def _pace(job: Past) -> float | None:
    """Seconds of computing for a planned token and a parameter. Not known of a job that did not do
    what was planned."""
    work = job.tokens_planned * job.model.params
    if job.result is None or job.result.gpu_seconds <= 0 or work == 0 or job.result.stopped_early:
        return None
    return job.result.gpu_seconds / work


def _idle(job: Past) -> float | None:
    """Seconds between start and end in which nothing was computed. Not known of a job that was
    interrupted: between its attempts it waited."""
    if job.started_at is None or job.finished_at is None or job.result is None or job.retries:
        return None
    lasted = (job.finished_at - job.started_at).total_seconds()
    return max(lasted - job.result.gpu_seconds, 0.0)
