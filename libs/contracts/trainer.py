"""Reports that a trainer sends on JetStream. They are not events: the scheduler decides."""

from uuid import UUID

from msgspec import Struct

from libs.contracts.base import ArtifactFile, Count, Epoch, LongText, ShortText, Step
from libs.contracts.results import RunResult
from libs.contracts.scheduler import Checkpoint, FailureCode


class Report(Struct, frozen=True, kw_only=True, tag_field="kind"):
    """``report_id`` makes a repeated report harmless; ``epoch`` fences off a lost attempt."""

    report_id: UUID
    job_id: UUID
    epoch: Epoch
    trainer_id: ShortText


class Started(Report, frozen=True, kw_only=True, tag="started"):
    device: ShortText
    steps_total: Step
    resumed_from_step: Step


class Checkpointed(Report, frozen=True, kw_only=True, tag="checkpointed"):
    checkpoint: Checkpoint


class Finished(Report, frozen=True, kw_only=True, tag="finished"):
    result: RunResult
    files: tuple[ArtifactFile, ...]


class Stopped(Report, frozen=True, kw_only=True, tag="stopped"):
    """The training ended in order: the heartbeat's answer said ``cancel``, or the trainer, or its
    run, was told to leave. It is then the next trainer's, from the last checkpoint on."""

    tokens_processed: Count


class Failed(Report, frozen=True, kw_only=True, tag="failed"):
    """``retryable``: the same job may succeed elsewhere (a lost machine, not a bad data set)."""

    code: FailureCode
    message: LongText
    retryable: bool


AnyReport = Started | Checkpointed | Finished | Stopped | Failed
