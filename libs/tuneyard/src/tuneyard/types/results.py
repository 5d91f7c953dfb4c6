"""Made by `just sdk` from the OpenAPI document; what is changed here by hand is lost."""

from msgspec import Struct


class ParityReport(Struct, frozen=True, kw_only=True):
    """The exported artifact, reloaded, against the model in memory, on held-out tokens."""

    max_abs_logit: float
    mean_kl: float
    greedy_match: float


class Sample(Struct, frozen=True, kw_only=True):
    """One held-out prompt, answered greedily before and after tuning."""

    prompt: str
    base: str
    tuned: str


class GrowthReport(Struct, frozen=True, kw_only=True):
    """What the last growth, to `blocks` new blocks or `neurons` new neurons in every MLP, did to
    the logits on held-out tokens: for blocks nothing, all zeros; for neurons rounding.

    `mean_kl` is in nats, `rel_l2` the norm of the difference over the norm of the logits.
    """

    blocks: int
    mean_kl: float
    max_abs_logit: float
    rel_l2: float
    neurons: int


class ForgettingReport(Struct, frozen=True, kw_only=True):
    """What training has cost of what the model knew before: its loss on text that the model before
    training had written (`split` says which). `score` is the rise in nats a token, an estimate
    of KL(before || after): 0 is nothing forgotten.
    """

    split: str
    ppl_before: float
    ppl_after: float
    score: float


class PreferenceReport(Struct, frozen=True, kw_only=True):
    """Of a DPO job, on the held-out pairs: how often the chosen answer has the higher implicit
    reward, and by how much on average (beta x log-ratio, in nats).
    """

    accuracy: float
    margin: float


class Result(Struct, frozen=True, kw_only=True):
    """The headline result with what it cost. `cost_usd` is derived from `charge_cents`."""

    ppl_baseline: float
    ppl_final: float
    ppl_delta_pct: float
    loss_final: float
    params_before: int
    params_after: int
    params_delta: int
    function_preservation: float
    gpu_seconds: float
    tokens_processed: int
    split: str
    steps: int
    train_loss_final: float
    rows_truncated: int
    tokens_truncated: int
    device: str
    parity: ParityReport | None = None
    samples: list[Sample] = []
    lineage: dict[str, str]
    growth: GrowthReport | None = None
    forgetting: ForgettingReport | None = None
    preference: PreferenceReport | None = None
    stopped_early: bool
    best_step: int | None = None
    job_id: str
    cost_usd: float
    charge_cents: int
    currency: str
