"""Many clients at once, each doing to a few accounts whatever comes to its mind."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from uuid import UUID, uuid4

from msgspec import Struct

from libs.contracts.billing_rpc import ExtendStorage, Quote, Reserve, Reserved, StorageExtended
from libs.contracts.scheduler import JobCancelled
from libs.eventlog.connection import create_pool
from libs.eventlog.record import Context, VersionConflict
from services.billing import charges, extensions, handlers, refunds
from services.billing.payments import Billing
from services.billing.pricing import read_prices
from tests.support.jobs import NOON, complete, envelope
from tests.support.ledger_checks import Books, check_books, open_books
from tests.support.ledger_jobs import COMPLETED, FAILED, Message, deliver
from tests.support.scripted_provider import ScriptedProvider
from tests.support.stack import Database

SECONDS = 240.0  # a crowd that blocks itself never ends
STATISTICS_SECONDS = 0.2  # a session that has ended has told what it counted
DEADLOCKS_SQL = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
POOL = 12  # as the service has


class Crowd(Struct, kw_only=True):
    """What all clients share."""

    books: Books
    billing: Billing
    random: Random
    accounts: list[UUID]
    asked: list[Reserve] = []
    messages: list[Message] = []
    kept: list[tuple[UUID, UUID]] = []
    done: Counter[str] = Counter()

    async def reserve(self) -> None:
        if self.asked and self.random.random() < 0.2:
            request = self.random.choice(self.asked)  # somebody repeats it
        else:
            quote = Quote(
                account_id=self.random.choice(self.accounts),
                surface=self.random.choice(("runs", "jobs")),  # type: ignore[arg-type]
                job_type="finetune",
                model_params=8_000_000_000,
                dataset_bytes=1_000_000,
                tokens=self.random.randrange(10) * 1_000_000,
                lora_rank=32,
                priority=self.random.random() < 0.5,
            )
            request = Reserve(job_id=uuid4(), quote=quote)
            self.asked.append(request)
        answer = await handlers.reserve(self.billing, request)
        if isinstance(answer, Reserved):
            self._end(request, answer)
            self.done["reserve"] += 1

    def _end(self, request: Reserve, answer: Reserved) -> None:
        if any(message.sent.job_id == request.job_id for message in self.messages):
            return
        part = JobCancelled(
            tokens_processed=1, charge_cents=self.random.randint(0, answer.price.price_cents)
        )
        event = self.random.choice((COMPLETED, FAILED, part))
        sent = envelope(request.job_id, request.quote.account_id, event)
        self.messages.append(Message(sent=sent, event=event))

    async def end(self) -> None:
        if self.messages:
            await deliver(self.billing, self.random.choice(self.messages))
            self.done["end"] += 1

    async def grant(self) -> None:
        await self.books.grant(self.random.choice(self.accounts), 100)
        self.done["grant"] += 1

    async def work(self) -> None:
        self.done["work"] += await charges.work(self.billing)

    async def extend(self) -> None:
        account_id, job_id = self.random.choice(self.kept)
        answer = await extensions.extend_storage(
            self.billing,
            ExtendStorage(account_id=account_id, job_id=job_id, extension_id=uuid4()),
        )
        self.done["extend"] += isinstance(answer, StorageExtended)

    async def refund(self) -> None:
        if not self.messages:
            return
        job_id = self.random.choice(self.messages).sent.job_id
        async with self.billing.pool.acquire() as connection:
            with suppress(VersionConflict):
                answer = await refunds.refund(
                    connection,
                    job_id,
                    self.random.randint(1, 50),
                    refund_id=uuid4(),
                    reason="as agreed",
                    context=Context(now=NOON, new_id=uuid4),
                )
                self.done["refund"] += isinstance(answer, refunds.RefundBegun)

    async def new_card(self) -> None:
        account_id = self.random.choice(self.accounts[:2])  # the third has none
        await self.books.save_card(self.billing, account_id, f"pm_{uuid4()}")
        self.done["new card"] += 1

    async def sweep(self) -> None:
        await handlers.void_orphans(self.billing)
        self.done["sweep"] += 1


async def run_crowd(database: Database, *, clients: int, verbs: int, seed: int) -> Counter[str]:
    """How often each verb had an effect. Raises what any verb raised, a deadlock for one."""
    provider = ScriptedProvider(now=NOON)
    async with create_pool(database.dsn("billing"), size=POOL) as pool:
        billing = Billing(
            pool=pool,
            prices=read_prices(Path(__file__).parents[2] / "prices.toml"),
            now=lambda: NOON,
            new_id=uuid4,
            committed=lambda: None,
            provider=provider,
        )
        books = await open_books(billing, database.admin_dsn)
        crowd = Crowd(
            books=books,
            billing=billing,
            random=Random(seed),
            accounts=[uuid4() for _ in range(3)],
        )
        await _begin(crowd)
        async with asyncio.timeout(SECONDS):
            await asyncio.gather(*(_client(crowd, verbs) for _ in range(clients)))
            for message in crowd.messages:
                await deliver(billing, message)
            await charges.work(billing)
        await check_books(books, provider)
    # A worker logs what it meets and goes on, so the server itself is asked.
    await asyncio.sleep(STATISTICS_SECONDS)
    assert await books.admin.fetchval(DEADLOCKS_SQL) == 0
    await books.admin.close()
    await books.reader.close()
    return crowd.done


async def _begin(crowd: Crowd) -> None:
    for account_id in crowd.accounts:
        await crowd.books.grant(account_id, 5_000)
        async with crowd.billing.pool.acquire() as connection:
            job = await complete(connection, account_id)
        crowd.kept.append((account_id, job.id))


async def _client(crowd: Crowd, verbs: int) -> None:
    does: tuple[Callable[[], Awaitable[None]], ...] = (
        *(crowd.reserve, crowd.reserve, crowd.end, crowd.end, crowd.end),
        *(crowd.grant, crowd.work, crowd.extend, crowd.refund, crowd.new_card, crowd.sweep),
    )
    for _ in range(verbs):
        await crowd.random.choice(does)()
