"""Which waiting job a trainer gets. Pure, so that fairness can be tested without a database."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import UUID

from msgspec import Struct

from libs.jobstate.state import JobState

AGED = timedelta(minutes=30)
"""A standard job that has waited this long counts as priority: no job waits for ever."""
MAX_LEASED_PER_ACCOUNT = 64
"""One account can't take every trainer of a large installation."""
BYTES_PER_PARAM = 2  # bf16 weights, frozen; a LoRA's own share is small beside them
BYTES_PER_TRAINED_PARAM = 20  # bf16 weight and gradient, and in fp32: weight, gradient, two moments
DEEPEST = 80  # blocks of the deepest models that are usual; how deep a job's is, is not known here
MLP_SHARE = 0.5  # of a block's weights, at the least; growth in width doubles them
MAX_GROWTH = 3  # a model never grows by more than this many times its blocks
WORKING_BYTES = 512 * 2**20  # activations, optimizer state and the process itself, at the least


class Candidate(Struct, frozen=True, kw_only=True):
    """The oldest waiting job of one account in one priority class.

    ``leased``: how many jobs of the account have a trainer; ``served_at``: when it last got one.
    """

    job_id: UUID
    account_id: UUID
    priority: bool
    submitted_at: datetime
    memory_bytes: int
    leased: int
    served_at: datetime | None


def memory_needed(state: JobState) -> int:
    """A lower bound of a trainer's memory for this job, in bytes."""
    base = BYTES_PER_PARAM * state.model.params + WORKING_BYTES
    return base + round(BYTES_PER_TRAINED_PARAM * _trained_share(state) * state.model.params)


def _trained_share(state: JobState) -> float:
    """How many weights learn, in those of the base model; an adapter's hardly count."""
    if state.params is not None:
        return 1.0 if state.params.method == "full" else 0.0
    if (train := state.train_params) is None:
        return 0.0
    if train.strategy == "width":
        grown = MLP_SHARE
    else:
        grown = min(train.cycles * train.layers_per_cycle / DEEPEST, MAX_GROWTH)
    return grown + (1.0 if train.trainable == "all" else 0.0)


def in_turn(
    candidates: Iterable[Candidate], *, now: datetime, memory_bytes: int
) -> list[Candidate]:
    """The candidates that fit the trainer, the one to lease first in front.

    Priority (bought, or earned by age) before standard; then the account with the fewest running
    jobs; then the one that was served longest ago; then the job that came first.
    """

    def rank(candidate: Candidate) -> tuple[bool, int, bool, float, datetime]:
        urgent = candidate.priority or now - candidate.submitted_at >= AGED
        served = candidate.served_at
        return (
            not urgent,
            candidate.leased,
            served is not None,
            served.timestamp() if served else 0.0,
            candidate.submitted_at,
        )

    fitting = (
        candidate
        for candidate in candidates
        if candidate.memory_bytes <= memory_bytes and candidate.leased < MAX_LEASED_PER_ACCOUNT
    )
    return sorted(fitting, key=rank)
