"""What a request can't mean, though each of its parts is allowed: refused by name. Pure."""

from typing import assert_never

from libs.contracts.base import DatasetRef
from services.gateway.http.errors import invalid
from services.gateway.job_requests import (
    LAYERS_TO_CONTRACT,
    LORA_RANK,
    AnyRequest,
    ContractHyperparams,
    FinetuneHyperparams,
    TrainHyperparams,
)

PREFERENCE = '{"prompt": ..., "chosen": ..., "rejected": ...}'


def refuse_contradictions(
    request: AnyRequest, dataset: DatasetRef | None, validation: DatasetRef | None
) -> None:
    """Raises ApiError 422 that says what to change."""
    match request.hyperparams:
        case FinetuneHyperparams() as hyper:
            _check_method(hyper)
            _check_preferences(hyper, dataset)
        case TrainHyperparams() as hyper:
            if hyper.strategy == "width" and hyper.layers_per_cycle is not None:
                raise invalid(
                    "hyperparams.layers_per_cycle: width growth adds no layers; leave it out"
                )
            _refuse_preferences(dataset, "a growth learns from")
        case ContractHyperparams() as hyper:
            layers = hyper.num_layers_to_contract
            if hyper.strategy == "width" and layers != LAYERS_TO_CONTRACT:
                raise invalid(
                    "hyperparams.num_layers_to_contract: a contraction of the width is of all"
                    " layers alike; leave it out"
                )
            _refuse_preferences(dataset, "a contraction measures on")
        case hyper:
            assert_never(hyper)
    _check_validation(dataset, validation)


def _check_method(hyper: FinetuneHyperparams) -> None:
    if hyper.method != "dpo" and hyper.beta is not None:
        raise invalid(
            f"hyperparams.beta: only the method dpo has one, and this is {hyper.method};"
            " leave it out, or send method dpo with preference data"
        )
    if hyper.method != "full":
        return
    if hyper.merged_model:
        raise invalid(
            "hyperparams.merged_model: a full fine-tune makes a whole model already; leave it out"
        )
    said = {
        "lora_rank": hyper.lora_rank != LORA_RANK,
        "lora_alpha": hyper.lora_alpha is not None,
        "target_modules": hyper.target_modules is not None,
        "use_rslora": hyper.use_rslora,
    }
    for name, of_adapter in said.items():
        if of_adapter:
            raise invalid(
                f"hyperparams.{name}: a full fine-tune has no adapter; leave it out, or send"
                " method lora"
            )


def _check_preferences(hyper: FinetuneHyperparams, dataset: DatasetRef | None) -> None:
    kind = dataset.kind if dataset else None
    if hyper.method == "dpo" and kind != "preference":
        raise invalid(
            f"dataset_id: the method dpo learns from rows like {PREFERENCE}, and those of this"
            f" data set are of the kind {kind}; name another data set, or another method"
        )
    if hyper.method != "dpo" and kind == "preference":
        raise invalid(
            f"dataset_id: its rows are preferences, which the method {hyper.method} can't learn"
            " from; send method dpo, or name another data set"
        )


def _refuse_preferences(dataset: DatasetRef | None, who: str) -> None:
    if dataset is not None and dataset.kind == "preference":
        raise invalid(
            f"dataset_id: its rows are preferences, and {who} texts and conversations; name another"
            " data set, or send a finetune with method dpo"
        )


def _check_validation(dataset: DatasetRef | None, validation: DatasetRef | None) -> None:
    if dataset is None or validation is None:
        return
    if validation.id == dataset.id:
        raise invalid(
            "validation_dataset_id: this is the data set that is trained on; name another, or leave"
            " it out and a share of the rows is held out"
        )
    if validation.kind != dataset.kind:
        raise invalid(
            f"validation_dataset_id: its rows are of the kind {validation.kind}, those of the data"
            f" set of the kind {dataset.kind}; name one of the same kind"
        )
