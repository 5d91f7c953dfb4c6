"""How a run ends otherwise: cancelled, failed, refused; and what that costs."""

import time

import pytest

from tests.support.flood import flood
from tests.support.journey import User, run_form, sample_rows
from tests.support.local_stack import LocalStack, eventually

CANCEL_SECONDS = 5.0  # the bar: a cancellation reaches a running trainer within it
TRIES = 3  # a machine that is busy may take more of it, but not every time
LONG = 2_000  # rows: far more training than anyone here waits for


@pytest.mark.alone  # here seconds are counted
def test_cancelling_a_running_run_stops_it_in_time_and_costs_its_share(user: User) -> None:
    taken = [cancelled(user)]
    while min(taken) >= CANCEL_SECONDS and len(taken) < TRIES:
        taken.append(cancelled(user))
    assert min(taken) < CANCEL_SECONDS, taken


def cancelled(user: User) -> float:
    """Seconds that it took, of one that has cost its share."""
    before = user.balance()
    created = user.submit_run(sample_rows(LONG))
    run_id, price = created["run_id"], created["price_cents"]
    user.until_step(run_id, 2)

    asked = time.monotonic()
    assert user.cancel(run_id)["cancel_requested"] is True
    job = eventually(
        lambda: user.job(run_id), lambda job: job["status"] == "cancelled", 60, "cancelled"
    )
    seconds = time.monotonic() - asked

    user.until_ended(run_id)
    assert 0 < job["tokens_processed"] < job["tokens_planned"]
    share = -(-price * job["tokens_processed"] // job["tokens_planned"])
    assert job["charge_cents"] == share
    assert 0 < share < price
    assert user.balance() == before - share
    assert user.api.get(f"/v1/jobs/{run_id}/result").status_code == 404
    return seconds


def test_cancelling_a_queued_run_costs_nothing(user: User) -> None:
    before = user.balance()
    ahead = user.submit_run(sample_rows(LONG))["run_id"]
    user.until_running(ahead)  # of two in the queue, either may be the first to leave it
    waiting = user.submit_run(sample_rows(LONG))["run_id"]
    assert user.balance() < before
    assert user.cancel(waiting)["status"] == "cancelled"
    user.cancel(ahead)
    for run_id in (waiting, ahead):
        user.until_ended(run_id)
    assert user.job(waiting)["charge_cents"] == 0
    assert user.balance() == before - user.job(ahead)["charge_cents"]
    again = user.api.post(f"/v1/jobs/{waiting}/cancel")
    assert (again.status_code, again.json()["status"]) == (200, "cancelled")


def test_a_data_set_that_cannot_be_trained_on_fails_with_a_reason_and_costs_nothing(
    user: User,
) -> None:
    before = user.balance()
    created = user.submit_run(sample_rows(1) * 2)  # nothing is left beside the held-out row
    job = user.until_ended(created["run_id"])
    assert (job["status"], job["charge_cents"], job["retries"]) == ("failed", 0, 0)
    assert job["error"]["code"] == "invalid_dataset"
    assert "add other rows" in job["error"]["message"]
    assert user.balance() == before
    run = user.get(f"/api/v1/runs/{created['run_id']}")["run"]
    assert (run["status"], run["error"]) == ("failed", job["error"])


def test_a_balance_that_is_too_low_is_402_and_nothing_is_queued(stack: LocalStack) -> None:
    poor = User(stack, stack.new_account(299)[1])
    refused = poor.api.post("/api/v1/runs", **run_form(sample_rows(10)))
    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "insufficient_balance")
    assert poor.balance() == 299
    assert poor.get("/api/v1/runs")["data"] == []


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"model_id": "llama-3.1-70b"}, 422, "model_not_available"),
        ({"model_terms_accepted": "false"}, 422, "consent_required"),
        ({"data_policy_accepted": "perhaps"}, 422, "validation_failed"),
    ],
)
def test_a_run_that_is_refused_leaves_nothing_behind(
    user: User, changes: dict[str, str], status: int, code: str
) -> None:
    before = user.balance()
    answer = user.api.post("/api/v1/runs", **run_form(sample_rows(10), **changes))
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert user.balance() == before
    assert user.get("/api/v1/runs")["data"] == []


async def test_one_idempotency_key_sent_at_once_is_one_run_and_one_debit(user: User) -> None:
    await flood(user, keys=5, at_once=8)
