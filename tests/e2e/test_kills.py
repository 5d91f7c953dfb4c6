"""``kill -9`` during runs: nothing is lost, nothing is paid twice, nothing comes out different."""

import signal
from collections.abc import Iterator

import pytest

from tests.support.journey import ENDED
from tests.support.kills import Asking, Jobs
from tests.support.local_stack import PROCESSES, local_stack

SERVICES = [
    name for name in PROCESSES if name not in ("postgres", "nats", "s3", "issuer", "sandbox")
]
"""What an upgrade replaces."""


@pytest.fixture(scope="module")
def jobs() -> Iterator[Jobs]:
    """On a stack of their own, which may be broken."""
    with local_stack() as stack:
        yield Jobs(stack)


@pytest.fixture(scope="module")
def unbroken(jobs: Jobs) -> str:
    """A job that nobody disturbs."""
    job_id = jobs.submit()
    assert jobs.whole(job_id)["retries"] == 0
    return job_id


def test_a_killed_trainers_job_is_resumed_and_gives_the_very_same_weights(
    jobs: Jobs, unbroken: str
) -> None:
    job_id = jobs.submit()
    job = jobs.killed_once(job_id, "trainer-0", after_step=25)

    assert job["retries"] == 1
    started = [e["payload"] for e in jobs.user.events(job_id) if e["kind"] == "job.started"]
    assert [attempt["attempt"] for attempt in started] == [1, 2]
    assert started[1]["resumed_from_step"] >= 10
    assert jobs.user.curve(job_id) == jobs.user.curve(unbroken)
    assert jobs.adapter(job_id) == jobs.adapter(unbroken)


def test_every_service_is_replaced_in_turn_as_by_an_upgrade_and_clients_only_repeat(
    jobs: Jobs, unbroken: str
) -> None:
    user, stack = jobs.user, jobs.stack
    before = user.balance()
    carried = [jobs.submit()]
    for name in SERVICES:
        if user.job(carried[-1])["status"] in ENDED:
            carried.append(jobs.submit())
        user.until_step(carried[-1], 1)
        with Asking(user, f"/v1/jobs/{unbroken}") as client:
            stack.kill(name, by=signal.SIGTERM)
            stack.recovered()
        allowed = {200, 503, 0} if name == "gateway" else {200, 503}
        assert set(client.answers) <= allowed, (name, client.answers)

    prices = [jobs.whole(job_id)["price_cents"] for job_id in carried]
    assert user.balance() == before - sum(prices)
    for job_id in carried:
        assert user.curve(job_id) == user.curve(unbroken)
        assert jobs.adapter(job_id) == jobs.adapter(unbroken)
    stack.assert_the_log_holds()


def test_every_process_is_killed_in_turn_while_jobs_run(jobs: Jobs, unbroken: str) -> None:
    user, stack = jobs.user, jobs.stack
    before = user.balance()
    broken = [jobs.submit()]
    for name in PROCESSES:
        if user.job(broken[-1])["status"] in ENDED:
            broken.append(jobs.submit())
        user.until_step(broken[-1], 1)
        stack.kill(name)
        stack.recovered()

    prices = [jobs.whole(job_id)["price_cents"] for job_id in broken]
    assert user.balance() == before - sum(prices)
    for job_id in broken:
        assert user.curve(job_id) == user.curve(unbroken)
        assert jobs.adapter(job_id) == jobs.adapter(unbroken)
    stack.assert_the_log_holds()
