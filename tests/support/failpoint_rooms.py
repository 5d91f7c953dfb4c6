"""A process's connections, one account with one job, and how it stands with the money."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal
from uuid import UUID, uuid4

import stripe
from msgspec import Struct
from msgspec.structs import replace

from libs.contracts.base import Envelope
from libs.contracts.events import decode_payment_event, type_of
from libs.contracts.scheduler import JobCancelled, JobCompleted, JobFailed
from libs.eventlog.connection import Connection, create_pool
from libs.eventlog.read import load
from libs.jobstate.state import decode_state
from services.billing import ledger
from services.billing.payments import Billing, Owner, stream_of
from services.billing.pricing import read_prices
from services.billing.stripe_pages import read_plans
from services.billing.stripe_provider import StripeProvider
from services.scheduler.handlers import Scheduler
from tests.support.sandbox import API_KEY, WEBHOOK_SECRET

GRANTED, RUN, EXTENSION, CHARGE, TOP_UP = 1_000, 300, 200, 985, 2_500  # cents
EXTENDED = "extension_charged"
PRICES = Path(__file__).parents[2] / "prices.toml"
START = datetime.now(UTC).replace(microsecond=0)
SWEPT = timedelta(minutes=11)  # orphans are older than ten
CLAIMED = timedelta(minutes=4)  # a dead worker's claim has ended
COMPLETED = JobCompleted(tokens_processed=1, artifacts_expires_at=START + timedelta(days=7))
FAILED = JobFailed(code="internal_error", message="m")
CANCELLED = JobCancelled(tokens_processed=5, charge_cents=120)


Needs = Literal["cards", "scheduler"]
ALL: frozenset[Needs] = frozenset(("cards", "scheduler"))
CARDS: frozenset[Needs] = frozenset(("cards",))
SCHEDULER: frozenset[Needs] = frozenset(("scheduler",))


class Place(Struct, frozen=True, kw_only=True):
    """Where the servers are."""

    billing_dsn: str
    scheduler_dsn: str
    sandbox_url: str


class Case(Struct, frozen=True, kw_only=True):
    """One account with one job, and the ids under which whatever is repeated is repeated. ``sent``
    is the job's event, ``told`` the card provider's."""

    account_id: UUID
    job_id: UUID
    other_id: UUID
    sent: Envelope | None = None
    told: bytes | None = None

    @property
    def owner(self) -> Owner:
        return Owner(self.job_id, self.account_id)


class Room(Struct, frozen=True, kw_only=True):
    """A process's own connections."""

    billing: Billing
    scheduler: Scheduler
    client: stripe.StripeClient | None

    @property
    def stripe(self) -> stripe.StripeClient:
        assert self.client is not None, "the verb needs cards"
        return self.client

    def at(self, later: timedelta) -> "Room":
        def now() -> datetime:
            return START + later

        return Room(
            billing=replace(self.billing, now=now),
            scheduler=replace(self.scheduler, now=now),
            client=self.client,
        )


class Found(Struct, frozen=True, kw_only=True):
    """How a case ended: the ledger's sums, the payment's events, and what the provider counted."""

    available: int
    reserved: int = 0
    owed: int = 0
    revenue: int = 0
    kinds: tuple[str, ...]
    charges: tuple[int, ...] = ()
    refunds: tuple[int, ...] = ()
    expires_after_days: int | None = None
    subscription: str = "none"


@asynccontextmanager
async def room_of(place: Place, name: str, needs: frozenset[Needs] = ALL) -> AsyncIterator[Room]:
    """``name`` is what PostgreSQL calls the connections. What is not needed costs half a start."""

    def now() -> datetime:
        return START

    provider, client = None, None
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(
            create_pool(f"{place.billing_dsn}?application_name={name}", size=4)
        )
        other = pool
        if "scheduler" in needs:
            other = await stack.enter_async_context(
                create_pool(f"{place.scheduler_dsn}?application_name={name}", size=2)
            )
        if "cards" in needs:
            provider = StripeProvider(
                api_key=API_KEY,
                webhook_secret=WEBHOOK_SECRET,
                api_base=place.sandbox_url,
                plans=read_plans(PRICES),
            )
            stack.push_async_callback(provider.close)
            client = stripe.StripeClient(
                API_KEY, base_addresses={"api": place.sandbox_url}, http_client=provider._http
            )
        yield Room(
            billing=Billing(
                pool=pool,
                prices=read_prices(PRICES),
                now=now,
                new_id=uuid4,
                committed=lambda: None,
                provider=provider,
            ),
            scheduler=Scheduler(pool=other, now=now, new_id=uuid4, committed=lambda: None),
            client=client,
        )


async def found(room: Room, case: Case) -> Found:
    """Sums of the postings themselves; `healthy` compares the read models with them."""
    names = (ledger.available, ledger.reserved, ledger.receivable)
    async with room.billing.pool.acquire() as connection:
        available, reserved, owed = [
            await _sum(connection, "ledger_account = $1", name(case.account_id)) for name in names
        ]
        revenue = await _sum(
            connection,
            "ledger_account = 'revenue' AND entry_id IN"
            " (SELECT id FROM billing.entry WHERE account_id = $1)",
            case.account_id,
        )
        _, events = await load(connection, stream_of(case.job_id), decode_payment_event)
        row = await connection.fetchval("SELECT state FROM log.job WHERE id = $1", case.job_id)
        plan = await connection.fetchval(
            "SELECT subscription FROM billing.account WHERE account_id = $1", case.account_id
        )
    kinds = tuple(type_of(type(stored.event)).split(".")[1] for stored in events)
    charged, refunded = await _moved(room, case)
    expiry = decode_state(row).artifacts_expires_at if row is not None else None
    return Found(
        available=available,
        reserved=reserved,
        owed=owed,
        revenue=revenue,
        kinds=kinds,
        charges=charged,
        refunds=refunded,
        expires_after_days=(expiry - START).days if expiry and EXTENDED in kinds else None,
        subscription=plan or "none",
    )


async def _sum(connection: Connection, where: str, value: object) -> int:
    amount: int = await connection.fetchval(
        f"SELECT coalesce(sum(amount_cents), 0) FROM billing.posting WHERE {where}", value
    )
    return amount


async def _moved(room: Room, case: Case) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Every charge that succeeded for the job, and every refund, as the provider has them."""
    async with room.billing.pool.acquire() as connection:
        customer = await connection.fetchval(
            "SELECT customer_id FROM billing.account WHERE account_id = $1", case.account_id
        )
    if customer is None:
        return (), ()
    intents = await room.stripe.v1.payment_intents.list_async({"customer": customer, "limit": 100})
    charged, refunded = [], []
    for intent in intents.data:
        if intent.status == "succeeded":
            charged.append(intent.amount_received)
            given = await room.stripe.v1.refunds.list_async({"payment_intent": intent.id})
            refunded += [one.amount for one in given.data]
    return tuple(charged), tuple(refunded)
