"""A card provider in memory: it does as it is told, and counts every cent that moves.

As a real one, it does what is asked under one key once, and answers the same to a repetition; it
may do it and lose the answer.
"""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from uuid import UUID

from msgspec import Struct, field
from msgspec.structs import replace

from libs.contracts.base import Cents
from services.billing.provider import (
    ActionRequired,
    BadSignature,
    Card,
    Charge,
    Charged,
    Checkout,
    Customer,
    Declined,
    Movement,
    Plan,
    ProviderEvent,
    ProviderRefused,
    ProviderUnavailable,
    Refunded,
    Returning,
)

Outcome = Charged | Declined | ActionRequired
DECLINE = Declined(
    payment_id=None, code="insufficient_funds", message="Insufficient funds.", final=False
)


class ScriptedProvider(Struct, kw_only=True):
    """``behaviour`` is what each card does, by payment method: ``ok``, ``decline``, ``final`` or
    ``action``; a card that is not named works. ``lose_answers`` and ``unavailable`` count down."""

    now: datetime
    behaviour: dict[str, str] = field(default_factory=dict)
    lose_answers: int = 0
    unavailable: int = 0
    refuse_refunds: bool = False
    forgets_keys: bool = False
    calls: list[Charge] = field(default_factory=list)
    answers: dict[str, Outcome] = field(default_factory=dict)
    refunds: dict[str, Refunded] = field(default_factory=dict)
    moved: list[Movement] = field(default_factory=list)
    states: dict[str, Outcome] = field(default_factory=dict)
    charges: dict[str, Charge] = field(default_factory=dict)

    def cents_of(self, job_id: UUID) -> int:
        """What all charges and refunds of a job come to."""
        return sum(m.amount_cents for m in self.moved if m.job_id == job_id)

    def _reach(self) -> None:
        if self.unavailable > 0:
            self.unavailable -= 1
            raise ProviderUnavailable("the provider is away")

    def _answer(self) -> None:
        if self.lose_answers > 0:
            self.lose_answers -= 1
            raise ProviderUnavailable("the answer was lost")

    def _move(self, charge: Charge, payment_id: str) -> None:
        self.moved.append(
            Movement(
                kind="charge",
                id=payment_id,
                payment_id=payment_id,
                amount_cents=charge.amount_cents,
                currency=charge.currency,
                account_id=charge.account_id,
                job_id=charge.job_id,
                created_at=self.now,
            )
        )

    async def charge(self, charge: Charge) -> Outcome:
        self.calls.append(charge)
        self._reach()
        known = None if self.forgets_keys else self.answers.get(charge.key)
        if known is None:
            payment_id = f"pi_{charge.key}"
            known = self._decided(charge, payment_id)
            if isinstance(known, Charged):
                self._move(charge, payment_id)
            self.answers[charge.key] = self.states[payment_id] = known
            self.charges[payment_id] = charge
        self._answer()
        return known

    def _decided(self, charge: Charge, payment_id: str) -> Outcome:
        match self.behaviour.get(charge.payment_method_id, "ok"):
            case "ok":
                return Charged(payment_id=payment_id)
            case "action":
                return ActionRequired(payment_id=payment_id, url="https://cards.test/approve")
            case told:
                return Declined(
                    payment_id=payment_id,
                    code="insufficient_funds",
                    message="Insufficient funds.",
                    final=told == "final",
                )

    def approve(self, payment_id: str) -> None:
        """The card's owner approves; nothing happens when the charge was given up."""
        if isinstance(self.states[payment_id], ActionRequired):
            self.states[payment_id] = Charged(payment_id=payment_id)
            self._move(self.charges[payment_id], payment_id)

    async def payment(self, payment_id: str) -> Outcome:
        self._reach()
        return self.states[payment_id]

    async def purpose(self, payment_id: str) -> str | None:
        self._reach()
        return "job" if payment_id in self.charges else None

    async def cancel(self, payment_id: str) -> Charged | None:
        self._reach()
        state = self.states[payment_id]
        if isinstance(state, Charged):
            return state
        self.states[payment_id] = DECLINE
        return None

    async def refund(self, payment_id: str, *, amount_cents: Cents, key: str) -> Refunded:
        self._reach()
        if self.refuse_refunds:
            raise ProviderRefused("charge_already_refunded")
        if key not in self.refunds:
            answer = Refunded(refund_id=f"re_{key}", amount_cents=amount_cents)
            charge = self.charges[payment_id]
            self.refunds[key] = answer
            self.moved.append(
                Movement(
                    kind="refund",
                    id=answer.refund_id,
                    payment_id=payment_id,
                    amount_cents=-amount_cents,
                    currency=charge.currency,
                    account_id=charge.account_id,
                    job_id=charge.job_id,
                    created_at=self.now,
                )
            )
        self._answer()
        return self.refunds[key]

    def dispute(self, dispute_id: str, job_id: UUID, amount_cents: Cents) -> None:
        """A bank takes a part or all of a job's charge back."""
        charge = next(m for m in self.moved if (m.kind, m.job_id) == ("charge", job_id))
        self.moved.append(
            replace(
                charge,
                kind="dispute",
                id=dispute_id,
                amount_cents=-amount_cents,
                created_at=self.now,
            )
        )

    def give_back(self, dispute_id: str) -> None:
        """The dispute is won, and the bank returns what it took."""
        taken = next(m for m in self.moved if m.id == dispute_id)
        self.moved.append(replace(taken, amount_cents=-taken.amount_cents, created_at=self.now))

    @property
    def disputed(self) -> set[str]:
        return {movement.id for movement in self.moved if movement.kind == "dispute"}

    async def movements(self, since: datetime) -> AsyncIterator[Movement]:
        for movement in self.moved:
            if movement.created_at >= since:
                yield movement

    async def customer(self, customer: Customer) -> str:
        return f"cus_{customer.account_id}"

    def _page(self, key: str) -> Checkout:
        return Checkout(
            session_id=f"cs_{key}",
            url=f"https://cards.test/{key}",
            expires_at=self.now + timedelta(days=1),
        )

    async def set_up_card(self, customer_id: str, returning: Returning, *, key: str) -> Checkout:
        return self._page(key)

    async def top_up(
        self,
        customer_id: str,
        returning: Returning,
        *,
        account_id: UUID,
        amount_cents: Cents,
        currency: str,
        key: str,
    ) -> Checkout:
        return self._page(key)

    async def subscribe(
        self, customer_id: str, returning: Returning, *, account_id: UUID, plan: Plan, key: str
    ) -> Checkout:
        return self._page(key)

    async def portal(self, customer_id: str, *, return_url: str) -> str:
        return return_url

    async def card(self, customer_id: str) -> Card | None:
        return None

    async def adopt_card(self, customer_id: str, payment_method_id: str) -> None:
        return None

    async def subscription(self, customer_id: str) -> Plan | None:
        return None

    def event(self, payload: bytes, signature: str) -> ProviderEvent:
        raise BadSignature("this provider sends no events")
