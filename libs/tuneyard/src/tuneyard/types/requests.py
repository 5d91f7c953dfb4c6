"""Made by `just sdk` from the OpenAPI document; what is changed here by hand is lost."""

from typing import Literal

from msgspec import UNSET, Struct, UnsetType


class StartFrom(Struct, frozen=True, kw_only=True):
    """A checkpoint to begin with: of an own fine-tune of the same model by the same method, with
    the same adapter layers. `step` null: its newest.
    """

    job_id: str
    step: int | UnsetType | None = UNSET


class FinetuneHyperparams(Struct, frozen=True, kw_only=True):
    """Adapting: null means what `POST /v1/training/recommend` says for this model and data set
    (`lr`, `seq_len`, `batch_size`, `beta`), else the platform's default.

    `method`: `lora` learns an adapter, `full` every weight, `dpo` an adapter from preferences.
    With `patience`, a job that gets no better ends early and costs what was done.
    """

    source_model_id: str | UnsetType | None = UNSET
    """A model: its UUID, or its slug."""
    base_model_id: str | UnsetType | None = UNSET
    """A model: its UUID, or its slug."""
    output_name: str | UnsetType | None = UNSET
    """For people: 1 to 255 characters, no control characters."""
    seed: int | UnsetType | None = UNSET
    method: Literal["dpo", "full", "lora"] | UnsetType = UNSET
    """Left out: lora."""
    steps: int | UnsetType = UNSET
    """Optimizer steps. Left out: 2000."""
    lora_rank: int | UnsetType = UNSET
    """Capacity of the adapter. Left out: 32."""
    lr: float | UnsetType | None = UNSET
    """Peak of the schedule; null: as recommended."""
    seq_len: int | UnsetType | None = UNSET
    """Tokens in a row of a batch."""
    batch_size: int | UnsetType | None = UNSET
    """Rows in an optimizer step."""
    lora_alpha: float | UnsetType | None = UNSET
    warmup_ratio: float | UnsetType | None = UNSET
    weight_decay: float | UnsetType | None = UNSET
    max_grad_norm: float | UnsetType | None = UNSET
    validation_fraction: float | UnsetType | None = UNSET
    eval_every: int | UnsetType | None = UNSET
    checkpoint_every: int | UnsetType | None = UNSET
    target_modules: list[str] | UnsetType | None = UNSET
    """Linear layers that get an adapter, such as q_proj; null: all."""
    use_rslora: bool | UnsetType = UNSET
    """Scale by alpha / sqrt(rank). Left out: False."""
    beta: float | UnsetType | None = UNSET
    """How closely dpo keeps to the base."""
    merged_model: bool | UnsetType = UNSET
    """Also make the base with the adapter merged in. Left out: False."""
    patience: int | UnsetType | None = UNSET
    """Evaluations without a lower held-out loss after which it ends."""


class TrainHyperparams(Struct, frozen=True, kw_only=True):
    """Growth: null means what `POST /v1/training/recommend` says for this model and data set
    (`cycles`, `steps_per_cycle`, `lr`, `seq_len`, `batch_size`), else the platform's default.
    `strategy`: by new blocks, or by wider ones.
    """

    source_model_id: str | UnsetType | None = UNSET
    """A model: its UUID, or its slug."""
    base_model_id: str | UnsetType | None = UNSET
    """A model: its UUID, or its slug."""
    output_name: str | UnsetType | None = UNSET
    """For people: 1 to 255 characters, no control characters."""
    seed: int | UnsetType | None = UNSET
    strategy: Literal["depth", "width"] | UnsetType = UNSET
    """Left out: depth."""
    trainable: Literal["all", "new_blocks"] | UnsetType = UNSET
    """What learns: what has grown, or every weight. Left out: new_blocks."""
    turns: int | UnsetType = UNSET
    """Full training passes. Left out: 1."""
    cycles: int | UnsetType | None = UNSET
    """Cycles of growing."""
    steps_per_cycle: int | UnsetType | None = UNSET
    """Optimizer steps a cycle."""
    lr: float | UnsetType | None = UNSET
    """Peak of the schedule; null: as recommended."""
    seq_len: int | UnsetType | None = UNSET
    """Tokens in a row of a batch."""
    batch_size: int | UnsetType | None = UNSET
    """Rows in an optimizer step."""
    layers_per_cycle: int | UnsetType | None = UNSET
    warmup_ratio: float | UnsetType | None = UNSET
    weight_decay: float | UnsetType | None = UNSET
    max_grad_norm: float | UnsetType | None = UNSET
    validation_fraction: float | UnsetType | None = UNSET
    checkpoint_every: int | UnsetType | None = UNSET


class ContractHyperparams(Struct, frozen=True, kw_only=True):
    """Contraction: null means the platform's default. `strategy`: blocks are removed, or (`width`)
    of every block the share `contraction_ratio` of its neurons.
    """

    source_model_id: str | UnsetType | None = UNSET
    """A model: its UUID, or its slug."""
    base_model_id: str | UnsetType | None = UNSET
    """A model: its UUID, or its slug."""
    output_name: str | UnsetType | None = UNSET
    """For people: 1 to 255 characters, no control characters."""
    seed: int | UnsetType | None = UNSET
    strategy: Literal["depth", "width"] | UnsetType = UNSET
    """Left out: depth."""
    contraction_ratio: float | UnsetType = UNSET
    """How many of those layers are removed. Left out: 0.5."""
    num_layers_to_contract: int | UnsetType = UNSET
    """How many of the least influential layers to look at. Left out: 8."""
    calibration_rows: int | UnsetType | None = UNSET
    seq_len: int | UnsetType | None = UNSET
    """Tokens in a row of a batch."""


class PreferencesPatch(Struct, frozen=True, kw_only=True):
    """What is left out stays as it is."""

    job_completed: bool | UnsetType = UNSET
    job_failed: bool | UnsetType = UNSET
    billing: bool | UnsetType = UNSET
    product_news: bool | UnsetType = UNSET
