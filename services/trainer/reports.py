"""What one attempt reports, each report with an id of its own. No I/O."""

import signal
from collections.abc import Callable
from typing import TypedDict
from uuid import UUID

from libs.contracts.base import ArtifactFile
from libs.contracts.results import RunResult
from libs.contracts.scheduler import Checkpoint, FailureCode
from libs.contracts.scheduler_rpc import LeaseGranted
from libs.contracts.trainer import Checkpointed, Failed, Finished, Started, Stopped
from services.trainer.tail import RunState, RunStatus

LONGEST_MESSAGE = 4000  # characters: the contract's LongText
OUTPUT_TAIL = 3000  # characters of a dead process's output that its report quotes


def was_told_to_end(status: RunStatus | None, exit_status: int) -> bool:
    """Whether a run ended because somebody wanted its machine, as Kueue does for another job: its
    processes were told, in time to write a checkpoint or not. A failure that lies in the job stays
    one."""
    if status is not None and status.outcome == "stopped":
        return True
    code = status.code if status else None
    return exit_status == -signal.SIGTERM and code in (None, "internal_error")


class _About(TypedDict):
    report_id: UUID
    job_id: UUID
    epoch: int
    trainer_id: str


class Reports:
    def __init__(self, lease: LeaseGranted, trainer_id: str, new_id: Callable[[], UUID]) -> None:
        self._lease = lease
        self._trainer_id = trainer_id
        self._new_id = new_id

    def started(self, state: RunState) -> Started:
        return Started(
            **self._about(),
            device=state.device,
            steps_total=state.steps_total,
            resumed_from_step=self._lease.checkpoint.step if self._lease.checkpoint else 0,
        )

    def checkpointed(self, step: int, stored: ArtifactFile, tokens_processed: int) -> Checkpointed:
        return Checkpointed(
            **self._about(),
            checkpoint=Checkpoint(
                step=step,
                key=stored.key,
                sha256=stored.sha256,
                size_bytes=stored.size_bytes,
                tokens_processed=tokens_processed,
            ),
        )

    def finished(self, result: RunResult, files: tuple[ArtifactFile, ...]) -> Finished:
        return Finished(
            **self._about(),
            result=result,
            files=files,
        )

    def stopped(self, tokens_processed: int) -> Stopped:
        return Stopped(
            **self._about(),
            tokens_processed=tokens_processed,
        )

    def failed(self, code: FailureCode, message: str, *, retryable: bool = True) -> Failed:
        return Failed(
            **self._about(),
            code=code,
            message=message.replace("\0", "")[:LONGEST_MESSAGE],
            retryable=retryable,
        )

    def ended_badly(self, status: RunStatus | None, exit_status: int, output: str) -> Failed:
        """Of a run that nobody stopped. ``output`` is what its process printed."""
        if status is None:
            return self._killed(exit_status, output)
        if status.code:
            # What training could name lies in the job; the unexpected may pass elsewhere.
            retryable = status.code == "internal_error"
            return self.failed(status.code, status.message or "", retryable=retryable)
        return self.failed("internal_error", "training failed and did not say why")

    def _killed(self, exit_status: int, output: str) -> Failed:
        how = signal.Signals(-exit_status).name if exit_status < 0 else f"exit {exit_status}"
        message = f"the training process died ({how}). {output[-OUTPUT_TAIL:].strip()}"
        # The kernel's out-of-memory killer sends SIGKILL.
        code: FailureCode = "out_of_memory" if exit_status == -signal.SIGKILL else "internal_error"
        return self.failed(code, message)

    def _about(self) -> _About:
        return {
            "report_id": self._new_id(),
            "job_id": self._lease.job_id,
            "epoch": self._lease.epoch,
            "trainer_id": self._trainer_id,
        }
