"""Prices come from one pure function over ``prices.toml``."""

from math import ceil, prod
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from libs.contracts.base import JobType
from libs.contracts.billing_rpc import Quote
from services.billing.pricing import extension_price, price, read_prices

FILE = Path(__file__).parents[2] / "prices.toml"
PRICES = read_prices(FILE)
RUN = Quote(
    account_id=UUID(int=1),
    surface="runs",
    job_type="finetune",
    model_params=8_000_000_000,
    dataset_bytes=1_000_000,
    tokens=250_000,
    lora_rank=32,
    priority=False,
)


@pytest.mark.parametrize(
    ("currency", "written", "limits"),
    [
        ("USD", (50, 99_999_999), (50, 99_999_999)),
        ("DKK", (50, 10**9), (250, 99_999_999)),
        ("GBP", (500, 9_000), (500, 9_000)),
    ],
)
def test_a_card_is_never_pledged_for_what_stripe_refuses_in_the_currency(
    tmp_path: Path, currency: str, written: tuple[int, int], limits: tuple[int, int]
) -> None:
    text = FILE.read_text()
    for old, new in (
        ('currency = "USD"', f'currency = "{currency}"'),
        ("minimum_cents = 50", f"minimum_cents = {written[0]}"),
        ("maximum_cents = 99_999_999", f"maximum_cents = {written[1]}"),
    ):
        assert old in text
        text = text.replace(old, new)
    edited = tmp_path / "prices.toml"
    edited.write_text(text)
    card = read_prices(edited).card
    assert (card.minimum_cents, card.maximum_cents) == limits


@pytest.mark.parametrize(
    ("size", "plan", "cents"),
    [
        (0, "Launch S", 300),
        (5_000_000, "Launch S", 300),
        (5_000_001, "Launch M", 700),
        (50_000_001, "Launch L", 1_900),
        (600_000_000, "Launch XL", 4_900),
    ],
)
def test_a_run_costs_its_plan_by_the_size_of_the_data(size: int, plan: str, cents: int) -> None:
    quoted = price(PRICES, replace(RUN, dataset_bytes=size))
    assert (quoted.plan_name, quoted.price_cents) == (plan, cents)


def test_the_model_does_not_change_a_runs_price() -> None:
    assert price(PRICES, RUN) == price(PRICES, replace(RUN, model_params=1_000))


def test_priority_is_an_add_on() -> None:
    quoted = price(PRICES, replace(RUN, priority=True))
    assert quoted.parts == {"plan": 300, "priority": 200}
    assert quoted.price_cents == 500


def test_a_job_costs_tokens_times_model_size() -> None:
    job = replace(RUN, surface="jobs", tokens=10_000_000)
    # 25 + 10 million tokens x 8 billion parameters x 12 cents
    assert price(PRICES, job).price_cents == 25 + 10 * 8 * 12


def test_a_started_cent_is_a_cent() -> None:
    job = replace(RUN, surface="jobs", tokens=1, model_params=1)
    assert price(PRICES, job).parts["tokens"] == 1


@given(
    tokens=st.integers(0, 2**53),
    params=st.integers(0, 10**12),
    more=st.integers(0, 10**9),
    rank=st.integers(1, 512),
)
def test_more_work_never_costs_less(tokens: int, params: int, more: int, rank: int) -> None:
    job = replace(RUN, surface="jobs", tokens=tokens, model_params=params, lora_rank=rank)
    bigger = replace(job, tokens=tokens + more, lora_rank=min(rank + 32, 512))
    assert price(PRICES, job).price_cents <= price(PRICES, bigger).price_cents
    assert price(PRICES, job).price_cents == sum(price(PRICES, job).parts.values())


@pytest.mark.parametrize(
    ("job_type", "rank", "base", "rate", "percent"),
    [
        ("finetune", 32, 25, 12, 100),
        ("finetune", 64, 25, 12, 110),
        ("train", 0, 100, 36, 100),
        ("contract", 0, 100, 12, 100),
    ],
)
def test_a_person_can_recompute_the_price_of_every_type_of_job(
    job_type: JobType, rank: int, base: int, rate: int, percent: int
) -> None:
    job = replace(
        RUN, surface="jobs", job_type=job_type, tokens=2_100_000, lora_rank=rank, priority=True
    )
    quoted = price(PRICES, job)
    assert quoted.factors == {
        "tokens": 2_100_000,
        "model_params": 8_000_000_000,
        "cents_per_million_tokens_and_billion_params": rate,
        "rank_percent": percent,
    }
    assert quoted.parts == {
        "base": base,
        "tokens": ceil(prod(quoted.factors.values()) / 10**17),
        "priority": 200,
    }
    assert quoted.price_cents == sum(quoted.parts.values())


def test_a_runs_price_says_which_plan_holds_how_much() -> None:
    assert price(PRICES, replace(RUN, dataset_bytes=6_000_000)).factors == {
        "dataset_bytes": 6_000_000,
        "plan_max_bytes": 50_000_000,
    }


def test_an_extension_of_storage_has_a_price_of_its_own() -> None:
    assert extension_price(PRICES).parts == {"storage_extension": 200}
    assert PRICES.storage.days == 30
