"""Billing with a card provider that does as it is told, and one account with a card."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

from msgspec import Struct

from deploy.rebuild import rebuild_all
from libs.contracts.billing_rpc import GetAccount, GetWithheld, Quote, Reserve, Reserved, Withheld
from libs.contracts.scheduler import JobCompleted
from libs.eventlog.connection import create_pool
from libs.eventlog.read import timeline
from libs.eventlog.record import Context
from services.billing import accounts, charges, handlers, ledger, refunds, statement
from services.billing.payments import Billing, Owner
from services.billing.pricing import read_prices
from tests.support.jobs import NOON, Clock, envelope
from tests.support.scripted_provider import ScriptedProvider
from tests.support.stack import Database

COMPLETED = JobCompleted(tokens_processed=1, artifacts_expires_at=NOON + timedelta(days=7))
PRICE = 25 + 960  # base, and 10 million tokens x 8 billion parameters
MINUTE = timedelta(minutes=1)


class House(Struct, kw_only=True):
    """Billing with a scripted card provider, and an account with a card and 2,000 cents."""

    billing: Billing
    provider: ScriptedProvider
    clock: Clock
    account_id: UUID
    admin_dsn: str

    async def save_card(self, method: str, behaviour: str = "ok") -> None:
        self.provider.behaviour[method] = behaviour
        await self.billing.pool.execute(
            "INSERT INTO billing.account (account_id, customer_id, payment_method_id)"
            " VALUES ($1, 'cus_1', $2)"
            " ON CONFLICT (account_id) DO UPDATE SET payment_method_id = $2",
            self.account_id,
            method,
        )
        await charges.card_changed(self.billing, self.account_id)

    def quote(self, **changes: object) -> Quote:
        fields: dict[str, object] = {
            "account_id": self.account_id,
            "surface": "jobs",
            "job_type": "finetune",
            "model_params": 8_000_000_000,
            "dataset_bytes": 1_000_000,
            "tokens": 10_000_000,
            "lora_rank": 32,
            "priority": False,
        }
        return Quote(**(fields | changes))  # type: ignore[arg-type]

    async def submit(self, **changes: object) -> UUID:
        job_id = uuid4()
        answer = await self.ask(job_id, **changes)
        assert isinstance(answer, Reserved)
        return job_id

    async def ask(self, job_id: UUID, **changes: object) -> object:
        return await handlers.reserve(
            self.billing, Reserve(job_id=job_id, quote=self.quote(**changes))
        )

    async def complete(self, job_id: UUID) -> None:
        sent = envelope(job_id, self.account_id, COMPLETED)
        await handlers.capture_payment(self.billing, sent, COMPLETED)

    async def done(self) -> UUID:
        """A job that was completed, and whatever was then due at the provider."""
        job_id = await self.submit()
        await self.complete(job_id)
        await charges.work(self.billing)
        return job_id

    async def later(self, by: timedelta) -> None:
        self.clock.now += by
        self.provider.now = self.clock.now
        await charges.work(self.billing)

    async def kinds(self, job_id: UUID) -> list[str]:
        async with self.billing.pool.acquire() as connection:
            entries = await timeline(connection, job_id)
        return [entry.type.split(".")[1] for entry in entries]

    async def withheld(self, job_id: UUID) -> Withheld:
        return await statement.get_withheld(self.billing, GetWithheld(job_id=job_id))

    async def paused(self) -> str | None:
        state = await accounts.get_account(self.billing, GetAccount(account_id=self.account_id))
        assert state.paused == (state.paused_reason is not None)
        return state.paused_reason

    async def owed(self) -> int:
        return await self.sum_of(ledger.receivable(self.account_id))

    async def sum_of(self, name: str) -> int:
        amount: int = await self.billing.pool.fetchval(
            "SELECT coalesce(sum(amount_cents), 0) FROM billing.posting WHERE ledger_account = $1",
            name,
        )
        return amount

    async def refund(
        self, job_id: UUID, cents: int | None = None, refund_id: UUID | None = None
    ) -> object:
        async with self.billing.pool.acquire() as connection:
            return await refunds.refund(
                connection,
                job_id,
                cents,
                refund_id=refund_id or uuid4(),
                reason="as agreed",
                context=Context(now=self.clock.now, new_id=uuid4),
            )

    async def dispute(self, job_id: UUID, dispute_id: str, cents: int) -> None:
        """The card's bank takes so much back, and that is told."""
        self.provider.dispute(dispute_id, job_id, cents)
        owner = Owner(job_id, self.account_id)
        await refunds.dispute_opened(self.billing, owner, dispute_id, cents, "fraudulent")

    async def healthy(self) -> None:
        """Everything adds up, agrees with the provider, and follows from the log."""
        assert (
            await self.billing.pool.fetchval("SELECT sum(amount_cents) FROM billing.posting") == 0
        )
        moved = sum(movement.amount_cents for movement in self.provider.moved)
        assert -(await self.sum_of(ledger.CARD)) == moved
        changed = {done.table: done.changed for done in await rebuild_all(self.admin_dsn)}
        assert changed == dict.fromkeys(changed, 0)


@asynccontextmanager
async def open_house(database: Database) -> AsyncIterator[House]:
    """It has to be healthy in the end."""
    clock, account_id = Clock(), uuid4()
    provider = ScriptedProvider(now=clock.now)
    async with create_pool(database.dsn("billing"), size=8) as pool:
        async with pool.acquire() as connection:
            await ledger.grant(
                connection,
                account_id=account_id,
                amount_cents=2_000,
                entry_id=uuid4(),
                memo="a gift",
                now=NOON,
            )
        billing = Billing(
            pool=pool,
            prices=read_prices(Path(__file__).parents[2] / "prices.toml"),
            now=lambda: clock.now,
            new_id=uuid4,
            committed=lambda: None,
            provider=provider,
        )
        house = House(
            billing=billing,
            provider=provider,
            clock=clock,
            account_id=account_id,
            admin_dsn=database.admin_dsn,
        )
        await house.save_card("pm_1")
        yield house
        await house.healthy()
