"""Whose job is next: fairness as properties of a pure function."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from libs.contracts.training import FinetuneMethod, TrainParams
from services.scheduler.fairness import (
    AGED,
    MAX_LEASED_PER_ACCOUNT,
    Candidate,
    in_turn,
    memory_needed,
)
from tests.support.jobs import NOON, first_append, submission

candidates = st.lists(
    st.builds(
        Candidate,
        job_id=st.uuids(),
        account_id=st.uuids(),
        priority=st.booleans(),
        submitted_at=st.timedeltas(timedelta(hours=-2), timedelta()).map(lambda age: NOON + age),
        memory_bytes=st.integers(0, 100),
        leased=st.integers(0, MAX_LEASED_PER_ACCOUNT + 1),
        served_at=st.none() | st.timedeltas(timedelta(hours=-2), timedelta()).map(NOON.__add__),
    ),
    max_size=20,
)

WAITING = Candidate(
    job_id=UUID(int=1),
    account_id=UUID(int=1),
    priority=False,
    submitted_at=NOON,
    memory_bytes=10,
    leased=0,
    served_at=None,
)


@given(candidates, st.integers(0, 100))
def test_everyone_who_fits_gets_a_turn_and_nobody_else(
    waiting: list[Candidate], memory: int
) -> None:
    turns = in_turn(waiting, now=NOON, memory_bytes=memory)
    assert {c.job_id for c in turns} == {
        c.job_id for c in waiting if c.memory_bytes <= memory and c.leased < MAX_LEASED_PER_ACCOUNT
    }


@given(candidates)
def test_priority_comes_before_standard_unless_standard_has_waited_long(
    waiting: list[Candidate],
) -> None:
    turns = in_turn(waiting, now=NOON, memory_bytes=100)
    urgent = [c.priority or NOON - c.submitted_at >= AGED for c in turns]
    assert urgent == sorted(urgent, reverse=True)


@given(candidates)
def test_the_order_does_not_depend_on_how_the_rows_come(waiting: list[Candidate]) -> None:
    def rank(candidate: Candidate) -> tuple[object, ...]:
        return (candidate.submitted_at, candidate.leased, candidate.served_at)

    forth = in_turn(waiting, now=NOON, memory_bytes=100)
    back = in_turn(waiting[::-1], now=NOON, memory_bytes=100)
    assert [rank(c) for c in forth] == [rank(c) for c in back]


def test_the_account_with_fewer_running_jobs_is_next() -> None:
    busy = replace(WAITING, job_id=UUID(int=2), leased=2, submitted_at=NOON - timedelta(minutes=9))
    assert in_turn([busy, WAITING], now=NOON, memory_bytes=10) == [WAITING, busy]


def test_among_equals_the_one_served_longest_ago_is_next() -> None:
    recent = replace(WAITING, served_at=NOON - timedelta(minutes=1))
    earlier = replace(WAITING, job_id=UUID(int=2), served_at=NOON - timedelta(minutes=5))
    assert in_turn([recent, earlier], now=NOON, memory_bytes=10) == [earlier, recent]


def test_a_model_that_grows_needs_memory_for_what_it_will_be() -> None:
    def needed(**params: object) -> int:
        _, state = first_append(UUID(int=1), UUID(int=2), submission(**params))
        return memory_needed(state)

    def growing(cycles: int) -> int:
        params = TrainParams(cycles=cycles, learning_rate=1e-4, batch_size=8)
        return needed(job_type="train", params=None, train_params=params)

    assert needed() < growing(4) < growing(8) < growing(240) == growing(1000)


def test_what_learns_whole_needs_memory_for_it_and_an_adapter_needs_little() -> None:
    def needed(**params: object) -> int:
        _, state = first_append(UUID(int=1), UUID(int=2), submission(**params))
        return memory_needed(state)

    def tuned(method: FinetuneMethod) -> int:
        known = submission().params
        assert known is not None
        return needed(params=replace(known, method=method))

    def grown(**how: Any) -> int:
        params = TrainParams(cycles=1, learning_rate=1e-4, batch_size=8, **how)
        return needed(job_type="train", params=None, train_params=params)

    assert tuned("lora") == tuned("dpo") < tuned("full")
    assert grown() < grown(strategy="width") < tuned("full") < grown(trainable="all")
