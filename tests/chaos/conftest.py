"""A platform to be broken."""

from collections.abc import Iterator

import pytest

from tests.support.kills import Jobs
from tests.support.local_stack import LocalStack, local_stack


@pytest.fixture(scope="session")
def stack() -> Iterator[LocalStack]:
    with local_stack() as running:
        yield running


@pytest.fixture(scope="module")
def pair() -> Iterator[LocalStack]:
    """Two of every service."""
    with local_stack(replicas=2) as stack:
        yield stack


@pytest.fixture(scope="session")
def jobs(stack: LocalStack) -> Jobs:
    return Jobs(stack)


@pytest.fixture(scope="session")
def unbroken(jobs: Jobs) -> str:
    """A job that nobody disturbs, to compare with."""
    job_id = jobs.submit()
    jobs.whole(job_id)
    return job_id
