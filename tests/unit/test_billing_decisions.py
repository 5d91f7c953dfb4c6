"""A card's payment, given what happened, when something is asked, then what follows. Pure."""

from datetime import datetime, timedelta
from functools import reduce
from typing import Literal
from uuid import UUID

import pytest
from msgspec.structs import replace

from libs.contracts.billing import (
    PaymentActionRequired,
    PaymentBilled,
    PaymentCaptured,
    PaymentCharged,
    PaymentChargeStarted,
    PaymentDeclined,
    PaymentDisputeClosed,
    PaymentDisputed,
    PaymentEvent,
    PaymentPledged,
    PaymentRefunded,
    PaymentRefundStarted,
    PaymentReserved,
    PaymentWaived,
    PaymentWrittenOff,
)
from services.billing.decisions import (
    RETRY_AFTER,
    RefundTooMuch,
    SavedCard,
    decide_answer,
    decide_charge,
    decide_dispute_closed,
    decide_new_card,
    decide_outcome,
    decide_refund,
    decide_refunded,
    decide_settle,
)
from services.billing.ledger import posted_by
from services.billing.model import AT_ONCE, NEVER, Payment, fold
from services.billing.provider import ActionRequired, Charged, Declined
from services.billing.write_offs import NothingOverdue, NotYet, decide_write_off
from tests.support.jobs import NOON

JOB, REFUND, OTHER = UUID(int=1), UUID(int=2), UUID(int=3)
CARD = SavedCard(customer_id="cus_1", payment_method_id="pm_1")
NEW = SavedCard(customer_id="cus_1", payment_method_id="pm_2")

PLEDGED = PaymentPledged(amount_cents=700, currency="USD", attempt=1)
BILLED = PaymentBilled(amount_cents=700)
STARTED = PaymentChargeStarted(
    attempt=1,
    amount_cents=700,
    currency="USD",
    idempotency_key=f"{JOB}:1",
    customer_id="cus_1",
    payment_method_id="pm_1",
)
DECLINED = PaymentDeclined(
    attempt=1, amount_cents=700, code="c", message="m", retry_at=NOON + RETRY_AFTER[0]
)
CHARGED = PaymentCharged(attempt=1, amount_cents=700, payment_id="pi_1")
ACTION = PaymentActionRequired(
    attempt=1, amount_cents=700, payment_id="pi_1", url=None, retry_at=NOON + RETRY_AFTER[0]
)
WRITTEN_OFF = PaymentWrittenOff(amount_cents=700, debt="charge", reason="r")


def given(*events: PaymentEvent) -> Payment:
    return reduce(lambda payment, event: fold(payment, event, NOON), events, Payment())


def due(*events: PaymentEvent) -> datetime:
    return given(*events).due_at


def test_what_is_due_follows_from_the_events_alone() -> None:
    assert due(PLEDGED) == NEVER
    assert due(PLEDGED, BILLED) == AT_ONCE
    assert due(PLEDGED, BILLED, STARTED) == AT_ONCE
    assert due(PLEDGED, BILLED, STARTED, DECLINED) == NOON + RETRY_AFTER[0]
    assert due(PLEDGED, BILLED, STARTED, replace(DECLINED, retry_at=None)) == NEVER
    assert due(PLEDGED, BILLED, STARTED, CHARGED) == NEVER
    begun = PaymentRefundStarted(refund_id=REFUND, amount_cents=1, reason="r")
    assert due(PLEDGED, BILLED, STARTED, CHARGED, begun) == AT_ONCE


def test_a_billed_job_is_charged_in_its_first_attempt_under_a_key_of_its_own() -> None:
    assert decide_charge(given(PLEDGED, BILLED), CARD, JOB, NOON) == STARTED


def test_an_attempt_without_an_outcome_is_not_followed_by_another() -> None:
    assert decide_charge(given(PLEDGED, BILLED, STARTED), CARD, JOB, NOON) is None
    assert decide_new_card(given(PLEDGED, BILLED, STARTED), NEW, JOB) is None


def test_a_declined_charge_is_tried_again_when_its_time_has_come() -> None:
    payment = given(PLEDGED, BILLED, STARTED, DECLINED)
    assert decide_charge(payment, CARD, JOB, NOON) is None
    again = decide_charge(payment, CARD, JOB, NOON + RETRY_AFTER[0])
    assert again == replace(STARTED, attempt=2, idempotency_key=f"{JOB}:2")


@pytest.mark.parametrize("failure", [DECLINED, ACTION])
def test_only_another_card_is_tried_before_that(failure: PaymentEvent) -> None:
    payment = given(PLEDGED, BILLED, STARTED, failure)
    assert decide_new_card(payment, CARD, JOB) is None
    again = decide_new_card(payment, NEW, JOB)
    assert isinstance(again, PaymentChargeStarted)
    assert (again.attempt, again.payment_method_id) == (2, "pm_2")


def test_another_card_has_the_whole_schedule_again() -> None:
    second = replace(STARTED, attempt=2, payment_method_id="pm_2")
    payment = given(PLEDGED, BILLED, STARTED, DECLINED, DECLINED, second)
    refused = Declined(payment_id=None, code="c", message="m", final=False)
    answer = decide_outcome(payment, 2, refused, NOON)
    assert isinstance(answer, PaymentDeclined)
    assert answer.retry_at == NOON + RETRY_AFTER[0]


@pytest.mark.parametrize(
    "failure",
    [
        Declined(payment_id=None, code="c", message="m", final=True),
        ActionRequired(payment_id="pi_1", url=None),
    ],
)
def test_a_card_saved_while_the_question_was_out_is_tried_with_its_outcome(
    failure: Declined | ActionRequired,
) -> None:
    """And the charge that waits for approval is known, so that it is withdrawn before."""
    payment = given(PLEDGED, BILLED, STARTED)
    said, following = decide_answer(payment, 1, failure, NEW, JOB, NOON)
    assert isinstance(following, PaymentChargeStarted)
    assert (following.attempt, following.payment_method_id) == (2, "pm_2")
    trying = reduce(lambda p, e: fold(p, e, NOON), (said, following), payment)
    waits = isinstance(failure, ActionRequired)
    assert (trying.status, trying.due_at, trying.waiting is not None) == (
        "charging",
        AT_ONCE,
        waits,
    )
    for card in (CARD, None):
        assert len(decide_answer(payment, 1, failure, card, JOB, NOON)) == 1
    paid = Charged(payment_id="pi_1")
    assert decide_answer(payment, 1, paid, NEW, JOB, NOON) == [CHARGED]
    assert decide_answer(trying, 1, failure, NEW, JOB, NOON) == []


def test_an_outcome_is_recorded_once_and_only_of_the_attempt_that_it_is_of() -> None:
    payment = given(PLEDGED, BILLED, STARTED)
    paid = Charged(payment_id="pi_1")
    assert decide_outcome(payment, 1, paid, NOON) == CHARGED
    assert decide_outcome(payment, 2, paid, NOON) is None
    assert decide_outcome(fold(payment, CHARGED, NOON), 1, paid, NOON) is None


def test_a_pledge_below_the_cards_minimum_is_waived() -> None:
    payment = given(PLEDGED)
    assert decide_settle(payment, 49, "r", card_minimum=50) == PaymentWaived(
        amount_cents=49, reason="r"
    )
    assert decide_settle(payment, 50, "r", card_minimum=50) == PaymentBilled(amount_cents=50)
    assert decide_settle(payment, 900, "r", card_minimum=50) == BILLED


def test_the_account_is_held_until_the_card_has_paid_not_while_it_is_tried() -> None:
    declined = given(PLEDGED, BILLED, STARTED, DECLINED)
    trying = fold(declined, replace(STARTED, attempt=2), NOON)
    assert (declined.hold, trying.hold) == ("payment_declined", "payment_declined")
    assert fold(trying, replace(CHARGED, attempt=2), NOON).hold is None


def test_a_dispute_holds_the_account_until_it_is_won() -> None:
    opened = PaymentDisputed(dispute_id="dp_1", amount_cents=700, reason="r")
    payment = given(PLEDGED, BILLED, STARTED, CHARGED, opened)
    assert payment.hold == "payment_disputed"
    for won, hold in ((True, None), (False, "payment_disputed")):
        closed = decide_dispute_closed(payment, "dp_1", 700, won=won)
        assert reduce(lambda p, e: fold(p, e, NOON), closed, payment).hold == hold


def test_the_end_of_a_dispute_may_be_the_first_that_is_heard_of_it() -> None:
    payment = given(PLEDGED, BILLED, STARTED, CHARGED)
    assert len(decide_dispute_closed(payment, "dp_1", 700, won=True)) == 2


def test_refunds_never_exceed_what_was_taken() -> None:
    reserved = PaymentReserved(amount_cents=700, currency="USD", attempt=1)
    payment = given(reserved, PaymentCaptured(amount_cents=120, released_cents=580))
    assert decide_refund(payment, REFUND, 121, "r") == RefundTooMuch(refundable_cents=120)
    back = decide_refund(payment, REFUND, None, "r")
    assert isinstance(back, PaymentRefunded)
    assert (back.amount_cents, back.to) == (120, "balance")
    payment = fold(payment, back, NOON)
    assert decide_refund(payment, REFUND, 1, "r") is None
    assert decide_refund(payment, OTHER, 1, "r") == RefundTooMuch(refundable_cents=0)


def test_a_refund_made_at_the_provider_is_not_taken_for_one_of_several_of_ours() -> None:
    one = PaymentRefundStarted(refund_id=REFUND, amount_cents=100, reason="r")
    payment = given(PLEDGED, BILLED, STARTED, CHARGED, one)
    ours = decide_refunded(payment, "re_1", 100, None)
    assert isinstance(ours, PaymentRefunded)
    assert ours.refund_id == REFUND
    foreign = decide_refunded(payment, "re_1", 99, None)
    assert isinstance(foreign, PaymentRefunded)
    assert foreign.refund_id not in (REFUND, OTHER)
    both = fold(payment, replace(one, refund_id=OTHER), NOON)
    assert decide_refunded(both, "re_1", 100, None) is None
    assert decide_refunded(both, "re_1", 100, OTHER) is not None


def test_only_what_no_card_can_pay_any_more_is_written_off() -> None:
    owed = (PLEDGED, BILLED, STARTED, DECLINED)
    lost = PaymentDisputeClosed(dispute_id="dp_1", amount_cents=300, won=False)
    paid = (PLEDGED, BILLED, STARTED, CHARGED)

    def decided(*events: PaymentEvent, withdrawn: str | None = None) -> object:
        return decide_write_off(given(*events), "r", withdrawn)

    assert decided(*owed) == WRITTEN_OFF
    assert decided(*owed, WRITTEN_OFF) == decided(*paid) == NothingOverdue()
    assert isinstance(decided(PLEDGED, BILLED), NotYet)
    assert isinstance(decided(*owed, replace(STARTED, attempt=2)), NotYet)
    asked = (PLEDGED, BILLED, STARTED, ACTION)
    assert isinstance(decided(*asked, withdrawn="pi_0"), NotYet)
    assert decided(*asked, withdrawn="pi_1") == WRITTEN_OFF
    dispute = PaymentDisputed(dispute_id="dp_1", amount_cents=300, reason="r")
    assert isinstance(decided(*paid, dispute), NotYet)
    given_up = replace(WRITTEN_OFF, amount_cents=300, debt="dispute")
    assert decided(*paid, dispute, lost) == given_up
    assert decided(*paid, dispute, lost, given_up) == NothingOverdue()


def test_what_was_written_off_holds_nobody_and_is_not_charged_again() -> None:
    payment = given(PLEDGED, BILLED, STARTED, ACTION, WRITTEN_OFF)
    assert (payment.hold, payment.due_at, payment.refundable_cents) == (None, NEVER, 0)
    assert decide_new_card(payment, NEW, JOB) is None
    assert decide_charge(payment, NEW, JOB, NOON) is None
    assert decide_outcome(payment, 1, Charged(payment_id="pi_1"), NOON) is None


@pytest.mark.parametrize("debt", ["charge", "dispute"])
def test_a_write_off_is_balanced(debt: Literal["charge", "dispute"]) -> None:
    posted = posted_by(replace(WRITTEN_OFF, debt=debt), UUID(int=9))
    assert posted is not None
    assert sum(posted.postings.values()) == 0
    assert posted.postings["written_off"] == -700


@pytest.mark.parametrize("event", [BILLED, CHARGED, PLEDGED, STARTED, DECLINED, ACTION])
def test_every_entry_is_balanced_and_questions_move_no_money(event: PaymentEvent) -> None:
    posted = posted_by(event, UUID(int=9))
    assert (posted is not None) == isinstance(event, PaymentBilled | PaymentCharged)
    assert posted is None or sum(posted.postings.values()) == 0


def test_the_schedule_goes_on_for_two_weeks() -> None:
    assert sum(RETRY_AFTER, timedelta()) > timedelta(days=14)
