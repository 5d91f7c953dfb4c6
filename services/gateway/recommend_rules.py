"""The rules that a recommendation follows: each gives a value, and why it is that. Pure.

How sure a value is: ``swept`` was measured for this very model, ``formula`` is a published rule on
known inputs, ``extrapolated`` has an input, or is a default, that nobody measured.
"""

import math
from typing import Generic, Literal, TypeVar

from msgspec import Struct

from services.gateway.catalog import FinetuneDefaults, Shape, Swept

Confidence = Literal["swept", "formula", "extrapolated"]

FULL_RATE = 5e-5  # of full weights, at the two references below
LORA_FACTOR = 10  # LoRA's rate over that of full weights
REFERENCE_HIDDEN = 2000
MAX_BATCH = 128  # rows a step that the published rates were found with
EXPONENTS = {"llama": 0.781, "qwen": 0.0775}
OTHER_EXPONENT = EXPONENTS["llama"]  # the more careful one for large models
MAX_LORA_RATE = 1e-3  # the highest that any published sweep chose

EPOCHS = 3
MIN_EXAMPLES, MAX_EXAMPLES = 100, 25_000  # seen over all epochs
MAX_EPOCHS = 25
TOKENS_PER_EXAMPLE = 256  # where only tokens are known: a row of a train job
REPETITION_VALUE = 15.4  # R*: how many repetitions it takes until repeating has paid 63 %

FULL_LEARNING_RATE_SHARE = 0.1
"""Of LoRA's, when whole weights are trained: "LoRA Without Regret", Thinking Machines."""

DPO_RATE, DPO_BETA = 1e-5, 0.1

MAX_JOB_TOKENS = 10**13
"""More than any open model was fine-tuned on; beyond it a price would leave the ledger's range."""

GOOD_STEPS, FEWEST_STEPS = 1000, 100  # optimizer steps
MIN_SEQ_LEN = 16
USUAL_RANK, MIN_RANK, MAX_RANK = 32, 8, 128

USUAL = FinetuneDefaults(learning_rate=3e-4, seq_len=1024, batch_size=16)
"""Where the catalogue says nothing: what it says of models with 7 or 8 billion parameters."""

SHAPES = (
    (1_235_814_400, 2048),
    (3_212_749_824, 3072),
    (6_738_415_616, 4096),
    (8_030_261_248, 4096),
    (13_015_864_320, 5120),
    (32_528_943_616, 6656),
    (70_553_706_496, 8192),
    (405_853_388_800, 16_384),
)
"""Parameters and hidden sizes of Llama 1, 3.1 and 3.2, as published."""

# A Llama 3 block, by its hidden size: sum of its matrices' sides, and its parameters.
BLOCK_SIDES, BLOCK_PARAMS = 20, 13


class Source(Struct, frozen=True):
    name: str
    url: str | None


_COOKBOOK = "https://github.com/thinking-machines-lab/tinker-cookbook/blob/"
HYPERPARAMETERS = Source(
    "Thinking Machines, tinker-cookbook: supervised learning hyperparameters",
    _COOKBOOK
    + "0558526565c71462ab2bfc618e42ccfea5b00341/docs/supervised-learning/sl-hyperparams.mdx",
)
LORA_PRIMER = Source(
    "Thinking Machines, Tinker: LoRA primer",
    "https://tinker-docs.thinkingmachines.ai/lora-primer",
)
OPENAI_EPOCHS = Source(
    "OpenAI cookbook: data preparation for chat model fine-tuning",
    "https://github.com/openai/openai-cookbook/blob/main/examples/Chat_finetuning_data_prep.ipynb",
)
DATA_CONSTRAINED = Source(
    "Muennighoff et al.: Scaling Data-Constrained Language Models",
    "https://arxiv.org/abs/2305.16264",
)
LLAMA_PRO = Source(
    "Wu et al.: LLaMA Pro, Progressive LLaMA with Block Expansion",
    "https://arxiv.org/abs/2401.02415",
)
DPO_GUIDE = Source(
    "Thinking Machines, tinker-cookbook: DPO guide",
    _COOKBOOK + "e251cd56a589df139bc8fee08d2024e21e1ab814/docs/preferences/dpo-guide.mdx",
)
REQUEST = Source("The request", None)
PLATFORM = Source("The platform's defaults", None)


class ModelFacts(Struct, frozen=True, kw_only=True):
    """What is known of the model. ``shape`` and ``swept`` are null where only its size is."""

    params: int
    shape: Shape | None = None
    swept: Swept | None = None
    advised: FinetuneDefaults = USUAL


class DataFacts(Struct, frozen=True, kw_only=True):
    """What is known of the data set; ``examples`` is null where only its tokens are."""

    tokens: int
    examples: int | None = None


T = TypeVar("T")


class Pick(Struct, Generic[T], frozen=True):
    """A value, and why it is that."""

    value: T
    rule: str
    source: Source
    confidence: Confidence


def hidden_size(model: ModelFacts) -> int:
    """Known, or between the published shapes around its size (straight in logarithms).

    Beyond both ends width and depth are taken to grow alike, so that parameters go with its cube.
    """
    if model.shape is not None:
        return model.shape.hidden_size
    (low, low_hidden), (high, high_hidden) = SHAPES[0], SHAPES[-1]
    if model.params <= low:
        return max(1, round(low_hidden * math.cbrt(model.params / low)))
    if model.params >= high:
        return round(high_hidden * math.cbrt(model.params / high))
    above = next(index for index, (params, _) in enumerate(SHAPES) if params > model.params)
    (p0, h0), (p1, h1) = SHAPES[above - 1], SHAPES[above]
    share = math.log(model.params / p0) / math.log(p1 / p0)
    return round(h0 * math.pow(h1 / h0, share))


def lora_rate(model: ModelFacts, batch_size: int) -> Pick[float]:
    """The peak of a LoRA fine-tune's schedule, at so many rows a step."""
    swept = model.swept
    if swept is not None:
        share = min(1.0, math.sqrt(batch_size / swept.batch_size))
        return Pick(
            swept.learning_rate * share,
            f"{swept.learning_rate:g}, the best of a sweep over this model at"
            f" {swept.batch_size} rows a step, times sqrt({batch_size} / {swept.batch_size}),"
            " never more than what was swept",
            Source(swept.source, swept.url),
            "swept",
        )
    hidden = hidden_size(model)
    family = model.shape.family if model.shape else "other"
    exponent = EXPONENTS.get(family, OTHER_EXPONENT)
    rate = min(
        MAX_LORA_RATE, FULL_RATE * LORA_FACTOR * math.pow(REFERENCE_HIDDEN / hidden, exponent)
    )
    known = "" if model.shape else ", estimated from published Llama shapes of this size"
    fitted = "" if family in EXPONENTS else "; the exponent is that of Llama models"
    return Pick(
        rate * math.sqrt(batch_size / MAX_BATCH),
        f"5e-5 x {LORA_FACTOR} x ({REFERENCE_HIDDEN} / H)^{exponent:g}, at most"
        f" {MAX_LORA_RATE:g}, times sqrt({batch_size} / {MAX_BATCH}) for the rows a step;"
        f" H = {hidden}{known}{fitted}",
        HYPERPARAMETERS,
        "formula" if family in EXPONENTS else "extrapolated",
    )


def lora_rank(model: ModelFacts, tokens: int) -> tuple[Pick[int], int]:
    """The rank, and the least one that could still hold the data set."""
    if model.shape is not None:
        sides = model.shape.linear_sides
    else:
        sides = max(1, BLOCK_SIDES * model.params // (BLOCK_PARAMS * hidden_size(model)))
    least = MIN_RANK
    while least < MAX_RANK and least * sides < tokens:
        least *= 2
    rule = (
        f"{USUAL_RANK}, or the power of two whose weights, rank x {sides} (the sum of all linear"
        f" layers' sides), are as many as the data set's tokens; {MIN_RANK} to {MAX_RANK}"
    )
    sure: Confidence = "formula" if model.shape else "extrapolated"
    return Pick(max(USUAL_RANK, least), rule, LORA_PRIMER, sure), least


def epochs(data: DataFacts) -> Pick[int]:
    """Passes over the data set that are aimed at."""
    examples = data.examples or max(1, data.tokens // TOKENS_PER_EXAMPLE)
    count = EPOCHS
    if examples * EPOCHS < MIN_EXAMPLES:
        count = min(MAX_EPOCHS, MIN_EXAMPLES // examples)
    elif examples * EPOCHS > MAX_EXAMPLES:
        count = max(1, MAX_EXAMPLES // examples)
    guessed = "" if data.examples else f", taken to have {TOKENS_PER_EXAMPLE} tokens each"
    return Pick(
        count,
        f"{EPOCHS} epochs; fewer or more to see {MIN_EXAMPLES} to {MAX_EXAMPLES} examples in all,"
        f" 1 to {MAX_EPOCHS}: {count} over {examples} examples{guessed}",
        OPENAI_EPOCHS,
        "formula" if data.examples else "extrapolated",
    )


def unseen_worth(passes: float) -> float:
    """How many passes over unseen data the passes over one data set are worth."""
    repeated = max(0.0, passes - 1)
    return min(passes, 1) + REPETITION_VALUE * -math.expm1(-repeated / REPETITION_VALUE)


def row_length(usual: int, tokens: int) -> Pick[int]:
    """Tokens in a row of a batch: halved as long as the whole data set fits into one row."""
    length = usual
    while length // 2 >= max(MIN_SEQ_LEN, tokens):
        length //= 2
    rule = f"{usual} by default, halved while the whole data set would fit into a row"
    return Pick(length, rule, PLATFORM, "extrapolated")


def batch_size(rows: float, usual: int) -> Pick[int]:
    """Rows in an optimizer step, when so many rows are to be seen over all epochs."""
    size = MAX_BATCH
    while size > 1 and rows / size < (GOOD_STEPS if size > usual else FEWEST_STEPS):
        size //= 2
    rule = (
        f"{MAX_BATCH}, halved until {GOOD_STEPS} steps remain, but not under the model's usual"
        f" {usual} as long as {FEWEST_STEPS} remain: {math.ceil(rows / size)} steps"
    )
    return Pick(size, rule, HYPERPARAMETERS, "formula")
