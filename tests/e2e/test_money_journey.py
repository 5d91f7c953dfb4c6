"""Money as its owner meets it: pay in, run, be declined, mend the card, go on, and read why."""

import asyncio
import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from deploy.reconcile import differences
from tests.support.customer import (
    DECLINED_ALWAYS,
    DECLINED_AT_CHARGE,
    WORKS,
    WORKS_TOO,
    Customer,
)
from tests.support.journey import ENDED, RUN_SECONDS, Json, fetch, run_form, sample_rows
from tests.support.local_stack import LocalStack, eventually

TOP_UP = 1_000  # cents
ROWS = 300  # of a run that is cancelled: enough to catch it at work
JOB_ROWS = 40
STEPS = 4
EXTENSION = timedelta(days=30)


@pytest.fixture
def customer(stack: LocalStack) -> Iterator[Customer]:
    somebody = Customer(stack)
    yield somebody
    somebody.close()


def test_every_cent_from_the_first_top_up_to_the_last_charge_is_explained(
    stack: LocalStack, customer: Customer
) -> None:
    dataset_id = customer.user.upload(sample_rows(JOB_ROWS))
    nothing_can_be_had_for_nothing(customer, dataset_id)
    money_is_paid_in(customer)
    share = a_cancelled_run_costs_its_share(customer)
    job = a_job_is_done_on_a_card_that_then_declines(stack, customer, dataset_id)
    what_is_owed_comes_first(customer, dataset_id, job)
    billing_is_killed_and_knows_what_it_knew(stack, customer, job)
    a_working_card_mends_it_all(customer, job)
    extension = the_files_are_kept_longer(customer, job)
    the_ledger_explains_it(customer, share=share, job=job, extension=extension)
    the_provider_says_the_same(customer, job)
    a_subscription_raises_the_limits(customer)
    assert "agree" in stack.run("reconcile")
    assert books_differ(stack) == []
    stack.assert_the_log_holds()


def books_differ(stack: LocalStack) -> list[str]:
    """What the reconciler will say in an hour, when nothing is too young for it any more."""
    soon = datetime.now(UTC) + timedelta(hours=1)
    return asyncio.run(differences({}, stack.folder, days=1, now=soon))


def a_subscription_raises_the_limits(customer: Customer) -> None:
    assert customer.me()["limits"]["max_api_keys"] == 3
    customer.use_card(customer.subscription_page("plus"), WORKS)
    me = customer.until_me("on Plus", subscription="plus", plan="plus")
    assert me["limits"]["max_api_keys"] == 20


def nothing_can_be_had_for_nothing(customer: Customer, dataset_id: str) -> None:
    refused = customer.send_job(dataset_id, steps=STEPS)
    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "insufficient_balance")
    run = customer.user.api.post("/api/v1/runs", **run_form(sample_rows(JOB_ROWS)))
    assert (run.status_code, run.json()["error"]["code"]) == (402, "insufficient_balance")
    me = customer.me()
    assert (customer.user.balance(), me["has_card"], me["paused"]) == (0, False, False)
    assert customer.ledger() == []


def money_is_paid_in(customer: Customer) -> None:
    """At the first try with a card that the bank refuses, which costs nothing. The balance rises
    by the provider's event; until it comes, the reconciler misses the money."""
    page = customer.top_up_page(TOP_UP)
    refused = customer.fill_in(page, DECLINED_ALWAYS)
    assert refused.status_code == 402
    assert "Try another card" in refused.text
    assert customer.moved_at_provider() == []

    with customer.late_events():
        customer.use_card(page, WORKS)
        (missing,) = books_differ(customer.stack)
        assert customer.account_id in missing
        assert f"moved {TOP_UP} cents, the ledger has no entry" in missing
        assert customer.user.balance() == 0
    customer.until_balance(TOP_UP)
    assert customer.me()["has_card"] is False  # to pay once is not to save a card


def a_cancelled_run_costs_its_share(customer: Customer) -> int:
    """What it cost, in cents."""
    user = customer.user
    created = user.submit_run(sample_rows(ROWS))
    assert user.balance() == created["balance_after_cents"] == TOP_UP - created["price_cents"]
    assert customer.summary()["reserved_cents"] == created["price_cents"]
    user.until_step(created["run_id"], 2)
    user.cancel(created["run_id"])
    share: int = user.until_ended(created["run_id"])["charge_cents"]
    assert 0 < share < created["price_cents"]
    assert user.balance() == TOP_UP - share
    return share


def a_job_is_done_on_a_card_that_then_declines(
    stack: LocalStack, customer: Customer, dataset_id: str
) -> Json:
    """Billing is killed between the job's end and its charge. The completed job."""
    user, before = customer.user, customer.user.balance()
    customer.use_card(customer.card_page(), DECLINED_AT_CHARGE)
    customer.until_me("with a card", has_card=True)

    trainer, billing = stack.pid("trainer-0"), stack.pid("billing")
    assert trainer is not None
    assert billing is not None
    os.kill(trainer, signal.SIGSTOP)  # until billing hears nothing of the end
    accepted = customer.send_job(dataset_id, steps=STEPS, priority=True)
    assert accepted.status_code == 201, accepted.text
    job_id = accepted.json()["id"]
    assert "payment.pledged" in user.kinds(job_id)
    assert user.balance() == before
    assert customer.summary()["reserved_cents"] == 0

    os.kill(billing, signal.SIGSTOP)  # it hears of the end, and dies before it does anything
    os.kill(trainer, signal.SIGCONT)
    ended = eventually(
        lambda: user.job(job_id), lambda job: job["status"] in ENDED, RUN_SECONDS, "an end"
    )
    assert ended["status"] == "completed", ended
    assert "payment.billed" not in user.kinds(job_id)
    stack.kill("billing")
    stack.recovered()

    customer.until_kind(job_id, "payment.declined")
    return user.job(job_id)


def what_is_owed_comes_first(customer: Customer, dataset_id: str, job: Json) -> None:
    me = customer.me()
    assert (me["paused"], me["paused_reason"]) == (True, "payment_declined")

    withheld = customer.user.api.get(f"/v1/jobs/{job['id']}/download")
    error = withheld.json()["error"]
    assert (withheld.status_code, error["code"]) == (402, "payment_required")
    assert error["details"]["reason"] == "payment_declined"
    assert error["details"]["amount_cents"] == job["price_cents"]
    assert datetime.fromisoformat(error["details"]["retry_at"]) > datetime.now(UTC)

    another = customer.send_job(dataset_id, steps=STEPS)
    assert (another.status_code, another.json()["error"]["code"]) == (402, "payment_required")
    assert "POST /v1/jobs/setup-card" in another.json()["error"]["message"]


def billing_is_killed_and_knows_what_it_knew(
    stack: LocalStack, customer: Customer, job: Json
) -> None:
    stack.kill("billing")
    stack.recovered()
    assert customer.me()["paused"] is True
    assert customer.user.kinds(job["id"]).count("payment.charge_started") == 1


def a_working_card_mends_it_all(customer: Customer, job: Json) -> None:
    before = customer.user.balance()
    customer.use_card(customer.card_page(), WORKS_TOO)
    customer.until_kind(job["id"], "payment.charged")
    me = customer.me()
    assert (me["paused"], me["paused_reason"], me["has_card"]) == (False, None, True)
    assert customer.user.balance() == before

    files = customer.user.files(job["id"])
    assert files
    for file in files.values():
        assert len(fetch(file["url"])) == file["size_bytes"]


def the_files_are_kept_longer(customer: Customer, job: Json) -> int:
    """What that cost, in cents."""
    before = customer.user.balance()
    path, key = f"/v1/jobs/{job['id']}/extend-storage", {"Idempotency-Key": "keep-them"}
    answer = customer.user.api.post(path, headers=key)
    assert answer.status_code == 200, answer.text
    bought = answer.json()
    expiry = customer.user.job(job["id"])["artifacts_expires_at"]
    assert bought["artifacts_expires_at"] == expiry
    former = datetime.fromisoformat(job["artifacts_expires_at"])
    assert datetime.fromisoformat(expiry) == former + EXTENSION
    assert customer.user.balance() == before - bought["price_cents"]
    assert customer.user.api.post(path, headers=key).json() == bought
    price: int = bought["price_cents"]
    return price


def the_ledger_explains_it(customer: Customer, *, share: int, job: Json, extension: int) -> None:
    entries, price = customer.ledger(), job["charge_cents"]
    assert [entry["kind"] for entry in entries] == [
        *("top_up", "reserve", "capture", "bill", "charge", "extension"),
    ]
    balance = 0
    for entry in entries:
        postings = {p["ledger_account"]: p["amount_cents"] for p in entry["postings"]}
        assert sum(postings.values()) == 0
        assert entry["amount_cents"] == postings.get("available", 0)
        balance += entry["amount_cents"]
        assert entry["balance_after_cents"] == balance
        assert entry["memo"]
    assert balance == customer.user.balance() == TOP_UP - share - extension
    assert [entry["job_id"] for entry in entries[3:]] == [job["id"]] * 3

    summary = customer.summary()
    assert summary == {
        "currency": "USD",
        "lifetime_spend_cents": share + price + extension,
        "jobs_charged": 2,
        "storage_extension_cents": extension,
        "storage_extensions": 1,
        "balance_cents": balance,
        "reserved_cents": 0,
    }
    paid_in = TOP_UP + price
    assert paid_in == summary["lifetime_spend_cents"] + summary["balance_cents"]


def the_provider_says_the_same(customer: Customer, job: Json) -> None:
    moved = customer.moved_at_provider()
    assert [(each["kind"], each["amount"]) for each in moved] == [
        ("charge", TOP_UP),
        ("charge", job["charge_cents"]),
    ]
    assert [each["metadata"].get("job_id") for each in moved] == [None, job["id"]]
    by_card = [
        -posting["amount_cents"]
        for entry in customer.ledger()
        for posting in entry["postings"]
        if posting["ledger_account"] == "card"
    ]
    assert by_card == [each["amount"] for each in moved]
