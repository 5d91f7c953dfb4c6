"""What a trainer shows of the job that it has, from what its training process writes."""

from types import TracebackType
from typing import Self

from libs.contracts.base import JobType
from libs.contracts.scheduler_rpc import LeaseGranted
from libs.contracts.training import MetricPoint
from libs.observability.metrics import GPU_MEMORY, THROUGHPUT, TOKENS, TRAINER_BUSY

GB = 1e9  # bytes, as training measures in


class Meter:
    """In ``with``, for as long as the trainer works on the job."""

    def __init__(self, lease: LeaseGranted) -> None:
        self._kind = {"job_type": lease.job_type}
        self._tokens = lease.checkpoint.tokens_processed if lease.checkpoint else 0

    def __enter__(self) -> Self:
        TRAINER_BUSY.add(1)
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        TRAINER_BUSY.add(-1)
        for gauge in (THROUGHPUT, GPU_MEMORY):
            gauge.show()

    def processed(self, tokens: int) -> int:
        """So many are known of now; how many that is over all attempts. What was resumed from is
        not counted anew."""
        TOKENS.add(max(tokens - self._tokens, 0), self._kind)
        self._tokens = max(tokens, self._tokens)
        return self._tokens


def show(job_type: JobType, point: MetricPoint) -> None:
    """The newest point of the run."""
    THROUGHPUT.show((point.throughput, job_type))
    GPU_MEMORY.show((point.vram_gb * GB, job_type))
