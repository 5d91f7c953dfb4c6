"""More of the state machine: what card holders' banks take back, and what an operator gives up."""

from contextlib import suppress
from typing import Literal
from uuid import uuid4

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from msgspec import Struct

from services.billing import ledger, write_offs
from services.billing.provider_events import Subject
from services.billing.provider_reactions import NotPaidYet, reactions
from tests.support.ledger_jobs import Job
from tests.support.ledger_machine import LedgerMachine


class Dispute(Struct, kw_only=True):
    """As the provider has it; billing hears of it when it hears of it."""

    id: str
    payment_id: str
    cents: int
    state: Literal["needs_response", "won", "lost"] = "needs_response"


class WholeMachine(LedgerMachine):
    def __init__(self) -> None:
        super().__init__()
        self.disputes: list[Dispute] = []

    @precondition(lambda self: any(m.kind == "charge" for m in self.provider.moved))
    @rule(data=st.data())
    def dispute(self, data: st.DataObject) -> None:
        """A charge is disputed once at most; of it, all or a part."""
        known = {one.payment_id for one in self.disputes}
        paid = [m for m in self.provider.moved if m.kind == "charge" and m.id not in known]
        if paid:
            charge = data.draw(st.sampled_from(paid))
            cents = data.draw(st.integers(1, charge.amount_cents))
            made = Dispute(id=f"dp_{uuid4()}", payment_id=charge.id, cents=cents)
            assert charge.job_id is not None
            self.provider.dispute(made.id, charge.job_id, cents)
            self.disputes.append(made)

    @precondition(lambda self: any(d.state == "needs_response" for d in self.disputes))
    @rule(data=st.data(), won=st.booleans())
    def decide_dispute(self, data: st.DataObject, *, won: bool) -> None:
        open_ones = [d for d in self.disputes if d.state == "needs_response"]
        self._decide_dispute(data.draw(st.sampled_from(open_ones)), won=won)

    def _decide_dispute(self, dispute: Dispute, *, won: bool) -> None:
        dispute.state = "won" if won else "lost"
        if won:
            self.provider.give_back(dispute.id)

    @precondition(lambda self: self.disputes)
    @rule(data=st.data(), closed=st.booleans())
    def tell_of_dispute(self, data: st.DataObject, *, closed: bool) -> None:
        dispute = data.draw(st.sampled_from(self.disputes))
        if dispute.state != "needs_response" or not closed:
            self.run(self._tell_of_dispute(dispute, closed=closed))

    async def _tell_of_dispute(self, dispute: Dispute, *, closed: bool) -> None:
        subject = Subject(
            id=dispute.id,
            payment_intent=dispute.payment_id,
            amount=dispute.cents,
            status=dispute.state,
            reason="fraudulent",
        )
        react = reactions(self.billing)["charge.dispute." + ("closed" if closed else "created")]
        with suppress(NotPaidYet):  # the answer to the charge was lost; it comes again
            await react(subject)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def write_off(self, data: st.DataObject) -> None:
        self.run(self._write_off(self._job(data)))

    async def _write_off(self, job: Job) -> None:
        answer = await write_offs.write_off(self.billing, job.request.job_id, "gone")
        if isinstance(answer, write_offs.Settled) and answer.debt == "charge":
            job.written_off = True

    async def _settle(self) -> None:
        """Also the banks have decided, and the operator has given up what was lost."""
        await super()._settle()
        for dispute in self.disputes:
            if dispute.state == "needs_response":
                self._decide_dispute(dispute, won=False)
            await self._tell_of_dispute(dispute, closed=True)
        for job in self.jobs.values():
            await self._write_off(job)
        await self._check_end()
        card = await self.books.admin.fetchval(
            "SELECT coalesce(sum(amount_cents), 0) FROM billing.posting WHERE ledger_account = $1",
            ledger.CARD,
        )
        assert -card == sum(moved.amount_cents for moved in self.provider.moved)
        held = await self.books.admin.fetch("SELECT * FROM billing.payment WHERE hold <> ''")
        assert held == []
