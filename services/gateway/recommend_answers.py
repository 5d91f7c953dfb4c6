"""What a recommendation looks like: numbers, the windows around them, and why they are that."""

from msgspec import UNSET, Struct, UnsetType

from services.gateway.recommend_rules import Confidence

DISCLAIMER = "Recommended starting points — tune within the window for your model and data."


class Window(Struct, frozen=True):
    """Both ends belong to it."""

    min: int
    max: int


class RateWindow(Struct, frozen=True):
    """Both ends belong to it."""

    min: float
    max: float


class Evidence(Struct, frozen=True, kw_only=True):
    """Why an output is what it is. ``url`` is null for defaults of this platform."""

    output: str
    rule: str
    source: str
    url: str | None


class TrainSettings(Struct, frozen=True, kw_only=True):
    """Hyperparameters of a train job, under their names there."""

    turns: int
    lr: float
    cycles: int
    steps_per_cycle: int
    seq_len: int
    batch_size: int


class TrainWindows(Struct, frozen=True, kw_only=True):
    """How far around each recommended number it is worth looking."""

    turns: Window
    lr: RateWindow
    cycles: Window
    steps_per_cycle: Window
    seq_len: Window
    batch_size: Window


class FinetuneSettings(Struct, frozen=True, kw_only=True):
    """Hyperparameters of a finetune job, under their names there; ``beta`` with dpo alone. A full
    fine-tune has no use for ``lora_rank``."""

    lr: float
    steps: int
    lora_rank: int
    seq_len: int
    batch_size: int
    beta: float | UnsetType = UNSET


class FinetuneWindows(Struct, frozen=True, kw_only=True):
    """How far around each recommended number it is worth looking."""

    lr: RateWindow
    steps: Window
    lora_rank: Window
    seq_len: Window
    batch_size: Window
    beta: RateWindow | UnsetType = UNSET


class _Recommendation(Struct, frozen=True, kw_only=True, tag_field="type"):
    """``evidence`` and ``confidence`` have an entry for each recommended number."""

    model_params: int
    dataset_tokens_est: int
    notes: list[str]
    evidence: list[Evidence]
    confidence: dict[str, Confidence]
    disclaimer: str


class TrainRecommendation(_Recommendation, frozen=True, kw_only=True, tag="train"):
    """Where to start growing a model, and how far around it to look."""

    recommended: TrainSettings
    windows: TrainWindows


class FinetuneRecommendation(_Recommendation, frozen=True, kw_only=True, tag="finetune"):
    """Where to start adapting a model, and how far around it to look."""

    recommended: FinetuneSettings
    windows: FinetuneWindows


Recommendation = TrainRecommendation | FinetuneRecommendation
