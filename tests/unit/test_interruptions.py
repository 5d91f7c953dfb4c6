"""A job that is handed back in order is not at fault; one that keeps losing its trainer may be."""

from functools import reduce
from uuid import UUID

import msgspec
import pytest
from msgspec import UNSET

from libs.contracts.events import JobEvent, decode_job_event
from libs.contracts.scheduler import (
    Checkpoint,
    JobCancelled,
    JobCancelRequested,
    JobCheckpointed,
    JobFailed,
    JobReclaimed,
)
from libs.contracts.trainer import Stopped
from libs.jobstate.state import JobState, decode_state, fold, row_of, submitted
from services.scheduler.model import (
    HANDED_BACK,
    MAX_FRUITLESS,
    MAX_RETRIES,
    MOST_FORGIVEN,
    decide_lease,
    decide_reclaim,
    decide_report,
    decide_restored,
)
from tests.support.jobs import NOON, submission


class Life:
    """A job as the scheduler decides on it, attempt by attempt."""

    def __init__(self) -> None:
        self.state = submitted(
            submission(), job_id=UUID(int=7), account_id=UUID(int=8), at=NOON, traceparent=None
        )
        self.history: list[JobEvent] = []

    def add(self, *events: JobEvent) -> None:
        self.history += events
        self.state = reduce(lambda state, event: fold(state, event, NOON), events, self.state)

    def lease(self) -> None:
        self.add(*decide_lease(self.state, "t"))

    def reaches(self, step: int) -> None:
        kept = Checkpoint(
            step=step, key=f"at-{step}", sha256="0" * 64, size_bytes=1, tokens_processed=step
        )
        self.add(JobCheckpointed(epoch=self.state.epoch, checkpoint=kept))

    def is_lost(self, *, after: int | None = None) -> None:
        """An attempt that ends by itself, ``after`` it has stored a checkpoint of that step."""
        self.lease()
        if after is not None:
            self.reaches(after)
        self.add(*decide_reclaim(self.state, self.state.epoch, "gone"))

    def is_handed_back(self, *, after: int | None = None) -> None:
        self.lease()
        if after is not None:
            self.reaches(after)
        self.add(*decide_report(self.state, stopped(self.state)))


def stopped(state: JobState) -> Stopped:
    return Stopped(
        report_id=UUID(int=1),
        job_id=state.id,
        epoch=state.epoch,
        trainer_id="t",
        tokens_processed=51_200,
    )


@pytest.fixture
def job() -> Life:
    return Life()


def test_a_job_that_is_handed_back_is_queued_again_as_often_as_that_happens(job: Life) -> None:
    for step in range(10, 1_000, 10):
        job.is_handed_back(after=step)
    assert (job.state.status, job.state.leased, job.state.losses) == ("queued", False, 0)
    assert (job.state.retries, job.state.last_step) == (99, 990)
    assert job.history[-1] == JobReclaimed(
        epoch=99, reason=HANDED_BACK, retries=0, interruptions=99, handed_back=True
    )


def test_a_job_that_was_to_be_cancelled_is_when_it_is_handed_back(job: Life) -> None:
    job.lease()
    job.add(JobCancelRequested(epoch=1))
    (event,) = decide_report(job.state, stopped(job.state))
    assert event == JobCancelled(tokens_processed=51_200, charge_cents=350)


def test_a_job_that_loses_its_sixth_trainer_without_getting_further_fails(job: Life) -> None:
    for _ in range(MAX_RETRIES):
        job.is_lost()
    assert (job.state.status, job.state.retries) == ("queued", 5)
    job.is_lost()
    assert (job.state.status, job.state.failure_code) == ("failed", "retries_exhausted")
    said = "lost its trainer 6 times and got no further than step 0, last: gone."
    assert job.state.failure_message is not None
    assert said in job.state.failure_message


def test_hand_overs_in_between_neither_count_nor_make_up_for_losses(job: Life) -> None:
    job.is_lost(after=10)
    for _ in range(MAX_RETRIES - 1):
        job.is_handed_back()
        job.is_lost()
    assert (job.state.status, job.state.losses, job.state.retries) == ("queued", 5, 9)
    job.is_handed_back()
    assert job.state.status == "queued"
    job.is_lost()
    assert job.state.failure_code == "retries_exhausted"


@pytest.mark.parametrize("how", [Life.is_lost, Life.is_handed_back])
def test_a_later_checkpoint_makes_up_for_the_losses_before_it(how: object, job: Life) -> None:
    for _ in range(MAX_RETRIES):
        job.is_lost()
    how(job, after=10)  # type: ignore[operator]
    assert job.state.status == "queued"
    assert job.state.losses == (1 if how is Life.is_lost else 0)


def test_the_same_checkpoint_again_is_no_step_further(job: Life) -> None:
    job.is_lost(after=10)
    for _ in range(MAX_RETRIES - 1):
        job.is_lost()
    assert job.state.losses == MAX_RETRIES
    job.is_lost()
    assert job.state.status == "failed"


def test_a_job_that_ends_a_machine_after_each_checkpoint_does_not_go_through_them_all(
    job: Life,
) -> None:
    for lost in range(1, 1_000):
        job.is_lost(after=lost)
        if job.state.status == "failed":
            break
    assert job.state.retries == MOST_FORGIVEN + MAX_RETRIES - 1
    assert job.state.failure_message is not None
    assert f"was interrupted {lost} times" in job.state.failure_message


def test_a_job_that_is_only_ever_handed_back_fails_at_last(job: Life) -> None:
    for _ in range(MAX_FRUITLESS):
        job.is_handed_back()
    assert (job.state.status, job.state.losses) == ("queued", 0)
    for _ in range(MAX_RETRIES):
        job.is_handed_back()
    assert (job.state.status, job.state.losses) == ("queued", MAX_RETRIES)
    job.is_handed_back()
    assert job.state.failure_code == "retries_exhausted"


def test_one_step_further_and_it_may_be_handed_back_as_often_again(job: Life) -> None:
    for step in (10, 20, 30):
        for _ in range(MAX_FRUITLESS):
            job.is_handed_back()
        job.is_handed_back(after=step)
    assert (job.state.status, job.state.losses) == ("queued", 0)


def test_a_restored_database_neither_counts_nor_forgets(job: Life) -> None:
    for _ in range(MAX_RETRIES):
        job.is_lost()
    job.lease()
    job.add(*decide_restored(job.state, "restored"))
    assert (job.state.losses, job.state.retries) == (MAX_RETRIES, MAX_RETRIES)
    job.is_lost()
    assert job.state.status == "failed"


def test_a_job_whose_checkpoint_is_gone_gets_further_when_it_is_there_again(job: Life) -> None:
    job.lease()
    job.reaches(50)
    job.add(*decide_restored(job.state, "restored", lost_checkpoints=("at-50",)))
    for _ in range(MAX_RETRIES):
        job.is_lost()
    job.is_lost(after=10)
    assert (job.state.status, job.state.losses) == ("queued", 1)


def old(*, retries: int, epoch: int) -> JobReclaimed:
    """As a release wrote it that knew of no hand-overs."""
    written = {"type": "job.reclaimed.v1", "epoch": epoch, "reason": "gone", "retries": retries}
    event = decode_job_event(msgspec.json.encode(written))
    assert isinstance(event, JobReclaimed)
    return event


def test_old_events_make_the_very_state_that_they_made(job: Life) -> None:
    for retries in (1, 2, 2, 3):  # a restored database was no retry
        job.lease()
        job.add(old(retries=retries, epoch=job.state.epoch))
    assert (job.state.retries, job.state.losses) == (3, 3)
    stored = row_of(job.state).state
    assert job.state.interrupted is UNSET
    assert b"interrupted" not in stored, "or every row of before would differ from its log"
    assert decode_state(stored) == job.state


def test_what_an_old_scheduler_decides_beside_a_new_one_counts_as_it_always_did(job: Life) -> None:
    for step in (10, 20, 30, 40, 50, 60):
        job.is_handed_back(after=step)
    # It reads of the events only what it knows, and finds that nothing counts against the job.
    assert isinstance(job.history[-1], JobReclaimed)
    assert job.history[-1].retries == 0
    job.lease()
    job.add(old(retries=1, epoch=7))
    assert (job.state.retries, job.state.losses) == (7, 1)
    for _ in range(MAX_RETRIES - 1):
        job.is_lost()
    assert (job.state.status, job.state.losses, job.state.retries) == ("queued", 5, 11)
    job.is_lost()
    assert isinstance(job.history[-1], JobFailed)


def test_the_state_is_stored_with_what_it_knows_of_interruptions(job: Life) -> None:
    job.is_handed_back()
    job.is_lost(after=10)
    assert decode_state(row_of(job.state).state) == job.state
