"""Made by `just sdk` from the OpenAPI document; what is changed here by hand is lost."""

from typing import ClassVar

from msgspec import Struct


class Evidence(Struct, frozen=True, kw_only=True):
    """Why an output is what it is. `url` is null for defaults of this platform."""

    output: str
    rule: str
    source: str
    url: str | None = None


class TrainSettings(Struct, frozen=True, kw_only=True):
    """Hyperparameters of a train job, under their names there."""

    turns: int
    lr: float
    cycles: int
    steps_per_cycle: int
    seq_len: int
    batch_size: int


class Window(Struct, frozen=True, kw_only=True):
    """Both ends belong to it."""

    min: int
    max: int


class RateWindow(Struct, frozen=True, kw_only=True):
    """Both ends belong to it."""

    min: float
    max: float


class TrainWindows(Struct, frozen=True, kw_only=True):
    """How far around each recommended number it is worth looking."""

    turns: Window
    lr: RateWindow
    cycles: Window
    steps_per_cycle: Window
    seq_len: Window
    batch_size: Window


class TrainRecommendation(Struct, frozen=True, kw_only=True, tag_field="type", tag="train"):
    """Where to start growing a model, and how far around it to look."""

    type: ClassVar[str] = "train"
    model_params: int
    dataset_tokens_est: int
    notes: list[str] = []
    evidence: list[Evidence] = []
    confidence: dict[str, str]
    disclaimer: str
    recommended: TrainSettings
    windows: TrainWindows


class FinetuneSettings(Struct, frozen=True, kw_only=True):
    """Hyperparameters of a finetune job, under their names there; `beta` with dpo alone. A full
    fine-tune has no use for `lora_rank`.
    """

    lr: float
    steps: int
    lora_rank: int
    seq_len: int
    batch_size: int
    beta: float | None = None


class FinetuneWindows(Struct, frozen=True, kw_only=True):
    """How far around each recommended number it is worth looking."""

    lr: RateWindow
    steps: Window
    lora_rank: Window
    seq_len: Window
    batch_size: Window
    beta: RateWindow | None = None


class FinetuneRecommendation(Struct, frozen=True, kw_only=True, tag_field="type", tag="finetune"):
    """Where to start adapting a model, and how far around it to look."""

    type: ClassVar[str] = "finetune"
    model_params: int
    dataset_tokens_est: int
    notes: list[str] = []
    evidence: list[Evidence] = []
    confidence: dict[str, str]
    disclaimer: str
    recommended: FinetuneSettings
    windows: FinetuneWindows
