"""Hyperparameters as a job's owner sees them: under the names that a submission takes."""

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import asdict

from libs.contracts.training import (
    ContractionStrategy,
    ContractParams,
    FinetuneMethod,
    FinetuneParams,
    GrowthStrategy,
    Hyperparams,
    Trainable,
    TrainParams,
)

OF_ADAPTERS = ("lora_rank", "lora_alpha", "target_modules", "use_rslora", "merged_model")
"""What means nothing where there is no adapter."""


class JobHyperparams(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a job trains with, every default filled in. Only what its type has is there, under the
    names that a submission takes."""

    method: FinetuneMethod | UnsetType = UNSET
    strategy: GrowthStrategy | ContractionStrategy | UnsetType = UNSET
    trainable: Trainable | UnsetType = UNSET
    steps: int | UnsetType = UNSET
    lora_rank: int | UnsetType = UNSET
    lora_alpha: float | UnsetType = UNSET
    target_modules: tuple[str, ...] | UnsetType | None = UNSET
    use_rslora: bool | UnsetType = UNSET
    beta: float | UnsetType = UNSET
    merged_model: bool | UnsetType = UNSET
    patience: int | UnsetType | None = UNSET
    turns: int | UnsetType = UNSET
    cycles: int | UnsetType = UNSET
    steps_per_cycle: int | UnsetType = UNSET
    layers_per_cycle: int | UnsetType = UNSET
    contraction_ratio: float | UnsetType = UNSET
    num_layers_to_contract: int | UnsetType = UNSET
    calibration_rows: int | UnsetType = UNSET
    lr: float | UnsetType = UNSET
    seq_len: int | UnsetType = UNSET
    batch_size: int | UnsetType = UNSET
    warmup_ratio: float | UnsetType = UNSET
    weight_decay: float | UnsetType = UNSET
    max_grad_norm: float | UnsetType = UNSET
    validation_fraction: float | UnsetType = UNSET
    eval_every: int | UnsetType = UNSET
    checkpoint_every: int | UnsetType = UNSET
    seed: int | UnsetType = UNSET


def hyperparams_view(params: Hyperparams) -> JobHyperparams:
    """Without what means nothing here: an adapter's rank where there is no adapter."""
    fields = asdict(params)
    idle: tuple[str, ...] = ()
    match params:
        case FinetuneParams(method="full"):
            idle = (*OF_ADAPTERS, "beta")
        case FinetuneParams(method="lora"):
            idle = ("beta",)
        case TrainParams(strategy="width"):
            idle = ("layers_per_cycle",)
        case ContractParams(strategy="width"):
            idle = ("num_layers_to_contract",)
        case _:
            pass
    for name in idle:
        del fields[name]
    if "learning_rate" in fields:
        fields["lr"] = fields.pop("learning_rate")
    return JobHyperparams(**fields)
