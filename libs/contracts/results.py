"""What a finished job has to show: its headline, and the reports that stand behind it."""

from msgspec import Struct

from libs.contracts.base import Count, LongText, ShortText, Step


class ParityReport(Struct, frozen=True, kw_only=True):
    """The exported artifact, reloaded, against the model in memory, on held-out tokens."""

    max_abs_logit: float
    mean_kl: float
    greedy_match: float


class GrowthReport(Struct, frozen=True, kw_only=True):
    """What the last growth, to ``blocks`` new blocks or ``neurons`` new neurons in every MLP, did
    to the logits on held-out tokens: for blocks nothing, all zeros; for neurons rounding.

    ``mean_kl`` is in nats, ``rel_l2`` the norm of the difference over the norm of the logits.
    """

    blocks: Count
    mean_kl: float
    max_abs_logit: float
    rel_l2: float
    neurons: Count = 0


class ForgettingReport(Struct, frozen=True, kw_only=True):
    """What training has cost of what the model knew before: its loss on text that the model before
    training had written (``split`` says which). ``score`` is the rise in nats a token, an estimate
    of KL(before || after): 0 is nothing forgotten."""

    split: ShortText
    ppl_before: float
    ppl_after: float
    score: float


class PreferenceReport(Struct, frozen=True, kw_only=True):
    """Of a DPO job, on the held-out pairs: how often the chosen answer has the higher implicit
    reward, and by how much on average (beta x log-ratio, in nats)."""

    accuracy: float
    margin: float


class Sample(Struct, frozen=True, kw_only=True):
    """One held-out prompt, answered greedily before and after tuning."""

    prompt: LongText
    base: LongText
    tuned: LongText


class RunResult(Struct, frozen=True, kw_only=True):
    """The headline of a finished run. Perplexities are on ``split``; tokens exclude padding.

    ``function_preservation`` is a mean KL divergence in nats: how far the model that training
    starts from is from its base (0 for LoRA and for new blocks, whose start is exact), and for a
    contraction, how far the smaller model is from the larger. ``growth`` has more on new blocks.
    ``stopped_early``: the held-out loss fell no more, so fewer ``steps`` than planned were taken;
    the weights are those after ``best_step``.
    """

    ppl_baseline: float
    ppl_final: float
    ppl_delta_pct: float
    loss_final: float
    params_before: Count
    params_after: Count
    params_delta: int
    function_preservation: float
    gpu_seconds: float
    tokens_processed: Count
    split: ShortText
    steps: Step
    train_loss_final: float
    rows_truncated: Count
    tokens_truncated: Count
    device: ShortText
    parity: ParityReport | None = None
    samples: tuple[Sample, ...] = ()
    lineage: dict[str, str] = {}
    growth: GrowthReport | None = None
    forgetting: ForgettingReport | None = None
    preference: PreferenceReport | None = None
    stopped_early: bool = False
    best_step: Step | None = None
