"""Hyperparameters to start with, from a model's size and a data set's. Pure.

What somebody has settled already is taken as it is, and the rest follows from it.
"""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from libs.contracts.training import FinetuneMethod
from services.gateway.recommend_answers import (
    DISCLAIMER,
    Evidence,
    FinetuneRecommendation,
    FinetuneSettings,
    FinetuneWindows,
    RateWindow,
    TrainRecommendation,
    TrainSettings,
    TrainWindows,
    Window,
)
from services.gateway.recommend_notes import notes_of
from services.gateway.recommend_rules import (
    DPO_BETA,
    DPO_GUIDE,
    DPO_RATE,
    FEWEST_STEPS,
    FULL_LEARNING_RATE_SHARE,
    GOOD_STEPS,
    LLAMA_PRO,
    MAX_BATCH,
    MAX_JOB_TOKENS,
    MAX_LORA_RATE,
    MAX_RANK,
    MIN_SEQ_LEN,
    OPENAI_EPOCHS,
    PLATFORM,
    REQUEST,
    USUAL_RANK,
    Confidence,
    DataFacts,
    ModelFacts,
    Pick,
    batch_size,
    epochs,
    lora_rank,
    lora_rate,
    row_length,
)

TURNS = 2  # the reference's recommendation
MAX_TURNS = 100  # what a job may have
TRAIN_SEQ_LEN = 256  # the reference's default
MAX_SEQ_LEN = 131_072  # what a job may have
MAX_STEPS = 1_000_000  # what a fine-tune, or a cycle, may have
USUAL_CYCLES = 4  # a train job's default
MAX_CYCLES = 8  # each adds a block, and eight are what published growth added to 32


class Settled(Struct, frozen=True, kw_only=True):
    """What a request has said itself, and what the rest is to fit."""

    turns: int | None = None
    cycles: int | None = None
    steps_per_cycle: int | None = None
    seq_len: int | None = None
    batch_size: int | None = None


NOTHING = Settled()


def recommend_train(
    model: ModelFacts, data: DataFacts, settled: Settled = NOTHING
) -> TrainRecommendation:
    """For a job that grows the model and trains whole weights."""
    aim = epochs(data)
    length, batch = _rows(model, data, settled, min(TRAIN_SEQ_LEN, model.advised.seq_len))
    lora = lora_rate(model, batch.value)
    rate = two_digits(lora.value * FULL_LEARNING_RATE_SHARE)
    turns = settled.turns or TURNS
    turn_rows = turns * length.value * batch.value
    in_a_turn = -(-aim.value * data.tokens // turn_rows)
    per_cycle = settled.steps_per_cycle or min(
        max(-(-in_a_turn // USUAL_CYCLES), FEWEST_STEPS), GOOD_STEPS
    )
    cycles = settled.cycles or min(-(-in_a_turn // per_cycle), MAX_CYCLES)
    steps = settled.steps_per_cycle or min(-(-in_a_turn // cycles), MAX_STEPS)
    arithmetic = (
        f"ceil({aim.value} epochs x {data.tokens} tokens"
        f" / ({turns} turns x %s x {length.value} tokens x {batch.value} rows))"
    )
    why: dict[str, Pick[Any]] = {
        "turns": Pick(turns, "the documented recommendation", PLATFORM, "extrapolated"),
        "lr": Pick(rate, f"a tenth of LoRA's rate: {lora.rule}", lora.source, lora.confidence),
        "cycles": Pick(
            cycles,
            arithmetic % f"{steps} steps"
            + f", at most {MAX_CYCLES}, as many blocks as a published growth of 32 added",
            LLAMA_PRO,
            aim.confidence,
        ),
        "steps_per_cycle": Pick(
            steps,
            arithmetic % f"{cycles} cycles"
            + f", at best {FEWEST_STEPS} to {GOOD_STEPS}; {aim.rule}",
            OPENAI_EPOCHS,
            aim.confidence,
        ),
        "seq_len": length,
        "batch_size": batch,
    }
    return TrainRecommendation(
        model_params=model.params,
        dataset_tokens_est=data.tokens,
        recommended=TrainSettings(**_values(why)),
        windows=TrainWindows(
            turns=around(turns, MAX_TURNS),
            lr=rates_around(rate, MAX_LORA_RATE * FULL_LEARNING_RATE_SHARE),
            cycles=around(cycles, 2 * MAX_CYCLES),
            steps_per_cycle=around(steps, MAX_STEPS),
            seq_len=around(length.value, MAX_SEQ_LEN, MIN_SEQ_LEN),
            batch_size=around(batch.value, MAX_BATCH),
        ),
        notes=notes_of(model, data, aim.value, cycles * steps * turn_rows / data.tokens),
        evidence=_evidence(why),
        confidence=_confidence(why),
        disclaimer=DISCLAIMER,
    )


def recommend_finetune(
    model: ModelFacts,
    data: DataFacts,
    settled: Settled = NOTHING,
    method: FinetuneMethod = "lora",
) -> FinetuneRecommendation:
    """For a job that adapts the model."""
    aim = epochs(data)
    length, batch = _rows(model, data, settled, model.advised.seq_len)
    rate = finetune_rate(model, batch.value, method)
    rank, least_rank = _rank(model, data, method)
    per_step = length.value * batch.value
    most_steps = max(1, min(MAX_STEPS, MAX_JOB_TOKENS // per_step))
    steps = min(-(-aim.value * data.tokens // per_step), most_steps)
    why: dict[str, Pick[Any]] = {
        "lr": rate,
        "steps": Pick(
            steps,
            f"ceil({aim.value} epochs x {data.tokens} tokens"
            f" / ({length.value} tokens x {batch.value} rows)); {aim.rule}",
            OPENAI_EPOCHS,
            aim.confidence,
        ),
        "lora_rank": rank,
        "seq_len": length,
        "batch_size": batch,
    }
    if method == "dpo":
        why["beta"] = Pick(DPO_BETA, "0.1, as published", DPO_GUIDE, "formula")
    top = MAX_LORA_RATE * (FULL_LEARNING_RATE_SHARE if method == "full" else 1)
    return FinetuneRecommendation(
        model_params=model.params,
        dataset_tokens_est=data.tokens,
        recommended=FinetuneSettings(**_values(why)),
        windows=FinetuneWindows(
            lr=rates_around(rate.value, top),
            steps=around(steps, most_steps),
            lora_rank=Window(least_rank, min(2 * rank.value, MAX_RANK)),
            seq_len=around(length.value, MAX_SEQ_LEN, MIN_SEQ_LEN),
            batch_size=around(batch.value, MAX_BATCH),
            **({"beta": rates_around(DPO_BETA, 1.0)} if method == "dpo" else {}),
        ),
        notes=notes_of(
            model,
            data,
            aim.value,
            steps * per_step / data.tokens,
            sized_rate=method != "dpo",
        ),
        evidence=_evidence(why),
        confidence=_confidence(why),
        disclaimer=DISCLAIMER,
    )


def finetune_rate(model: ModelFacts, rows: int, method: FinetuneMethod) -> Pick[float]:
    """The peak of the schedule, at so many rows a step."""
    if method == "dpo":
        return Pick(DPO_RATE, "1e-5, whatever the model's size", DPO_GUIDE, "formula")
    lora = lora_rate(model, rows)
    if method == "lora":
        return Pick(two_digits(lora.value), lora.rule, lora.source, lora.confidence)
    rate = two_digits(lora.value * FULL_LEARNING_RATE_SHARE)
    return Pick(rate, f"a tenth of LoRA's rate: {lora.rule}", lora.source, lora.confidence)


def _rows(
    model: ModelFacts, data: DataFacts, settled: Settled, usual: int
) -> tuple[Pick[int], Pick[int]]:
    """How long a row is, and how many make a step."""
    length = row_length(usual, data.tokens)
    if settled.seq_len is not None:
        length = Pick(settled.seq_len, "as it was asked for", REQUEST, "extrapolated")
    if settled.batch_size is not None:
        return length, Pick(settled.batch_size, "as it was asked for", REQUEST, "extrapolated")
    seen = epochs(data).value * data.tokens / length.value
    return length, batch_size(seen, model.advised.batch_size)


def _rank(model: ModelFacts, data: DataFacts, method: FinetuneMethod) -> tuple[Pick[int], int]:
    if method == "full":
        rule = "the default, which a full fine-tune does not use"
        return Pick(USUAL_RANK, rule, PLATFORM, "extrapolated"), USUAL_RANK
    return lora_rank(model, data.tokens)


def _values(why: Mapping[str, Pick[Any]]) -> dict[str, Any]:
    return {output: pick.value for output, pick in why.items()}


def _evidence(why: Mapping[str, Pick[Any]]) -> list[Evidence]:
    return [
        Evidence(output=output, rule=pick.rule, source=pick.source.name, url=pick.source.url)
        for output, pick in why.items()
    ]


def _confidence(why: Mapping[str, Pick[Any]]) -> dict[str, Confidence]:
    return {output: pick.confidence for output, pick in why.items()}


def around(value: int, most: int, least: int = 1) -> Window:
    """Half to double of it, within what is allowed."""
    return Window(max(least, -(-value // 2)), min(most, 2 * value))


def rates_around(rate: float, most: float) -> RateWindow:
    """Half to double of it, capped; a rate above the cap was measured, and is its own cap."""
    return RateWindow(rate / 2, min(2 * rate, max(rate, most)))


def two_digits(rate: float) -> float:
    """No rule here is more exact than that."""
    return float(f"{rate:.1e}")
