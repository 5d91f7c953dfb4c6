"""The order that a request means: every hyperparameter chosen, and the bounds kept. Pure."""

from typing import Any, assert_never
from uuid import UUID

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from libs.contracts.base import DatasetRef, JobType
from libs.contracts.training import ContractParams, FinetuneParams, Hyperparams, TrainParams
from services.gateway.bases import Base
from services.gateway.http.errors import invalid
from services.gateway.job_requests import (
    LORA_RANK,
    AnyRequest,
    ContractHyperparams,
    FinetuneHyperparams,
    TrainHyperparams,
    request_digest,
)
from services.gateway.model import Key, Order
from services.gateway.recommend import Settled, recommend_finetune, recommend_train
from services.gateway.recommend_rules import MAX_JOB_TOKENS, DataFacts, ModelFacts

MAX_STEPS = 10**9  # what events can count

NAMES = {"lr": "learning_rate"}
"""Hyperparameters that are called otherwise inside."""
ELSEWHERE = frozenset({"source_model_id", "base_model_id", "output_name"})

FINETUNE_ADVICE = ("lr", "seq_len", "batch_size")
TRAIN_ADVICE = ("lr", "cycles", "steps_per_cycle", "seq_len", "batch_size")
"""What is recommended where a request says nothing. The others have a documented default."""


class Chosen(Struct, frozen=True, kw_only=True):
    """``recommended`` names, as a request would, what nobody asked for."""

    params: Hyperparams
    recommended: tuple[str, ...]


def params_of(
    hyper: FinetuneHyperparams | TrainHyperparams | ContractHyperparams,
    model: ModelFacts,
    data: DataFacts,
) -> Chosen:
    """Every value explicit: the request's, else the recommended one, else the platform's default.

    Raises ApiError 422 for more work than a job may have.
    """
    advice = _advice(hyper, model, data)
    said = {
        name: value
        for name in hyper.__struct_fields__
        if name not in ELSEWHERE and (value := getattr(hyper, name)) is not None
    }
    recommended = {name: value for name, value in advice.items() if name not in said}
    values = {NAMES.get(name, name): value for name, value in (recommended | said).items()}
    chosen: Hyperparams
    match hyper:
        case FinetuneHyperparams():
            if hyper.target_modules is not None:
                values["target_modules"] = tuple(sorted(set(hyper.target_modules)))
            chosen = FinetuneParams(**values)
        case TrainHyperparams():
            chosen = TrainParams(**values)
        case ContractHyperparams():
            chosen = ContractParams(**values)
        case _:
            assert_never(hyper)
    if chosen.planned_tokens > MAX_JOB_TOKENS or chosen.planned_steps > MAX_STEPS:
        raise invalid(
            f"hyperparams: {chosen.planned_steps} steps over {chosen.planned_tokens} tokens are"
            f" more than a job may have ({MAX_STEPS} steps, {MAX_JOB_TOKENS} tokens); lower them"
        )
    return Chosen(params=chosen, recommended=tuple(recommended))


def _advice(
    hyper: FinetuneHyperparams | TrainHyperparams | ContractHyperparams,
    model: ModelFacts,
    data: DataFacts,
) -> dict[str, Any]:
    """What is recommended beside what the request says."""
    answer: Any
    match hyper:
        case FinetuneHyperparams():
            settled = Settled(seq_len=hyper.seq_len, batch_size=hyper.batch_size)
            answer = recommend_finetune(model, data, settled, hyper.method)
            names = FINETUNE_ADVICE + (("beta",) if hyper.method == "dpo" else ())
        case TrainHyperparams():
            settled = Settled(
                turns=hyper.turns,
                cycles=hyper.cycles,
                steps_per_cycle=hyper.steps_per_cycle,
                seq_len=hyper.seq_len,
                batch_size=hyper.batch_size,
            )
            answer, names = recommend_train(model, data, settled), TRAIN_ADVICE
        case ContractHyperparams():
            return {}
        case _:
            assert_never(hyper)
    return {name: getattr(answer.recommended, name) for name in names}


def order_of(
    request: AnyRequest,
    *,
    account_id: UUID,
    key: Key | None,
    base: Base,
    dataset: DatasetRef | None,
    validation: DatasetRef | None = None,
) -> Order:
    chosen = params_of(request.hyperparams, base.facts, facts_of(dataset))
    params = going_on(request.hyperparams, chosen.params, base.adapter)
    return Order(
        account_id=account_id,
        surface="jobs",
        key=key,
        request_sha256=request_digest(request),
        job_type=job_type_of(request),
        model=base.ref,
        dataset=dataset,
        params=params,
        output_name=request.hyperparams.output_name,
        label=request.label,
        priority=request.priority_processing,
        validation=validation,
        recommended=chosen.recommended,
    )


def going_on(
    hyper: FinetuneHyperparams | TrainHyperparams | ContractHyperparams,
    params: Hyperparams,
    adapter: FinetuneParams | None,
) -> Hyperparams:
    """An adapter goes on as itself: where nothing else is asked for, with the shape that it has.

    Raises ApiError 422 where something else is. Only an adapter goes on; other work takes it in.
    """
    if adapter is None or not isinstance(hyper, FinetuneHyperparams) or hyper.method == "full":
        return params
    assert isinstance(params, FinetuneParams)
    said = {
        "lora_rank": hyper.lora_rank != LORA_RANK,
        "lora_alpha": hyper.lora_alpha is not None,
        "target_modules": hyper.target_modules is not None,
        "use_rslora": hyper.use_rslora,
    }
    its = {name: getattr(adapter, name) for name in said}
    for name, value in its.items():
        if said[name] and getattr(params, name) != value:
            shown = "all layers" if value is None else msgspec.json.encode(value).decode()
            raise invalid(
                f"hyperparams.{name}: the adapter that this goes on with has {shown}; leave it out,"
                " or name a merged model (merged_model) as the base"
            )
    return replace(params, **its)


def facts_of(dataset: DatasetRef | None) -> DataFacts:
    """What a recommendation goes by; a job without a data set takes none of them."""
    if dataset is None:
        return DataFacts(tokens=1)
    return DataFacts(tokens=max(1, dataset.tokens), examples=max(1, dataset.rows))


def job_type_of(request: AnyRequest) -> JobType:
    tag: JobType = request.__struct_config__.tag  # type: ignore[assignment]
    return tag
