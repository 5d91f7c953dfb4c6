"""What the scheduler decides about one job. Pure: a state and a message in, events out."""

from datetime import datetime, timedelta
from typing import assert_never
from uuid import UUID

from libs.contracts.artifact import ArtifactPublished, ArtifactRejected
from libs.contracts.base import Cents, Epoch, ObjectKey
from libs.contracts.events import JobEvent
from libs.contracts.scheduler import (
    JobCancelled,
    JobCancelRequested,
    JobCheckpointed,
    JobCompleted,
    JobFailed,
    JobLeased,
    JobReclaimed,
    JobRetentionExtended,
    JobStarted,
    JobTrained,
)
from libs.contracts.scheduler_rpc import AlreadyEnded, Cancelling
from libs.contracts.trainer import AnyReport, Checkpointed, Failed, Finished, Started, Stopped
from libs.jobstate.state import ENDED, JobState

MAX_RETRIES = 5
"""A job that has lost five trainers and got no further is more likely the cause than the victim."""
MAX_FRUITLESS = 20
"""Times that a job may be handed back in a row without having got further, before each more counts
as a loss. Machines are drained for many reasons, but none does it so often to one job."""
MOST_FORGIVEN = 50
"""Interruptions up to which getting further makes up for the losses before: one that ends a machine
after each of its checkpoints must not go through them all."""
HANDED_BACK = "the trainer was told to leave and handed the job back"
LEASE = timedelta(seconds=10)  # several heartbeats; a restarted NATS or scheduler fits into it


def decide_lease(state: JobState, trainer_id: str, *, floor: int = 0) -> list[JobEvent]:
    """Give the job to a trainer, under the next fencing epoch above ``floor``: up to there, a
    history that was lost with the database may have given them already."""
    if state.status != "queued" or state.leased or state.trained:
        return []
    return [JobLeased(epoch=max(state.epoch, floor) + 1, trainer_id=trainer_id)]


def decide_report(state: JobState, report: AnyReport) -> list[JobEvent]:
    """What a trainer's report means; nothing when its attempt is no longer the job's."""
    if not state.leased or report.epoch != state.epoch:
        return []
    match report:
        case Started():
            if state.status == "running":
                return []
            return [
                JobStarted(
                    epoch=report.epoch,
                    trainer_id=report.trainer_id,
                    device=report.device,
                    steps_total=report.steps_total,
                    resumed_from_step=report.resumed_from_step,
                )
            ]
        case Checkpointed():
            if state.checkpoint and report.checkpoint.step <= state.checkpoint.step:
                return []
            return [JobCheckpointed(epoch=report.epoch, checkpoint=report.checkpoint)]
        case Finished():
            return [JobTrained(epoch=report.epoch, result=report.result, files=report.files)]
        case Stopped():
            if state.cancel_requested:
                return [cancelled(state, report.tokens_processed)]
            return decide_hand_over(state, report.epoch)
        case Failed():
            if report.retryable:
                return decide_reclaim(state, report.epoch, report.message[:255])
            return [JobFailed(code=report.code, message=report.message)]
        case _:
            assert_never(report)


def decide_reclaim(state: JobState, epoch: Epoch, reason: str) -> list[JobEvent]:
    """The attempt is lost: queue the job again, or end it if it was to be cancelled or lost five
    since it got further.

    ``epoch`` is the attempt that was seen to be lost; another attempt is left alone.
    """
    if not state.leased or epoch != state.epoch:
        return []
    if state.cancel_requested:
        return [cancelled(state, state.tokens_processed)]
    losses = held_against(state)
    if losses >= MAX_RETRIES:
        return [JobFailed(code="retries_exhausted", message=exhausted(state, losses + 1, reason))]
    return [
        JobReclaimed(
            epoch=epoch, reason=reason, retries=losses + 1, interruptions=state.retries + 1
        )
    ]


def decide_hand_over(state: JobState, epoch: Epoch) -> list[JobEvent]:
    """The attempt ended in order and somebody else is to go on: no fault of the job's, unless that
    is all that ever happens to it."""
    fruitless = state.interrupted.fruitless if state.interrupted else 0
    if not state.got_further and fruitless >= MAX_FRUITLESS:
        return decide_reclaim(state, epoch, HANDED_BACK)
    return [
        JobReclaimed(
            epoch=epoch,
            reason=HANDED_BACK,
            retries=held_against(state),
            interruptions=state.retries + 1,
            handed_back=True,
        )
    ]


def held_against(state: JobState) -> int:
    """How many lost trainers count against the job now: none from before it got further."""
    return 0 if state.got_further and state.retries < MOST_FORGIVEN else state.losses


def exhausted(state: JobState, losses: int, reason: str) -> str:
    if state.retries < MOST_FORGIVEN:
        what = f"lost its trainer {losses} times and got no further than step {state.last_step}"
    else:
        what = f"was interrupted {state.retries + 1} times"
    return (
        f"The job {what}, last: {reason}. Nothing was charged; submit it again, with a smaller "
        "batch_size or seq_len if it ran out of memory."
    )


def decide_restored(
    state: JobState, reason: str, *, lost_checkpoints: tuple[ObjectKey, ...] = ()
) -> list[JobEvent]:
    """The database was restored: whoever had a lease may have lost it, or ended, in a history that
    nobody remembers. That is no retry of the job's. ``lost_checkpoints`` have no files any more."""
    if state.status in ENDED or state.trained or not (state.leased or lost_checkpoints):
        return []
    if state.leased and state.cancel_requested:
        return [cancelled(state, state.tokens_processed)]
    # A job that waits was leased before, or it would have no checkpoint.
    epoch = max(state.epoch, 1)
    return [
        JobReclaimed(
            epoch=epoch,
            reason=reason,
            retries=held_against(state),
            lost_checkpoints=lost_checkpoints,
            interruptions=state.retries,
        )
    ]


def decide_cancel(state: JobState) -> tuple[list[JobEvent], Cancelling | AlreadyEnded]:
    """Cancel a waiting job now; ask the trainer of a leased one. A trained one completes."""
    if state.status in ENDED:
        return [], AlreadyEnded(status=state.status)
    if state.leased:
        asked: list[JobEvent] = [JobCancelRequested(epoch=state.epoch)]
        return ([] if state.cancel_requested else asked), Cancelling(status=state.status)
    if state.trained:
        return [], Cancelling(status=state.status)
    return [cancelled(state, state.tokens_processed)], Cancelling(status="cancelled")


def decide_published(state: JobState, event: ArtifactPublished) -> list[JobEvent]:
    if state.status in ENDED or not state.trained:
        return []
    early = state.result is not None and state.result.stopped_early
    return [
        JobCompleted(
            tokens_processed=state.tokens_processed,
            artifacts_expires_at=event.expires_at,
            charge_cents=share_of_price(state, state.tokens_processed) if early else None,
        )
    ]


def decide_rejected(state: JobState, event: ArtifactRejected) -> list[JobEvent]:
    if state.status in ENDED or not state.trained:
        return []
    return [
        JobFailed(
            code="artifact_rejected",
            message=f"The result could not be verified: {event.reason} Nothing was charged; "
            "submit the job again.",
        )
    ]


def decide_extend(state: JobState, extension_id: UUID, days: int) -> list[JobEvent]:
    """Add an extension that was paid. Raises ValueError for a job that has nothing to keep: billing
    sells none for it, and what was paid is never dropped without a word."""
    if extension_id in state.extensions:
        return []
    if state.artifacts_expires_at is None:
        raise ValueError(f"extension {extension_id} was paid, but job {state.id} has no files")
    return [
        JobRetentionExtended(
            extension_id=extension_id,
            artifacts_expires_at=state.artifacts_expires_at + timedelta(days=days),
        )
    ]


def cancelled(state: JobState, tokens_processed: int) -> JobCancelled:
    charge = share_of_price(state, tokens_processed)
    return JobCancelled(tokens_processed=tokens_processed, charge_cents=charge)


def share_of_price(state: JobState, tokens_processed: int) -> Cents:
    """What a job costs that did not do all that was planned: the share of its planned tokens that
    was processed, rounded up to a whole cent."""
    share = min(tokens_processed, state.tokens_planned)
    return -(-state.price_cents * share // max(state.tokens_planned, 1))


def lease_until(now: datetime) -> datetime:
    return now + LEASE
