"""A storm over two of everything in which processes are frozen (SIGSTOP) and go on, as on a machine
that is moved, sleeps, or swaps: from a moment up to longer than any lease, any message in hand and
any deadline of ours."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import product

import pytest

from tests.support.after_storm import assert_whole
from tests.support.journey import Json
from tests.support.local_stack import LocalStack
from tests.support.storm import SERVERS, Storm, storm_over

JOBS = 80
STAND_INS = 3  # beside a real trainer
EVERY = 2.0  # seconds between two faults
FAULTS = 60  # two minutes
KILLS = 0.2  # of all faults
LONGEST_FREEZE = 45.0  # seconds: a lease lapses after 10, a message in hand is given on after 10
SERVERS_EVERY = 12.0
SERVERS_SECONDS = (2.0, 12.0, 30.0)  # each: a statement has 10, a connection to NATS 20
LONGEST = 600.0  # seconds until the last job has ended, on a machine shared with others


@pytest.fixture
def storm(pair: LocalStack) -> Iterator[Storm]:
    seed = int.from_bytes(os.urandom(4))
    with storm_over(pair, stand_ins=STAND_INS, seed=seed) as storm:
        yield storm


def test_eighty_jobs_while_processes_freeze(storm: Storm) -> None:
    victims = [name for name in (*storm.victims(), "trainer-0") if name not in SERVERS]
    with ThreadPoolExecutor(1) as aside:
        submitted = aside.submit(storm.submit, JOBS, over=FAULTS * EVERY)
        storm.freeze_some(FAULTS, every=EVERY, longest=LONGEST_FREEZE, victims=victims, kills=KILLS)
        jobs = submitted.result()
    assert_ended(storm, jobs)


def test_eighty_jobs_while_servers_freeze(storm: Storm) -> None:
    freezes = storm.shuffled(list(product(SERVERS, SERVERS_SECONDS, (True, False))))
    with ThreadPoolExecutor(1) as aside:
        submitted = aside.submit(storm.submit, JOBS, over=len(freezes) * SERVERS_EVERY)
        for name, seconds, whole in freezes:
            time.sleep(SERVERS_EVERY)
            storm.freeze(name, seconds, whole=whole)
        jobs = submitted.result()
    assert_ended(storm, jobs)


def assert_ended(storm: Storm, jobs: list[str]) -> None:
    ended = storm.until_ended(jobs, LONGEST)
    assert_whole(storm, jobs, ended)
    print("killed:", dict(Counter(storm.killed)))
    print("frozen:", dict(Counter(storm.frozen)))
    print("jobs by retries:", dict(Counter(job["retries"] for job in ended)))
    print("slowest jobs, in seconds:", sorted(map(seconds_of, ended))[-5:])


def seconds_of(job: Json) -> float:
    """From a job's submission to its end."""
    created, ended = (datetime.fromisoformat(job[key]) for key in ("created_at", "finished_at"))
    return (ended - created).total_seconds()
