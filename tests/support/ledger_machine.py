"""Money as a Hypothesis state machine: billing's handlers on a real PostgreSQL, in any order.

A job's life is told by events, and the bus may bring them late, twice and in any order: a rule
appends an event, another delivers any event there ever was. After every step the ledger adds up; in
the end, when everything was delivered and every card works, each job has cost what it should.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from msgspec.structs import replace

from libs.contracts.billing_rpc import ExtendStorage, Quote, Reserve, Reserved
from libs.contracts.gateway import JobSubmitted
from libs.contracts.scheduler import JobCancelled
from libs.eventlog.record import Context
from services.billing import accounts, charges, extensions, handlers, ledger, refunds
from services.billing.payments import Billing, Owner
from tests.support.jobs import NOON, Clock, complete, envelope, first_append, submission
from tests.support.ledger_checks import Books, check_books
from tests.support.ledger_jobs import COMPLETED, FAILED, Ending, Job, Message, check_ended, deliver
from tests.support.scripted_provider import ScriptedProvider

ENOUGH = 1_000_000  # cents; pays for whatever was put off for want of money
SETTLE_STEPS = 12
MONTH = timedelta(days=31)

T = TypeVar("T")


class LedgerMachine(RuleBasedStateMachine):
    """``books`` is a place of its own; a subclass that a test makes sets it, and the loop."""

    books: Books
    runner: asyncio.Runner

    def __init__(self) -> None:
        super().__init__()
        self.run(self.books.wipe())
        self.clock = Clock()
        self.provider = ScriptedProvider(now=self.clock.now)
        self.billing: Billing = replace(
            self.books.billing, now=lambda: self.clock.now, provider=self.provider
        )
        self.accounts: list[UUID] = []
        self.jobs: dict[UUID, Job] = {}
        self.messages: list[Message] = []
        self.kept: list[tuple[UUID, UUID, UUID]] = []  # account, job and extension
        self.refund_ids: list[tuple[UUID, UUID]] = []

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @initialize(cents=st.tuples(st.integers(0, 2_000), st.integers(0, 2_000)))
    def two_accounts(self, cents: tuple[int, int]) -> None:
        self.accounts = [uuid4(), uuid4()]
        for account_id, amount in zip(self.accounts, cents, strict=True):
            if amount:
                self.run(self.books.grant(account_id, amount))

    @rule(which=st.integers(0, 1), cents=st.integers(1, 1_000), twice=st.booleans())
    def grant(self, which: int, cents: int, twice: bool) -> None:
        entry_id = uuid4()
        for _ in range(1 + twice):
            self.run(self.books.grant(self.accounts[which], cents, entry_id))

    @rule(which=st.integers(0, 1), cents=st.sampled_from((0, 250, 500)))
    def credit(self, which: int, cents: int) -> None:
        async def work() -> None:
            async with self.billing.pool.acquire() as connection:
                with suppress(ledger.Overdrawn):
                    await accounts.set_credit(connection, self.accounts[which], cents)

        self.run(work())

    @rule(which=st.integers(0, 1), does=st.sampled_from(("ok", "decline", "final", "action")))
    def save_card(self, which: int, does: str) -> None:
        method = f"pm_{uuid4()}"
        self.provider.behaviour[method] = does
        self.run(self.books.save_card(self.billing, self.accounts[which], method))

    @rule(which=st.integers(0, 1))
    def remove_card(self, which: int) -> None:
        self.run(self.books.remove_card(self.accounts[which]))

    @rule(
        which=st.integers(0, 1),
        surface=st.sampled_from(("runs", "jobs")),
        millions=st.integers(0, 12),
        priority=st.booleans(),
    )
    def reserve(self, which: int, surface: str, millions: int, priority: bool) -> None:
        account_id, job_id = self.accounts[which], uuid4()
        quote = Quote(
            account_id=account_id,
            surface=surface,  # type: ignore[arg-type]
            job_type="finetune",
            model_params=8_000_000_000,
            dataset_bytes=1_000_000,
            tokens=millions * 1_000_000,
            lora_rank=32,
            priority=priority,
        )
        job = Job(account_id=account_id, request=Reserve(job_id=job_id, quote=quote))
        self.jobs[job_id] = job
        self._ask(job)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def reserve_again(self, data: st.DataObject) -> None:
        self._ask(self._job(data))

    def _ask(self, job: Job) -> None:
        answer = self.run(handlers.reserve(self.billing, job.request))
        if isinstance(answer, Reserved) and job.answered is None:
            job.answered = answer
        elif isinstance(answer, Reserved) and job.answered is not None:
            assert answer.price == job.answered.price

    def _job(self, data: st.DataObject) -> Job:
        return self.jobs[data.draw(st.sampled_from(list(self.jobs)))]

    @precondition(lambda self: any(j.answered and not j.in_log for j in self.jobs.values()))
    @rule(data=st.data())
    def submit(self, data: st.DataObject) -> None:
        """The gateway appends the job; it may have been away for a while."""
        known = [j for j in self.jobs.values() if j.answered and not j.in_log]
        job = data.draw(st.sampled_from(known))
        assert job.answered is not None
        event = submission(price_cents=job.answered.price.price_cents)
        append, _ = first_append(job.request.job_id, job.account_id, event)
        self.run(self.books.append(append))
        job.in_log = True
        self._tell(job, event)

    @precondition(lambda self: any(j.in_log and j.end is None for j in self.jobs.values()))
    @rule(data=st.data(), how=st.sampled_from(("completed", "failed", "cancelled")))
    def end(self, data: st.DataObject, how: str) -> None:
        """The scheduler ends a job, once; billing hears of it when it hears of it."""
        open_ones = [j for j in self.jobs.values() if j.in_log and j.end is None]
        job = data.draw(st.sampled_from(open_ones))
        assert job.answered is not None
        event: Ending = COMPLETED if how == "completed" else FAILED
        if how == "cancelled":
            cents = data.draw(st.integers(0, job.answered.price.price_cents))
            event = JobCancelled(tokens_processed=1, charge_cents=cents)
        job.end = event
        self._tell(job, event)

    def _tell(self, job: Job, event: JobSubmitted | Ending) -> None:
        sent = envelope(job.request.job_id, job.account_id, event)
        self.messages.append(Message(sent=sent, event=event))

    @precondition(lambda self: self.messages)
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        self._deliver(data.draw(st.sampled_from(self.messages)))

    @precondition(lambda self: self.messages)
    @rule()
    def deliver_the_last(self) -> None:
        self._deliver(self.messages[-1])

    def _deliver(self, message: Message) -> None:
        self.run(deliver(self.billing, message))

    @rule(by=st.sampled_from((timedelta(minutes=1), timedelta(minutes=11), timedelta(days=2))))
    def time_passes(self, by: timedelta) -> None:
        self.clock.now += by
        self.provider.now = self.clock.now

    @rule()
    def sweep(self) -> None:
        self.run(handlers.void_orphans(self.billing))

    @rule(lost=st.integers(0, 2), away=st.integers(0, 1))
    def work(self, lost: int, away: int) -> None:
        self.provider.lose_answers, self.provider.unavailable = lost, away
        self.run(charges.work(self.billing))
        self.provider.lose_answers = self.provider.unavailable = 0

    @precondition(lambda self: self.provider.charges)
    @rule(data=st.data())
    def approve(self, data: st.DataObject) -> None:
        payment_id = data.draw(st.sampled_from(list(self.provider.charges)))
        charge = self.provider.charges[payment_id]
        self.provider.approve(payment_id)
        if data.draw(st.booleans()):
            self.run(charges.payment_changed(self.billing, charge.job_id, charge.account_id))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), cents=st.none() | st.integers(1, 300), refuses=st.booleans())
    def refund(self, data: st.DataObject, cents: int | None, refuses: bool) -> None:
        job_id, refund_id = self._job(data).request.job_id, uuid4()
        self.refund_ids.append((job_id, refund_id))
        self.provider.refuse_refunds = refuses
        self.run(self._refund(job_id, refund_id, cents))
        self.provider.refuse_refunds = False

    @precondition(lambda self: self.refund_ids)
    @rule(data=st.data())
    def refund_again(self, data: st.DataObject) -> None:
        job_id, refund_id = data.draw(st.sampled_from(self.refund_ids))
        self.run(self._refund(job_id, refund_id, None))

    async def _refund(self, job_id: UUID, refund_id: UUID, cents: int | None) -> None:
        async with self.billing.pool.acquire() as connection:
            await refunds.refund(
                connection,
                job_id,
                cents,
                refund_id=refund_id,
                reason="as agreed",
                context=Context(now=self.clock.now, new_id=uuid4),
            )

    @precondition(lambda self: self.provider.refunds)
    @rule(data=st.data())
    def refund_seen(self, data: st.DataObject) -> None:
        """The provider tells of a refund, which it may have answered before or not."""
        moved = data.draw(st.sampled_from([m for m in self.provider.moved if m.kind == "refund"]))
        assert moved.job_id is not None
        assert moved.account_id is not None
        owner = Owner(moved.job_id, moved.account_id)
        self.run(refunds.refund_seen(self.billing, owner, moved.id, -moved.amount_cents))

    @rule(which=st.integers(0, 1))
    def keep_files(self, which: int) -> None:
        async def work() -> UUID:
            async with self.billing.pool.acquire() as connection:
                job = await complete(
                    connection, self.accounts[which], at=NOON, keep=timedelta(days=900)
                )
            return job.id

        self.kept.append((self.accounts[which], self.run(work()), uuid4()))

    @precondition(lambda self: self.kept)
    @rule(data=st.data(), another=st.booleans())
    def extend(self, data: st.DataObject, another: bool) -> None:
        account_id, job_id, extension_id = data.draw(st.sampled_from(self.kept))
        if another:
            extension_id = uuid4()
            self.kept.append((account_id, job_id, extension_id))
        self.run(
            extensions.extend_storage(
                self.billing,
                ExtendStorage(account_id=account_id, job_id=job_id, extension_id=extension_id),
            )
        )

    @invariant()
    def the_books_are_right(self) -> None:
        self.run(check_books(self.books, self.provider))

    def teardown(self) -> None:
        """The end of all: everything is delivered, every account has money and a card."""
        if self.accounts:
            self.run(self._settle())

    async def _settle(self) -> None:
        self.clock.now += MONTH
        self.provider.now = self.clock.now
        for account_id in self.accounts:
            await self.books.grant(account_id, ENOUGH)
        for message in self.messages:
            await deliver(self.billing, message)
        await handlers.void_orphans(self.billing)
        for account_id in self.accounts:
            await self.books.save_card(self.billing, account_id, f"pm_{uuid4()}")
        for _ in range(SETTLE_STEPS):
            await charges.work(self.billing)
            self.clock.now += timedelta(hours=2)
            self.provider.now = self.clock.now
        await self._check_end()

    async def _check_end(self) -> None:
        await check_books(self.books, self.provider)
        for job in self.jobs.values():
            await check_ended(self.billing, job)
