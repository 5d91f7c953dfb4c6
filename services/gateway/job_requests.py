"""What ``POST /v1/jobs`` and its estimate take: the three types of a job, decoded strictly."""

from typing import Annotated
from uuid import UUID

from msgspec import Meta, Struct

from libs.contracts.training import (
    ContractionStrategy,
    FinetuneMethod,
    GrowthStrategy,
    Trainable,
)
from services.gateway.http.errors import invalid
from services.gateway.model import Key, digest

FINETUNE_STEPS = 2000  # the reference's default
LORA_RANK = 32  # the reference's default
TURNS = 1  # the reference's default
CONTRACTION_RATIO = 0.5  # the reference's default
LAYERS_TO_CONTRACT = 8  # the reference's default
KEY_CHARS = 255

Name = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=255,
        pattern=r"^[^\x00-\x1f]*$",
        description="For people: 1 to 255 characters, no control characters.",
    ),
]
ModelRefText = Annotated[
    str,
    Meta(min_length=1, max_length=64, description="A model: its UUID, or its slug."),
]
KeyText = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=KEY_CHARS,
        pattern=r"^[^\x00]*$",
        description="The same key always means the same job; kept for ever.",
    ),
]
Steps = Annotated[int, Meta(ge=1, le=1_000_000)]
LearningRate = Annotated[
    float, Meta(gt=0, le=1, description="Peak of the schedule; null: as recommended.")
]
SeqLen = Annotated[int, Meta(ge=16, le=131_072, description="Tokens in a row of a batch.")]
BatchSize = Annotated[int, Meta(ge=1, le=4096, description="Rows in an optimizer step.")]
Seed = Annotated[int, Meta(ge=0, le=2**31 - 1)]
LayerName = Annotated[str, Meta(max_length=64, pattern=r"^[A-Za-z0-9_]+$")]
ValidationId = Annotated[
    UUID,
    Meta(
        description="A data set of the same kind to hold out; then validation_fraction is not used."
    ),
]


class _Hyperparams(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A model may be named here as well as beside the hyperparameters. Defaults are left out when
    it is encoded, so that a new hyperparameter changes no request's digest."""

    source_model_id: ModelRefText | None = None
    base_model_id: ModelRefText | None = None
    output_name: Name | None = None
    seed: Seed | None = None


class FinetuneHyperparams(_Hyperparams, frozen=True, kw_only=True):
    """Adapting: null means what `POST /v1/training/recommend` says for this model and data set
    (``lr``, ``seq_len``, ``batch_size``, ``beta``), else the platform's default.

    ``method``: ``lora`` learns an adapter, ``full`` every weight, ``dpo`` an adapter from
    preferences. With ``patience``, a job that gets no better ends early and costs what was done."""

    method: FinetuneMethod = "lora"
    steps: Annotated[Steps, Meta(description="Optimizer steps.")] = FINETUNE_STEPS
    lora_rank: Annotated[int, Meta(ge=1, le=512, description="Capacity of the adapter.")] = (
        LORA_RANK
    )
    lr: LearningRate | None = None
    seq_len: SeqLen | None = None
    batch_size: BatchSize | None = None
    lora_alpha: Annotated[float, Meta(gt=0, le=4096)] | None = None
    warmup_ratio: Annotated[float, Meta(ge=0, le=0.9)] | None = None
    weight_decay: Annotated[float, Meta(ge=0, le=10)] | None = None
    max_grad_norm: Annotated[float, Meta(gt=0, le=1000)] | None = None
    validation_fraction: Annotated[float, Meta(gt=0, le=0.5)] | None = None
    eval_every: Steps | None = None
    checkpoint_every: Steps | None = None
    target_modules: (
        Annotated[
            tuple[LayerName, ...],
            Meta(
                min_length=1,
                max_length=64,
                description="Linear layers that get an adapter, such as q_proj; null: all.",
            ),
        ]
        | None
    ) = None
    use_rslora: Annotated[bool, Meta(description="Scale by alpha / sqrt(rank).")] = False
    beta: (
        Annotated[float, Meta(gt=0, le=100, description="How closely dpo keeps to the base.")]
        | None
    ) = None
    merged_model: Annotated[
        bool, Meta(description="Also make the base with the adapter merged in.")
    ] = False
    patience: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=1000,
                description="Evaluations without a lower held-out loss after which it ends.",
            ),
        ]
        | None
    ) = None


class TrainHyperparams(_Hyperparams, frozen=True, kw_only=True):
    """Growth: null means what `POST /v1/training/recommend` says for this model and data set
    (``cycles``, ``steps_per_cycle``, ``lr``, ``seq_len``, ``batch_size``), else the platform's
    default. ``strategy``: by new blocks, or by wider ones."""

    strategy: GrowthStrategy = "depth"
    trainable: Annotated[
        Trainable, Meta(description="What learns: what has grown, or every weight.")
    ] = "new_blocks"

    turns: Annotated[int, Meta(ge=1, le=100, description="Full training passes.")] = TURNS
    cycles: Annotated[int, Meta(ge=1, le=1000, description="Cycles of growing.")] | None = None
    steps_per_cycle: Annotated[Steps, Meta(description="Optimizer steps a cycle.")] | None = None
    lr: LearningRate | None = None
    seq_len: SeqLen | None = None
    batch_size: BatchSize | None = None
    layers_per_cycle: Annotated[int, Meta(ge=1, le=64)] | None = None
    warmup_ratio: Annotated[float, Meta(ge=0, le=0.9)] | None = None
    weight_decay: Annotated[float, Meta(ge=0, le=10)] | None = None
    max_grad_norm: Annotated[float, Meta(gt=0, le=1000)] | None = None
    validation_fraction: Annotated[float, Meta(gt=0, le=0.5)] | None = None
    checkpoint_every: Steps | None = None


class ContractHyperparams(_Hyperparams, frozen=True, kw_only=True):
    """Contraction: null means the platform's default. ``strategy``: blocks are removed, or
    (``width``) of every block the share ``contraction_ratio`` of its neurons."""

    strategy: ContractionStrategy = "depth"

    contraction_ratio: Annotated[
        float, Meta(gt=0, le=1, description="How many of those layers are removed.")
    ] = CONTRACTION_RATIO
    num_layers_to_contract: Annotated[
        int, Meta(ge=1, le=1000, description="How many of the least influential layers to look at.")
    ] = LAYERS_TO_CONTRACT
    calibration_rows: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    seq_len: SeqLen | None = None


class StartFrom(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A checkpoint to begin with: of an own fine-tune of the same model by the same method, with
    the same adapter layers. ``step`` null: its newest."""

    job_id: UUID
    step: Annotated[int, Meta(ge=1, le=10**9)] | None = None


class _Work(
    Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag_field="type",
):
    """What every type of job may say. ``source_model_id`` and ``base_model_id`` mean the same."""

    source_model_id: ModelRefText | None = None
    base_model_id: ModelRefText | None = None
    label: Name | None = None
    priority_processing: bool = False


class _Finetune(_Work, frozen=True, kw_only=True):
    dataset_id: UUID
    validation_dataset_id: ValidationId | None = None
    start_from: StartFrom | None = None
    hyperparams: FinetuneHyperparams = FinetuneHyperparams()


class _Train(_Work, frozen=True, kw_only=True):
    dataset_id: UUID
    validation_dataset_id: ValidationId | None = None
    hyperparams: TrainHyperparams = TrainHyperparams()


class _Contract(_Work, frozen=True, kw_only=True):
    dataset_id: (
        Annotated[UUID, Meta(description="Texts to measure on; null: the model writes some.")]
        | None
    ) = None
    hyperparams: ContractHyperparams = ContractHyperparams()


class FinetuneRequest(_Finetune, frozen=True, kw_only=True, tag="finetune"):
    """Adapt a model's behaviour; its size stays."""

    idempotency_key: KeyText


class TrainRequest(_Train, frozen=True, kw_only=True, tag="train"):
    """Grow a model, and train what was added."""

    idempotency_key: KeyText


class ContractRequest(_Contract, frozen=True, kw_only=True, tag="contract"):
    """Shrink a model; it needs no data set, and measures on one that it gets."""

    idempotency_key: KeyText


class FinetuneEstimate(_Finetune, frozen=True, kw_only=True, tag="finetune"):
    """A fine-tune that is only asked about."""

    idempotency_key: KeyText | None = None


class TrainEstimate(_Train, frozen=True, kw_only=True, tag="train"):
    """A growth that is only asked about."""

    idempotency_key: KeyText | None = None


class ContractEstimate(_Contract, frozen=True, kw_only=True, tag="contract"):
    """A contraction that is only asked about."""

    idempotency_key: KeyText | None = None


JobRequest = FinetuneRequest | TrainRequest | ContractRequest
EstimateRequest = FinetuneEstimate | TrainEstimate | ContractEstimate
AnyRequest = JobRequest | EstimateRequest


def key_of(request: JobRequest) -> Key:
    """The body's key: kept for ever."""
    return Key(scope="jobs", text=request.idempotency_key, life=None)


def model_name(request: AnyRequest) -> str:
    """The model to work on, wherever the request names it. Raises ApiError 422."""
    hyper = request.hyperparams
    named = {
        request.source_model_id,
        request.base_model_id,
        hyper.source_model_id,
        hyper.base_model_id,
    } - {None}
    if len(named) != 1:
        raise invalid(
            "base_model_id or source_model_id: name the one model to work on"
            + (", not several" if named else "; GET /v1/models lists those there are")
        )
    name: str | None = named.pop()
    assert name is not None
    return name


def request_digest(request: AnyRequest) -> str:
    """Over everything that was asked for; what equals a default counts as not said."""
    return digest(request)
