"""Recommended hyperparameters: true by arithmetic, inside their windows, and takeable by a job."""

import math
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from libs.contracts.training import FinetuneMethod, FinetuneParams, TrainParams
from services.gateway.catalog import FinetuneDefaults, Shape, Swept, read_catalog
from services.gateway.job_requests import FinetuneHyperparams, TrainHyperparams
from services.gateway.orders import params_of
from services.gateway.recommend import recommend_finetune, recommend_train
from services.gateway.recommend_answers import Recommendation, TrainRecommendation
from services.gateway.recommend_notes import passes_said, rounded
from services.gateway.recommend_rules import (
    DataFacts,
    ModelFacts,
    batch_size,
    epochs,
    hidden_size,
    lora_rank,
    lora_rate,
    unseen_worth,
)

CATALOG = {model.slug: model for model in read_catalog(Path(__file__).parents[2] / "catalog.toml")}
MOST = 10**13

PARAMS = st.integers(0, 43).map(lambda bits: min(2**bits, MOST)) | st.integers(1, MOST)
ADVISED = st.builds(
    FinetuneDefaults,
    learning_rate=st.floats(1e-6, 1e-2),
    seq_len=st.integers(16, 131_072),
    batch_size=st.integers(1, 4096),
)
SHAPED = st.builds(
    Shape,
    family=st.sampled_from(["llama", "qwen", "mistral"]),
    hidden_size=st.integers(1, 2**20),
    linear_sides=st.integers(1, 2**40),
)
SWEPT = st.builds(
    Swept,
    learning_rate=st.floats(1e-6, 1),
    batch_size=st.integers(1, 4096),
    source=st.just("a sweep"),
)
MODELS = st.builds(
    ModelFacts,
    params=PARAMS,
    shape=st.none() | SHAPED,
    swept=st.none() | SWEPT,
    advised=ADVISED,
) | st.builds(ModelFacts, params=PARAMS)
DATA = st.builds(
    DataFacts, tokens=PARAMS, examples=st.none() | st.integers(1, MOST) | st.integers(1, 200)
)
SMALLEST, LARGEST = DataFacts(tokens=1), DataFacts(tokens=MOST)
LONG_ROWS = ModelFacts(
    params=10**9, advised=FinetuneDefaults(learning_rate=1e-4, seq_len=131_072, batch_size=16)
)


def facts(slug: str) -> ModelFacts:
    model = CATALOG[slug]
    return ModelFacts(
        params=model.params, shape=model.shape, swept=model.swept, advised=model.finetune
    )


def both(model: ModelFacts, data: DataFacts) -> tuple[Recommendation, Recommendation]:
    return recommend_train(model, data), recommend_finetune(model, data)


def each(model: ModelFacts, data: DataFacts) -> list[tuple[str, Recommendation]]:
    """One a job type and method."""
    methods: tuple[FinetuneMethod, ...] = ("lora", "full", "dpo")
    tuned = [(method, recommend_finetune(model, data, method=method)) for method in methods]
    return [("train", recommend_train(model, data)), *tuned]


def numbers(answer: Recommendation) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(answer.recommended)
    return found


def tokens_seen(answer: Recommendation) -> int:
    chosen: dict[str, Any] = msgspec.structs.asdict(answer.recommended)
    steps = chosen.get("steps") or chosen["turns"] * chosen["cycles"] * chosen["steps_per_cycle"]
    return int(steps) * int(chosen["seq_len"]) * int(chosen["batch_size"])


@given(MODELS, DATA)
@example(ModelFacts(params=1), SMALLEST)
@example(ModelFacts(params=MOST), LARGEST)
def test_a_recommendation_lies_in_its_windows_and_each_number_has_its_reason(
    model: ModelFacts, data: DataFacts
) -> None:
    for _, answer in each(model, data):
        chosen = numbers(answer)
        for name, value in chosen.items():
            window = getattr(answer.windows, name)
            assert window.min <= value <= window.max, name
            assert math.isfinite(value)
            assert value > 0
            whole = name not in ("lr", "beta")
            assert {type(value), type(window.min), type(window.max)} == {int if whole else float}
        assert [why.output for why in answer.evidence] == list(chosen) == list(answer.confidence)


@given(MODELS, DATA)
@example(ModelFacts(params=1), SMALLEST)
@example(ModelFacts(params=MOST), LARGEST)
@example(LONG_ROWS, LARGEST)
def test_a_job_takes_what_is_recommended_and_both_ends_of_every_window(
    model: ModelFacts, data: DataFacts
) -> None:
    for method, answer in each(model, data):
        train = isinstance(answer, TrainRecommendation)
        requested = TrainHyperparams if train else FinetuneHyperparams
        params = TrainParams if train else FinetuneParams
        chosen = numbers(answer) | ({} if train else {"method": method})
        ordered = params_of(msgspec.convert(chosen, requested), model, data).params
        assert ordered.planned_tokens == tokens_seen(answer)
        assert msgspec.convert(msgspec.to_builtins(ordered), params) == ordered
        for name in numbers(answer):
            for end in ("min", "max"):
                edge = getattr(getattr(answer.windows, name), end)
                msgspec.convert(chosen | {name: edge}, requested)


@given(MODELS, DATA)
@example(ModelFacts(params=7 * 10**9), SMALLEST)
@example(ModelFacts(params=7 * 10**9), LARGEST)
def test_the_note_about_epochs_is_true_by_arithmetic(model: ModelFacts, data: DataFacts) -> None:
    for answer in both(model, data):
        said = re.match(r"≈([\d.,e-]+) epochs? over your ~", answer.notes[0])
        assert said is not None, answer.notes[0]
        epochs_said = float(said[1].replace(",", ""))
        assert tokens_seen(answer) == pytest.approx(epochs_said * data.tokens, rel=0.051)


@given(PARAMS, st.integers(10_000, 10**9), st.none() | st.integers(100, 10**6))
def test_a_job_sees_the_data_as_often_as_the_rule_wants(
    params: int, tokens: int, examples: int | None
) -> None:
    data = DataFacts(tokens=tokens, examples=examples)
    wanted = epochs(data).value * tokens
    train, finetune = both(ModelFacts(params=params), data)
    assert wanted <= tokens_seen(train) <= 1.2 * wanted
    assert wanted <= tokens_seen(finetune) <= 1.2 * wanted


@given(st.integers(10_000, 10**9))
def test_cycles_are_the_work_divided_by_what_a_cycle_does(tokens: int) -> None:
    data = DataFacts(tokens=tokens)
    chosen = recommend_train(ModelFacts(params=7 * 10**9), data).recommended
    a_cycle = chosen.turns * chosen.steps_per_cycle * chosen.seq_len * chosen.batch_size
    assert chosen.cycles == math.ceil(epochs(data).value * tokens / a_cycle)


@given(PARAMS, PARAMS, DATA)
def test_the_learning_rate_falls_with_size(one: int, other: int, data: DataFacts) -> None:
    small, large = (ModelFacts(params=params) for params in sorted((one, other)))
    for of_small, of_large in zip(both(small, data), both(large, data), strict=True):
        assert of_small.recommended.lr >= of_large.recommended.lr
    assert hidden_size(small) <= hidden_size(large)


@given(PARAMS, st.integers(1, 128), st.integers(1, 128))
def test_the_learning_rate_goes_with_the_root_of_the_batch(params: int, a: int, b: int) -> None:
    model = ModelFacts(params=params)
    of_a, of_b = lora_rate(model, a).value, lora_rate(model, b).value
    assert of_a / of_b == pytest.approx(math.sqrt(a / b))


@given(MODELS, PARAMS, PARAMS)
def test_the_rank_grows_with_the_data(model: ModelFacts, one: int, other: int) -> None:
    (few, least_few), (many, least_many) = (
        lora_rank(model, tokens) for tokens in sorted((one, other))
    )
    assert 8 <= least_few <= least_many <= 128
    assert 32 <= few.value <= many.value <= 128


@pytest.mark.parametrize(
    ("examples", "passes"),
    [(1, 25), (4, 25), (10, 10), (33, 3), (34, 3), (8333, 3), (8334, 2), (12_501, 1), (10**9, 1)],
)
def test_epochs_show_a_hundred_to_25_000_examples(examples: int, passes: int) -> None:
    assert epochs(DataFacts(tokens=10**6, examples=examples)).value == passes


@pytest.mark.parametrize(
    ("rows", "usual", "size"),
    [
        (1, 16, 1),
        (400, 16, 4),
        (1600, 16, 16),
        (16_000, 16, 16),
        (32_000, 16, 32),
        (10**9, 16, 128),
    ],
)
def test_a_batch_leaves_enough_steps(rows: int, usual: int, size: int) -> None:
    assert batch_size(rows, usual).value == size


def test_the_documents_example_has_its_shape_and_its_notes() -> None:
    answer = recommend_train(ModelFacts(params=7_000_000_000), DataFacts(tokens=2_100_000))
    assert answer.notes[:2] == [
        "≈3 epochs over your ~2.1M-token dataset",
        "Learning rate tuned for a ~7B model",
    ]
    chosen = answer.recommended
    assert (chosen.turns, chosen.seq_len) == (2, 256)
    # 5e-5 x (2000 / 4096)^0.781 x sqrt(16 / 128)
    assert (chosen.batch_size, chosen.lr) == (16, 1.0e-5)
    assert (answer.windows.lr.min, answer.windows.lr.max) == (5e-6, 2e-5)
    assert answer.confidence["lr"] == "extrapolated"
    assert "4096" in answer.notes[2]


@pytest.mark.parametrize(
    ("slug", "confidence"),
    [("llama-3.1-8b", "swept"), ("tiny-llama", "swept"), ("mistral-7b", "extrapolated")],
)
def test_a_swept_rate_wins_over_the_formula(slug: str, confidence: str) -> None:
    answer = recommend_finetune(facts(slug), DataFacts(tokens=10**9, examples=10**6))
    assert answer.confidence["lr"] == confidence
    if CATALOG[slug].swept is not None:
        assert answer.recommended.lr == CATALOG[slug].swept.learning_rate


def test_a_known_shape_of_a_fitted_family_is_a_formula() -> None:
    shape = Shape(family="qwen", hidden_size=2560, linear_sides=10**6)
    model = ModelFacts(params=4 * 10**9, shape=shape)
    rate = lora_rate(model, 128)
    assert rate.confidence == "formula"
    assert rate.value == pytest.approx(5e-4 * (2000 / 2560) ** 0.0775)
    assert lora_rate(msgspec.structs.replace(model, shape=None), 128).confidence == "extrapolated"


@given(MODELS, DATA)
def test_whole_weights_learn_at_a_tenth_of_loras_rate(model: ModelFacts, data: DataFacts) -> None:
    chosen = recommend_train(model, data).recommended
    of_lora = lora_rate(model, chosen.batch_size).value
    assert chosen.lr == pytest.approx(of_lora / 10, rel=0.051)


@pytest.mark.parametrize("slug", CATALOG)
def test_the_catalogues_shapes_are_those_of_models_of_their_size(slug: str) -> None:
    model = CATALOG[slug]
    assert model.shape is not None
    guess = hidden_size(ModelFacts(params=model.params))
    assert guess == pytest.approx(model.shape.hidden_size, rel=0.4)
    sides_of_llama_blocks = 20 / 13 * model.params / model.shape.hidden_size
    assert 0.6 <= model.shape.linear_sides / sides_of_llama_blocks <= 1


def test_repeated_data_is_worth_less_and_never_more_than_its_limit() -> None:
    assert unseen_worth(0.5) == 0.5
    assert unseen_worth(1) == 1
    assert unseen_worth(4) == pytest.approx(4, rel=0.1)
    assert unseen_worth(16) == pytest.approx(10.6, rel=0.01)
    assert unseen_worth(10_000) == pytest.approx(16.4)


def test_many_epochs_and_too_few_steps_are_said() -> None:
    model = ModelFacts(params=10**9)
    few = recommend_train(model, DataFacts(tokens=2000, examples=4))
    assert any("repetition pays less" in note for note in few.notes)
    huge = recommend_train(model, LARGEST)
    assert any("can't have the steps" in note for note in huge.notes)
    assert huge.notes[0].startswith("≈0.")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        *[(1, "1"), (999, "999"), (1000, "1K"), (2_100_000, "2.1M"), (999_999, "1M")],
        *[(7 * 10**9, "7B"), (8_030_261_248, "8B"), (13_015_864_320, "13B"), (MOST, "10T")],
    ],
)
def test_sizes_are_said_as_people_say_them(count: int, text: str) -> None:
    assert rounded(count) == text


@given(st.floats(1e-4, 1e5))
def test_passes_are_said_right_to_a_twentieth(passes: float) -> None:
    assert float(passes_said(passes).replace(",", "")) == pytest.approx(passes, rel=0.051)
