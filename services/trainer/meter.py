"""What a trainer shows of the job that it has, from what its training process writes."""

from types import TracebackType
from typing import Self

from libs.contracts.base import JobType
from libs.contracts.training import MetricPoint
from libs.observability.metrics import GPU_MEMORY, THROUGHPUT, TOKENS, TRAINER_BUSY

GB = 1e9  # bytes, as training measures in


class Meter:
    """In ``with``, for as long as the trainer has the job; ``tokens`` were processed before."""

    def __init__(self, job_type: JobType, tokens: int) -> None:
        self._kind = {"job_type": job_type}
        self._tokens = tokens

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
        """So many by now, over all attempts; what was resumed from is not counted anew."""
        TOKENS.add(max(tokens - self._tokens, 0), self._kind)
        self._tokens = max(tokens, self._tokens)
        return tokens


def show(job_type: JobType, point: MetricPoint) -> None:
    """The newest point of the run."""
    THROUGHPUT.show((point.throughput, job_type))
    GPU_MEMORY.show((point.vram_gb * GB, job_type))
