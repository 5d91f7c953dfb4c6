"""The pure part of a submission: what is ordered, what its key means, what becomes of it."""

import hashlib
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID, uuid5

import msgspec
from msgspec import Struct

from libs.contracts.base import DatasetRef, JobType, ModelRef, Surface
from libs.contracts.billing_rpc import Quote, Reserved
from libs.contracts.gateway import JobSubmitted
from libs.contracts.scheduler import Checkpoint
from libs.contracts.training import ContractParams, FinetuneParams, Hyperparams, TrainParams
from services.gateway.catalog import FinetuneDefaults

RUN_EPOCHS = 3  # passes over the data set; where practice starts (OpenAI cookbook)
RUN_STEPS_MIN = 10  # fewer leave no room for warm-up and a schedule
RUN_STEPS_MAX = 2000  # what a plan's fixed price can carry
HEADER_KEY_LIFE = timedelta(hours=24)  # as the Runs API promises
JOB_NAMESPACE = UUID("c1d6a3f2-8f0e-5d77-9b0a-54a2f1c7e3d9")  # of job ids made from a key


KeyScope = Surface | Literal["extensions", "cards"]


class Key(Struct, frozen=True, kw_only=True):
    """An idempotency key as its client sent it. ``scope`` keeps the surfaces' keys apart, and those
    of purchases; ``life`` null: for ever."""

    scope: KeyScope
    text: str
    life: timedelta | None


class Order(Struct, frozen=True, kw_only=True):
    """A validated request for a job, not yet paid. ``tokens`` is what it will process."""

    account_id: UUID
    surface: Surface
    key: Key | None
    request_sha256: str
    job_type: JobType
    model: ModelRef
    dataset: DatasetRef | None
    params: Hyperparams
    output_name: str | None
    label: str | None
    priority: bool
    validation: DatasetRef | None = None
    start_from: Checkpoint | None = None
    recommended: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        return self.params.planned_tokens


class Earlier(Struct, frozen=True, kw_only=True):
    """The submission that a key stands for."""

    request_sha256: str
    generation: int
    expires_at: datetime | None
    job_id: UUID
    event: JobSubmitted
    submitted_at: datetime


class Fresh(Struct, frozen=True):
    """The key is free; ``generation`` counts the lives of this key, from 1."""

    generation: int


class Conflict(Struct, frozen=True):
    """The key stands for other parameters."""


def standing(
    earlier: Earlier | None, request_sha256: str, now: datetime
) -> Fresh | Conflict | Earlier:
    """What a key means for this request; the earlier submission itself is to be replayed."""
    if earlier is None:
        return Fresh(1)
    if earlier.expires_at is not None and earlier.expires_at < now:
        return Fresh(earlier.generation + 1)
    return earlier if earlier.request_sha256 == request_sha256 else Conflict()


def job_id_of(account_id: UUID, key: Key, generation: int) -> UUID:
    """The same for every request under one key, so they share one reservation and one stream."""
    name = msgspec.json.encode([account_id, key.scope, key.text, generation]).decode()
    return uuid5(JOB_NAMESPACE, name)


def digest(request: object) -> str:
    """The hash of the parameters that an idempotency key is compared by."""
    return hashlib.sha256(msgspec.json.encode(request, order="deterministic")).hexdigest()


def run_params(defaults: FinetuneDefaults, dataset_tokens: int) -> FinetuneParams:
    """A run's hyperparameters: `RUN_EPOCHS` passes over the data set, within the plan's bounds."""
    per_step = defaults.batch_size * defaults.seq_len
    steps = -(-RUN_EPOCHS * dataset_tokens // per_step)
    return FinetuneParams(
        steps=min(max(steps, RUN_STEPS_MIN), RUN_STEPS_MAX),
        learning_rate=defaults.learning_rate,
        seq_len=defaults.seq_len,
        batch_size=defaults.batch_size,
    )


def adapter_rank(params: Hyperparams) -> int:
    """0 where there is no adapter to pay for."""
    if not isinstance(params, FinetuneParams) or params.method == "full":
        return 0
    return params.lora_rank


def quote_of(order: Order) -> Quote:
    return Quote(
        account_id=order.account_id,
        surface=order.surface,
        job_type=order.job_type,
        model_params=order.model.params,
        dataset_bytes=order.dataset.size_bytes if order.dataset else 0,
        tokens=order.tokens,
        lora_rank=adapter_rank(order.params),
        priority=order.priority,
    )


def submission(order: Order, reserved: Reserved, *, output_model_id: UUID) -> JobSubmitted:
    """The first event of the job."""
    params = order.params
    return JobSubmitted(
        job_type=order.job_type,
        surface=order.surface,
        model=order.model,
        dataset=order.dataset,
        params=params if isinstance(params, FinetuneParams) else None,
        train_params=params if isinstance(params, TrainParams) else None,
        contract_params=params if isinstance(params, ContractParams) else None,
        output_name=order.output_name,
        label=order.label,
        priority=order.priority,
        price_cents=reserved.price.price_cents,
        currency=reserved.price.currency,
        plan_name=reserved.price.plan_name,
        balance_after_cents=reserved.balance_after_cents,
        paid_by=reserved.paid_by,
        tokens_planned=order.tokens,
        request_sha256=order.request_sha256,
        output_model_id=output_model_id,
        validation=order.validation,
        start_from=order.start_from,
        recommended=order.recommended,
    )
