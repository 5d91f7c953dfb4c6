"""Two of every service, and some of them killed or frozen while jobs run. `just chaos` has the
storms."""

from collections.abc import Iterator

import pytest

from tests.support.after_storm import assert_whole
from tests.support.local_stack import LocalStack, local_stack
from tests.support.storm import SERVERS, Storm, storm_over

SEED = 8
JOBS = 12
KILLS = 5
EVERY = 1.5  # seconds
FROZEN = {"scheduler": 12.0, "stand-in-0": 12.0, "billing-2": 11.0, "relay": 3.0}
"""Seconds: longer than a lease lasts, than a message is in hand, than a relay leads in silence."""
LONGEST = 300.0  # seconds until the last job has ended, on a busy machine


@pytest.fixture(scope="module")
def pair() -> Iterator[LocalStack]:
    with local_stack(replicas=2) as stack:
        yield stack


@pytest.fixture
def storm(pair: LocalStack) -> Iterator[Storm]:
    with storm_over(pair, stand_ins=1, seed=SEED) as storm:
        yield storm


def test_two_of_every_service_lose_nothing_and_do_nothing_twice(storm: Storm) -> None:
    jobs = storm.submit(JOBS)
    victims = [name for name in storm.victims() if name not in SERVERS]
    storm.rage(KILLS, every=EVERY, victims=victims)
    ended = storm.until_ended(jobs, LONGEST)
    assert_whole(storm, jobs, ended)


def test_those_that_are_frozen_and_wake_do_nothing_twice(storm: Storm) -> None:
    jobs = storm.submit(JOBS)
    for name, seconds in FROZEN.items():
        storm.freeze(name, seconds)
    ended = storm.until_ended(jobs, LONGEST)
    assert_whole(storm, jobs, ended)
