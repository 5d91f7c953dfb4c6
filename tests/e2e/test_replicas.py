"""Two of every service, and some of them killed while jobs run. `just chaos` has the storm."""

from collections.abc import Iterator

import pytest

from tests.support.after_storm import assert_whole
from tests.support.local_stack import LocalStack, local_stack
from tests.support.storm import SERVERS, StandIns, Storm

SEED = 8
JOBS = 12
KILLS = 5
EVERY = 1.5  # seconds
LONGEST = 300.0  # seconds until the last job has ended, on a busy machine


@pytest.fixture(scope="module")
def pair() -> Iterator[LocalStack]:
    with local_stack(replicas=2) as stack:
        yield stack


def test_two_of_every_service_lose_nothing_and_do_nothing_twice(pair: LocalStack) -> None:
    trainers = StandIns(pair, 1)
    try:
        storm = Storm(pair, trainers, seed=SEED)
        jobs = storm.submit(JOBS)
        victims = [name for name in storm.victims() if name not in SERVERS]
        storm.rage(KILLS, every=EVERY, victims=victims)
        ended = storm.until_ended(jobs, LONGEST)
        assert_whole(storm, jobs, ended)
    finally:
        trainers.stop()
