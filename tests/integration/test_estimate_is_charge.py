"""What an estimate says is what a job costs in the end, to the cent, for a thousand random ones.

Each is asked for as a client would, quoted and reserved by real billing, ended by the scheduler's
own decisions, and settled by real billing on PostgreSQL; what it cost is read from the ledger.
"""

import asyncio
import math
import random
from collections.abc import AsyncIterator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from msgspec import Struct
from msgspec.structs import replace

from libs.contracts.artifact import ArtifactPublished
from libs.contracts.base import DatasetRef, ModelRef, ModelSource
from libs.contracts.billing_rpc import GetBalance, Price, Reserve, Reserved, Subscription
from libs.contracts.events import JobEvent
from libs.contracts.scheduler import JobCancelled, JobCancelRequested, JobCompleted
from libs.contracts.trainer import Finished, Started, Stopped
from libs.eventlog.append import append_in
from libs.eventlog.connection import create_pool
from libs.eventlog.record import Append, Head, records_after
from libs.jobstate.state import JobState, fold, job_stream, row_of, submitted
from services.billing import handlers, ledger
from services.billing.payments import Billing
from services.billing.pricing import Prices, read_prices
from services.gateway.bases import Base
from services.gateway.catalog import FinetuneDefaults
from services.gateway.model import Order, quote_of
from services.gateway.model import submission as submission_of
from services.gateway.orders import order_of
from services.gateway.recommend_rules import ModelFacts
from services.gateway.routes.jobs import decode_estimate, decode_job_request
from services.scheduler import model as scheduler
from tests.support.jobs import NOON, context, envelope, finished_result
from tests.support.stack import Database

JOBS = 1_000
CANCELLED_SHARE = 0.25
EARLY_SHARE = 0.5  # of those that are not done whole
AT_ONCE = 8
SEED = 20_260_319
FUNDS = 10**14  # cents: enough for whatever is asked
RANKS = (1, 8, 32, 33, 64, 65, 512)
SUBSCRIPTIONS: tuple[Subscription, ...] = ("none", "plus", "pro")
ADVISED = FinetuneDefaults(learning_rate=1e-3, seq_len=256, batch_size=8)
DATASET = DatasetRef(
    id=UUID(int=2),
    key="datasets/2",
    sha256="0" * 64,
    size_bytes=1_000_000,
    rows=1_000,
    tokens=250_000,
    kind="messages",
)


@pytest.fixture
async def billing(database: Database) -> AsyncIterator[Billing]:
    async with create_pool(database.dsn("billing"), size=AT_ONCE) as pool:
        yield Billing(
            pool=pool,
            prices=read_prices(Path(__file__).parents[2] / "prices.toml"),
            now=lambda: NOON,
            new_id=uuid4,
            committed=lambda: None,
        )


async def accounts(billing: Billing) -> list[UUID]:
    """One with each subscription, all of them rich."""
    made = []
    for subscription in SUBSCRIPTIONS:
        account_id = uuid4()
        made.append(account_id)
        async with billing.pool.acquire() as connection:
            await ledger.grant(
                connection,
                account_id=account_id,
                amount_cents=FUNDS,
                entry_id=uuid4(),
                memo="test",
                now=NOON,
            )
            await connection.execute(
                "INSERT INTO billing.account (account_id, subscription) VALUES ($1, $2)",
                account_id,
                subscription,
            )
    return made


class Asked(Struct, frozen=True, kw_only=True):
    """A request, and what becomes of its job: ``done`` is the share of its tokens that is
    processed before it is cancelled, or (``early``) ends because it gets no better; None: it
    completes."""

    account_id: UUID
    model: ModelRef
    body: dict[str, Any]
    done: Fraction | None
    early: bool


def some(rng: random.Random, least: int, most: int) -> int:
    """Each order of magnitude as often."""
    return round(math.exp(rng.uniform(math.log(least), math.log(most))))


def hyperparams(rng: random.Random, job_type: str) -> dict[str, Any]:
    steps, seq_len, batch = some(rng, 1, 100_000), some(rng, 16, 8_192), some(rng, 1, 64)
    match job_type:
        case "finetune":
            rank = rng.choice(RANKS)
            tuned = {"steps": steps, "seq_len": seq_len, "batch_size": batch}
            return tuned | rng.choice(({"lora_rank": rank}, {"method": "full"}))
        case "train":
            shape = {"turns": some(rng, 1, 5), "cycles": some(rng, 1, 10)}
            return shape | {"steps_per_cycle": some(rng, 1, 2_000), "seq_len": seq_len}
        case _:
            rows = some(rng, 1, 100_000)
            return {"calibration_rows": rows, "seq_len": seq_len, "contraction_ratio": 0.25}


def asked(rng: random.Random, account_ids: list[UUID]) -> Iterator[Asked]:
    for _ in range(JOBS):
        job_type = rng.choice(("finetune", "train", "contract"))
        body = {
            "type": job_type,
            "base_model_id": "some-model",
            "hyperparams": hyperparams(rng, job_type),
            "priority_processing": rng.random() < 0.5,
        }
        yield Asked(
            account_id=rng.choice(account_ids),
            model=ModelRef(
                id=UUID(int=1),
                slug="some-model",
                params=some(rng, 100_000, 400_000_000_000),
                source=ModelSource(kind="local", location="some-model"),
            ),
            body=body if job_type == "contract" else body | {"dataset_id": str(DATASET.id)},
            done=Fraction(rng.random()) if rng.random() < CANCELLED_SHARE else None,
            early=rng.random() < EARLY_SHARE,
        )


def ordered(wanted: Asked, key: str | None = None) -> Order:
    """What the gateway makes of the request, as an estimate and as a submission."""
    if key is None:
        request: Any = decode_estimate.decode(msgspec.json.encode(wanted.body))
    else:
        body = wanted.body | {"idempotency_key": key}
        request = decode_job_request.decode(msgspec.json.encode(body))
    dataset = None if wanted.body["type"] == "contract" else DATASET
    base = Base(ref=wanted.model, facts=ModelFacts(params=wanted.model.params, advised=ADVISED))
    return order_of(request, account_id=wanted.account_id, key=None, base=base, dataset=dataset)


def recomputed(prices: Prices, order: Order, subscription: Subscription) -> int:
    """The price, by a person with the price list and a pencil."""
    rate = prices.jobs[order.job_type]
    cents = Fraction(rate.cents_per_million_tokens_and_billion_params)
    cents *= Fraction(order.tokens, 10**6) * Fraction(order.model.params, 10**9)
    adapted = getattr(order.params, "method", "full") != "full"
    rank = getattr(order.params, "lora_rank", 0) if adapted else 0
    cents *= 1 + Fraction(rate.rank_step_percent, 100) * (max(rank - 1, 0) // 32)
    extra = prices.priority.jobs_cents if order.priority and subscription == "none" else 0
    return rate.base_cents + math.ceil(cents) + extra


def ended(
    state: JobState, done: Fraction | None, *, early: bool
) -> tuple[list[JobEvent], JobState]:
    """All that happens to the job after its submission, as the scheduler decides it."""
    happened: list[JobEvent] = []

    def append(events: list[JobEvent]) -> None:
        nonlocal state
        for event in events:
            state = fold(state, event, NOON)
            happened.append(event)

    attempt: dict[str, Any] = {
        "report_id": uuid4(),
        "job_id": state.id,
        "epoch": 1,
        "trainer_id": "trainer-0",
    }
    append(scheduler.decide_lease(state, "trainer-0"))
    steps = state.hyperparams.planned_steps
    start = Started(**attempt, device="cpu", steps_total=steps, resumed_from_step=0)
    append(scheduler.decide_report(state, start))
    if done is None or early:
        tokens = int((1 if done is None else done) * state.tokens_planned)
        result = replace(finished_result(), tokens_processed=tokens, stopped_early=done is not None)
        append(scheduler.decide_report(state, Finished(**attempt, result=result, files=())))
        append(scheduler.decide_published(state, ArtifactPublished(files=(), expires_at=NOON)))
    else:
        append([JobCancelRequested(epoch=1)])
        tokens = int(done * state.tokens_planned)
        append(scheduler.decide_report(state, Stopped(**attempt, tokens_processed=tokens)))
    return happened, state


async def paid(billing: Billing, wanted: Asked) -> tuple[Price, JobState]:
    """What the estimate said, and the job after its whole life."""
    estimate = await handlers.quote(billing, quote_of(ordered(wanted)))

    job_id = uuid4()
    order = ordered(wanted, key=str(job_id))
    reserved = await handlers.reserve(billing, Reserve(job_id=job_id, quote=quote_of(order)))
    assert isinstance(reserved, Reserved)
    event = submission_of(order, reserved, output_model_id=uuid4())
    state = submitted(event, job_id=job_id, account_id=order.account_id, at=NOON, traceparent=None)
    happened, state = ended(state, wanted.done, early=wanted.early)
    records = records_after(
        Head(stream=job_stream(job_id)),
        [event, *happened],
        context(),
        job_id=job_id,
        account_id=order.account_id,
    )
    async with billing.pool.acquire() as connection:
        await append_in(connection, Append(records=records, job=row_of(state)))
    last = happened[-1]
    told = envelope(job_id, order.account_id, last)
    match last:
        case JobCompleted():
            await handlers.capture_payment(billing, told, last)
        case JobCancelled():
            await handlers.charge_partly(billing, told, last)
        case _:
            pytest.fail(f"the job did not end, but {last}")
    return estimate, state


async def test_a_thousand_jobs_cost_what_their_estimates_said(billing: Billing) -> None:
    rng = random.Random(SEED)
    account_ids = await accounts(billing)
    subscriptions = dict(zip(account_ids, SUBSCRIPTIONS, strict=True))
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(wanted: Asked) -> tuple[Asked, Price, JobState]:
        async with turns:
            return wanted, *(await paid(billing, wanted))

    lives = await asyncio.gather(*(one(wanted) for wanted in asked(rng, account_ids)))

    rows = await billing.pool.fetch(
        "SELECT e.job_id, sum(p.amount_cents)::bigint AS cents FROM billing.entry e"
        " JOIN billing.posting p ON p.entry_id = e.id"
        " WHERE p.ledger_account = 'revenue' GROUP BY e.job_id"
    )
    taken = {row["job_id"]: row["cents"] for row in rows}
    for wanted, estimate, job in lives:
        subscription = subscriptions[wanted.account_id]
        by_hand = recomputed(billing.prices, ordered(wanted), subscription)
        assert estimate.price_cents == by_hand == sum(estimate.parts.values()) == job.price_cents
        cost = estimate.price_cents
        if wanted.done is not None:
            cost = math.ceil(Fraction(cost * job.tokens_processed, job.tokens_planned))
        assert taken.get(job.id, 0) == job.charge_cents == cost, wanted

    types = {(job.type, job.status) for _, _, job in lives}
    assert len(types) == 6, "of each type some were completed and some cancelled"
    early = [job for _, _, job in lives if job.result and job.result.stopped_early]
    assert len(early) > 50
    assert {job.status for job in early} == {"completed"}
    for account_id in account_ids:
        balance = await handlers.get_balance(billing, GetBalance(account_id=account_id))
        spent = sum(taken.get(job.id, 0) for _, _, job in lives if job.account_id == account_id)
        assert (balance.balance_cents, balance.reserved_cents) == (FUNDS - spent, 0)
