"""The one price list: the estimate, the reservation and every charge come from it. Pure."""

import tomllib
from math import prod
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from libs.contracts.base import Cents, Days, JobType
from libs.contracts.billing_rpc import Price, Quote, Subscription
from services.billing.stripe_amounts import LARGEST, least_of

RATE = "cents_per_million_tokens_and_billion_params"
FACTORS_UNIT = 10**6 * 10**9 * 100  # a million tokens, a billion parameters, a hundred percent
RANK_STEP = 32


class Plan(Struct, frozen=True, kw_only=True):
    name: str
    max_bytes: int
    price_cents: Cents


class JobRate(Struct, frozen=True, kw_only=True):
    base_cents: Cents
    cents_per_million_tokens_and_billion_params: Cents
    rank_step_percent: int


class PriorityRate(Struct, frozen=True, kw_only=True):
    runs_cents: Cents
    jobs_cents: Cents


class StorageRate(Struct, frozen=True, kw_only=True):
    extension_cents: Cents
    days: Days


class CardLimits(Struct, frozen=True, kw_only=True):
    """What a card can be charged. The defaults are Stripe's, for US dollars."""

    minimum_cents: Cents = 50
    maximum_cents: Cents = 99_999_999


class Prices(Struct, frozen=True, kw_only=True):
    """``prices.toml``. Plans ascend by size."""

    currency: str
    plans: tuple[Plan, ...]
    jobs: dict[JobType, JobRate]
    priority: PriorityRate
    storage: StorageRate
    card: CardLimits = CardLimits()


def read_prices(path: Path) -> Prices:
    """What cards are charged is within what Stripe takes in the currency, whatever the file says: a
    charge that it refuses would be owed for ever."""
    prices = msgspec.convert(tomllib.loads(path.read_text()), Prices)
    limits = CardLimits(
        minimum_cents=max(prices.card.minimum_cents, least_of(prices.currency)),
        maximum_cents=min(prices.card.maximum_cents, LARGEST),
    )
    return replace(prices, card=limits)


def price(prices: Prices, quote: Quote, subscription: Subscription = "none") -> Price:
    """What the quoted work costs, with the parts it is the sum of, and what they come from. Every
    subscription includes priority, which is then a part of 0 cents."""
    plan_name: str | None = None
    if quote.surface == "runs":
        plan = next(
            (plan for plan in prices.plans if quote.dataset_bytes <= plan.max_bytes),
            prices.plans[-1],
        )
        plan_name, parts = plan.name, {"plan": plan.price_cents}
        factors = {"dataset_bytes": quote.dataset_bytes, "plan_max_bytes": plan.max_bytes}
        priority = prices.priority.runs_cents
    else:
        rate = prices.jobs[quote.job_type]
        factors = _factors(rate, quote)
        # Rounded up to a whole cent, in integers throughout.
        tokens_cents = -(-prod(factors.values()) // FACTORS_UNIT)
        parts = {"base": rate.base_cents, "tokens": tokens_cents}
        priority = prices.priority.jobs_cents
    if quote.priority:
        parts["priority"] = priority if subscription == "none" else 0
    return Price(
        price_cents=sum(parts.values()),
        currency=prices.currency,
        plan_name=plan_name,
        parts=parts,
        factors=factors,
    )


def _factors(rate: JobRate, quote: Quote) -> dict[str, int]:
    """What the price of a job's tokens is the product of, in the unit `FACTORS_UNIT`."""
    rank_steps = max(quote.lora_rank - 1, 0) // RANK_STEP
    return {
        "tokens": quote.tokens,
        "model_params": quote.model_params,
        RATE: rate.cents_per_million_tokens_and_billion_params,
        "rank_percent": 100 + rate.rank_step_percent * rank_steps,
    }


def extension_price(prices: Prices) -> Price:
    """What one more stretch of storage costs."""
    rate = prices.storage
    return Price(
        price_cents=rate.extension_cents,
        currency=prices.currency,
        plan_name=None,
        parts={"storage_extension": rate.extension_cents},
        factors={"days": rate.days},
    )
