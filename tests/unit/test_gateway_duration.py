"""An expected duration follows from what was measured, and from nothing else."""

from datetime import timedelta
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from libs.contracts.base import JobType, ModelRef, ModelSource
from libs.jobstate.state import row_of, submitted
from services.gateway.duration import LONGEST, Past, decode_past, expected_seconds
from tests.support.jobs import NOON, finished_result, submission

TOKENS = 100_000
IDLE = 20.0


def model(number: int = 1, params: int = 3_000_000) -> ModelRef:
    source = ModelSource(kind="local", location="somewhere")
    return ModelRef(id=UUID(int=number), slug=f"model-{number}", params=params, source=source)


def past(
    gpu_seconds: float,
    *,
    job_type: JobType = "finetune",
    of: ModelRef | None = None,
    idle: float = IDLE,
    retries: int = 0,
    stopped_early: bool = False,
) -> Past:
    """A job over `TOKENS` tokens, as its stored state is read."""
    event = submission(job_type=job_type, model=of or model(), tokens_planned=TOKENS)
    job = submitted(event, job_id=UUID(int=9), account_id=UUID(int=8), at=NOON, traceparent=None)
    ended = replace(
        job,
        started_at=NOON,
        finished_at=NOON + timedelta(seconds=gpu_seconds + idle),
        retries=retries,
        result=replace(finished_result(), gpu_seconds=gpu_seconds, stopped_early=stopped_early),
    )
    return decode_past(row_of(ended).state)


def test_a_job_like_the_ones_before_it_takes_as_long() -> None:
    assert expected_seconds("finetune", model(), TOKENS, [past(100.0)]) == 120


def test_twice_the_tokens_are_twice_the_computing_and_no_more_of_the_rest() -> None:
    assert expected_seconds("finetune", model(), 2 * TOKENS, [past(100.0)]) == 220


def test_one_job_that_was_slow_for_once_changes_little() -> None:
    jobs = [past(100.0), past(102.0), past(9_000.0, idle=5_000.0)]
    assert expected_seconds("finetune", model(), TOKENS, jobs) == 122


def test_jobs_on_the_same_model_tell_more_than_any_others() -> None:
    jobs = [past(100.0), past(1.0, of=model(2)), past(1.0, of=model(2))]
    assert expected_seconds("finetune", model(), TOKENS, jobs) == 120


def test_of_a_model_that_nobody_used_the_size_tells() -> None:
    larger = model(2, params=2 * model().params)
    assert expected_seconds("finetune", larger, TOKENS, [past(100.0)]) == 220


def test_jobs_of_another_type_tell_nothing() -> None:
    assert expected_seconds("contract", model(), TOKENS, [past(100.0)]) is None


def test_what_nobody_has_ever_run_nobody_knows() -> None:
    assert expected_seconds("finetune", model(), TOKENS, []) is None


def test_an_interrupted_job_tells_its_pace_but_not_what_it_waited_for() -> None:
    jobs = [past(100.0, idle=9_000.0, retries=1)]
    assert expected_seconds("finetune", model(), TOKENS, jobs) == 100


@pytest.mark.parametrize(
    "job",
    [
        past(0.0),
        past(1.0, stopped_early=True),
        past(100.0, of=model(params=0)),
        replace(past(100.0), result=None),
        replace(past(100.0), tokens_planned=0),
    ],
)
def test_a_job_that_measured_nothing_is_left_out(job: Past) -> None:
    assert expected_seconds("finetune", model(), TOKENS, [job]) is None
    assert expected_seconds("finetune", model(), TOKENS, [job, past(100.0)]) == 120


def test_ten_years_are_no_expectation() -> None:
    enormous = model(2, params=10**13)
    assert expected_seconds("finetune", enormous, 10**13, [past(100.0)]) is None


@given(
    gpu_seconds=st.floats(0.001, 1e6),
    tokens=st.integers(1, 10**13),
    params=st.integers(0, 2**53),
)
def test_an_answer_is_always_a_number_of_seconds_that_can_be_told(
    gpu_seconds: float, tokens: int, params: int
) -> None:
    seconds = expected_seconds("finetune", model(2, params), tokens, [past(gpu_seconds)])
    assert seconds is None or 0 <= seconds <= LONGEST + 1
    assert msgspec.json.encode(seconds)
