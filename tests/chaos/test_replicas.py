"""A storm over two of everything: two hundred jobs, and a process killed every five seconds."""

import os
from collections import Counter

from tests.support.after_storm import assert_whole
from tests.support.local_stack import LocalStack
from tests.support.storm import storm_over

JOBS = 200
EVERY = 5.0  # seconds between two kills
KILLS = 24  # two minutes
STAND_INS = 3  # beside a real trainer
LONGEST = 1_200.0  # seconds until the last job has ended, on a machine shared with others


def test_two_hundred_jobs_in_a_storm(pair: LocalStack) -> None:
    with storm_over(pair, stand_ins=STAND_INS, seed=int.from_bytes(os.urandom(4))) as storm:
        jobs = storm.submit(JOBS)
        storm.rage(KILLS, every=EVERY, victims=[*storm.victims(), "trainer-0"])
        ended = storm.until_ended(jobs, LONGEST)
        assert_whole(storm, jobs, ended)
    print("killed:", dict(Counter(storm.killed)))
    print("jobs by retries:", dict(Counter(job["retries"] for job in ended)))
