"""What becomes of jobs when the database is taken back to an earlier moment."""

from datetime import datetime, timedelta
from functools import reduce
from uuid import UUID

import pytest

from deploy.restored import ATTEMPT, EVENT, MESSAGE, ZERO
from libs.contracts.base import Count, Epoch
from libs.contracts.events import JobEvent
from libs.contracts.scheduler import (
    Checkpoint,
    JobCancelled,
    JobCancelRequested,
    JobCheckpointed,
    JobCompleted,
    JobLeased,
    JobReclaimed,
    JobStarted,
    JobTrained,
)
from libs.jobstate.state import JobState, fold, submitted
from services.scheduler.model import decide_lease, decide_restored
from tests.support.jobs import NOON, finished_result, submission

WHY = "restored"
LEASED = JobLeased(epoch=3, trainer_id="t")
STARTED = JobStarted(epoch=3, trainer_id="t", device="cpu", steps_total=100, resumed_from_step=0)
TRAINED = JobTrained(epoch=3, result=finished_result(), files=())
LOST = JobReclaimed(epoch=3, reason="gone", retries=2)
ENDED = JobCompleted(tokens_processed=1, artifacts_expires_at=NOON + timedelta(days=7))


def checkpointed(step: int) -> JobCheckpointed:
    return JobCheckpointed(
        epoch=3,
        checkpoint=Checkpoint(
            step=step, key=f"at-{step}", sha256="0" * 64, size_bytes=1, tokens_processed=step * 10
        ),
    )


def after(*events: JobEvent) -> JobState:
    first = submitted(
        submission(), job_id=UUID(int=7), account_id=UUID(int=8), at=NOON, traceparent=None
    )
    return reduce(lambda state, event: fold(state, event, NOON), events, first)


def restored(state: JobState, *lost: str) -> JobState:
    events = decide_restored(state, WHY, lost_checkpoints=lost)
    return reduce(lambda state, event: fold(state, event, NOON), events, state)


def test_a_leased_job_is_queued_again_with_its_checkpoint_and_not_as_a_retry() -> None:
    state = restored(after(LEASED, STARTED, checkpointed(10), checkpointed(20)))
    assert (state.status, state.leased, state.retries) == ("queued", False, 0)
    assert state.checkpoint == checkpointed(20).checkpoint


def test_a_job_begins_with_the_last_checkpoint_that_is_there() -> None:
    state = restored(after(LEASED, STARTED, checkpointed(10), checkpointed(20)), "at-20")
    assert state.checkpoint == checkpointed(10).checkpoint
    assert ([kept.checkpoint.step for kept in state.checkpoints], state.tokens_processed) == (
        [10],
        100,
    )


def test_a_job_without_any_checkpoint_left_begins_anew_also_when_it_waits() -> None:
    state = restored(after(LEASED, STARTED, checkpointed(10), LOST), "at-10")
    assert (state.status, state.checkpoint, state.checkpoints) == ("queued", None, ())
    assert (state.retries, state.tokens_processed) == (2, 0)


def test_a_job_that_was_to_be_cancelled_is() -> None:
    asked = after(LEASED, STARTED, checkpointed(10), JobCancelRequested(epoch=3))
    (event,) = decide_restored(asked, WHY)
    assert isinstance(event, JobCancelled)
    assert event.tokens_processed == 100


@pytest.mark.parametrize(
    "state",
    [after(), after(LEASED, STARTED, TRAINED), after(LEASED, STARTED, TRAINED, ENDED)],
    ids=["waiting", "trained", "ended"],
)
def test_a_job_that_nobody_holds_is_left_alone(state: JobState) -> None:
    assert decide_restored(state, WHY) == []


def test_a_new_epoch_is_above_the_floor_and_above_the_last() -> None:
    assert decide_lease(after(), "t", floor=40) == [JobLeased(epoch=41, trainer_id="t")]
    assert decide_lease(after(LEASED, LOST), "t", floor=2) == [JobLeased(epoch=4, trainer_id="t")]


def test_what_is_numbered_from_the_clock_stays_within_what_messages_may_say() -> None:
    in_2044 = datetime(2044, 12, 31, tzinfo=ZERO.tzinfo) - ZERO
    most: dict[object, int] = {Count: 2**53, Epoch: 10**6}
    assert in_2044 // EVENT < most[Count]
    assert in_2044 // MESSAGE < most[Count]
    assert in_2044 // ATTEMPT < most[Epoch]
