"""Hyperparameters and telemetry: what a training script takes, and what it tells under way."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from msgspec import Meta, Struct

from libs.contracts.base import Count, Epoch, JobType, LongText, ShortText, Step

FinetuneMethod = Literal["lora", "full", "dpo"]
GrowthStrategy = Literal["depth", "width"]
ContractionStrategy = Literal["depth", "width"]
Trainable = Literal["new_blocks", "all"]


class FinetuneParams(Struct, frozen=True, kw_only=True):
    """Fine-tuning, every value explicit: the gateway fills in defaults at submission.

    ``steps`` are optimizer steps; a step sees ``batch_size`` packed rows of ``seq_len`` tokens.
    ``learning_rate`` is the peak of a cosine schedule after ``warmup_ratio`` of the steps.

    ``method``: ``lora`` learns an adapter, ``full`` every weight, ``dpo`` an adapter from
    preferences (Rafailov et al., 2305.18290) with the inverse temperature ``beta``.
    ``target_modules`` are the last names of the linear layers that get an adapter (null: all but
    the output head); ``use_rslora`` scales it by alpha / sqrt(rank) (2312.03732). ``merged_model``
    also exports the base with the adapter merged in. With ``patience``, training ends after so many
    evaluations without a lower held-out loss, and the weights of the best one are the result.
    """

    steps: Annotated[int, Meta(ge=1, le=1_000_000)]
    learning_rate: Annotated[float, Meta(gt=0, le=1)]
    seq_len: Annotated[int, Meta(ge=16, le=131_072)]
    batch_size: Annotated[int, Meta(ge=1, le=4096)]
    lora_rank: Annotated[int, Meta(ge=1, le=512)] = 32
    lora_alpha: Annotated[float, Meta(gt=0, le=4096)] = 32.0
    warmup_ratio: Annotated[float, Meta(ge=0, le=0.9)] = 0.05
    weight_decay: Annotated[float, Meta(ge=0, le=10)] = 0.0
    max_grad_norm: Annotated[float, Meta(gt=0, le=1000)] = 1.0
    validation_fraction: Annotated[float, Meta(gt=0, le=0.5)] = 0.1
    eval_every: Annotated[int, Meta(ge=1, le=1_000_000)] = 100
    checkpoint_every: Annotated[int, Meta(ge=1, le=1_000_000)] = 50
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 17
    method: FinetuneMethod = "lora"
    target_modules: tuple[ShortText, ...] | None = None
    use_rslora: bool = False
    beta: Annotated[float, Meta(gt=0, le=100)] = 0.1
    merged_model: bool = False
    patience: Annotated[int, Meta(ge=1, le=1000)] | None = None

    @property
    def planned_steps(self) -> int:
        return self.steps

    @property
    def planned_tokens(self) -> int:
        return self.steps * self.batch_size * self.seq_len


class TrainParams(Struct, frozen=True, kw_only=True):
    """Growing a model, every value explicit.

    Each of ``cycles`` inserts ``layers_per_cycle`` blocks that change nothing at first, then trains
    what it has inserted for ``steps_per_cycle`` optimizer steps; further ``turns`` go through the
    cycles again without growing. ``learning_rate`` is the peak of a cosine schedule over all steps.

    ``strategy`` ``width`` lets every MLP get wider instead: over the cycles each of its neurons is
    duplicated once. ``trainable``: ``new_blocks`` learns what has grown and nothing else, ``all``
    every weight.
    """

    turns: Annotated[int, Meta(ge=1, le=100)] = 1
    cycles: Annotated[int, Meta(ge=1, le=1000)] = 4
    steps_per_cycle: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000
    learning_rate: Annotated[float, Meta(gt=0, le=1)]
    seq_len: Annotated[int, Meta(ge=16, le=131_072)] = 256
    batch_size: Annotated[int, Meta(ge=1, le=4096)]
    layers_per_cycle: Annotated[int, Meta(ge=1, le=64)] = 1
    warmup_ratio: Annotated[float, Meta(ge=0, le=0.9)] = 0.05
    weight_decay: Annotated[float, Meta(ge=0, le=10)] = 0.0
    max_grad_norm: Annotated[float, Meta(gt=0, le=1000)] = 1.0
    validation_fraction: Annotated[float, Meta(gt=0, le=0.5)] = 0.1
    checkpoint_every: Annotated[int, Meta(ge=1, le=1_000_000)] = 50
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 17
    strategy: GrowthStrategy = "depth"
    trainable: Trainable = "new_blocks"

    @property
    def planned_cycles(self) -> int:
        return self.turns * self.cycles

    @property
    def planned_steps(self) -> int:
        return self.planned_cycles * self.steps_per_cycle

    @property
    def planned_tokens(self) -> int:
        return self.planned_steps * self.batch_size * self.seq_len


class ContractParams(Struct, frozen=True, kw_only=True):
    """Shrinking a model, every value explicit.

    Of the ``num_layers_to_contract`` blocks that matter least, the share ``contraction_ratio`` is
    removed. What matters is measured on ``calibration_rows`` rows of ``seq_len`` tokens: of the
    job's data set, or else texts that the model writes itself; some of them are held out, for its
    perplexity before and after.

    ``strategy`` ``width`` removes the share ``contraction_ratio`` of every MLP's neurons instead,
    and refits what is left; ``num_layers_to_contract`` then says nothing, as all layers of a plain
    model are equally wide.
    """

    contraction_ratio: Annotated[float, Meta(gt=0, le=1)] = 0.5
    num_layers_to_contract: Annotated[int, Meta(ge=1, le=1000)] = 8
    calibration_rows: Annotated[int, Meta(ge=1, le=100_000)] = 64
    seq_len: Annotated[int, Meta(ge=16, le=131_072)] = 256
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 17
    strategy: ContractionStrategy = "depth"

    @property
    def planned_steps(self) -> int:
        """One a block that is removed, so that progress has an end. Of a width, one at first: the
        trainer knows how many layers there are."""
        if self.strategy == "width":
            return 1
        return max(1, round(self.contraction_ratio * self.num_layers_to_contract))

    @property
    def planned_tokens(self) -> int:
        """Of the texts that the model writes; reading them again and again is not counted."""
        return self.calibration_rows * self.seq_len


Hyperparams = FinetuneParams | TrainParams | ContractParams


def the_one(
    finetune: FinetuneParams | None, train: TrainParams | None, contract: ContractParams | None
) -> Hyperparams:
    """The hyperparameters of a job, which lie in the field of its type."""
    for params in (finetune, train, contract):
        if params is not None:
            return params
    raise ValueError("a job without hyperparameters")


class TrainSpec(Struct, frozen=True, kw_only=True):
    """``spec.json``: everything a training script needs, with local paths.

    ``resume_from`` is an unpacked checkpoint folder of this very job, or null. ``model_name`` is
    what the base model is called; null: as its folder. ``adapter_path`` is an adapter's folder
    (peft's format) that the base model is taken with, ``start_from`` an unpacked checkpoint of
    another job whose weights this one begins with. ``validation_path`` is a data set to hold out;
    null: a share of the rows that are trained on. ``precision`` ``auto`` is bf16 where the hardware
    is made for it; a resumed run goes on in that in which it began. ``epoch`` is that of the lease.
    """

    job_id: UUID
    job_type: JobType
    model_path: str
    dataset_path: str | None
    out_dir: str
    params: FinetuneParams | None = None
    train_params: TrainParams | None = None
    contract_params: ContractParams | None = None
    resume_from: str | None = None
    device: str = "auto"
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    threads: Annotated[int, Meta(ge=1, le=512)] = 2
    trace_id: ShortText | None = None
    model_name: ShortText | None = None
    adapter_path: str | None = None
    start_from: str | None = None
    validation_path: str | None = None
    epoch: Epoch = 1

    @property
    def base_name(self) -> str:
        return self.model_name or self.model_path.rstrip("/").rpartition("/")[2]

    @property
    def hyperparams(self) -> Hyperparams:
        return the_one(self.params, self.train_params, self.contract_params)

    @property
    def finetune(self) -> FinetuneParams:
        """Raises ValueError for a job of another type."""
        if self.params is None:
            raise ValueError(f"this {self.job_type} job has no params")
        return self.params

    @property
    def train(self) -> TrainParams:
        """Raises ValueError for a job of another type."""
        if self.train_params is None:
            raise ValueError(f"this {self.job_type} job has no train_params")
        return self.train_params

    @property
    def contract(self) -> ContractParams:
        """Raises ValueError for a job of another type."""
        if self.contract_params is None:
            raise ValueError(f"this {self.job_type} job has no contract_params")
        return self.contract_params


class MetricPoint(Struct, frozen=True, kw_only=True):
    """One optimizer step (or one evaluation). ``throughput``: tokens/s; ``vram_gb`` is 0 on CPU."""

    ts: datetime
    step: Step
    cycle: Count
    phase: ShortText
    loss: float
    lr: float
    throughput: float
    vram_gb: float
    grad_norm: float


class LogLine(Struct, frozen=True, kw_only=True):
    """One curated console line; ``seq`` grows over all attempts of the job."""

    seq: Count
    ts: datetime
    stream: ShortText
    text: LongText


class MetricBatch(Struct, frozen=True, kw_only=True):
    job_id: UUID
    epoch: Epoch
    points: tuple[MetricPoint, ...]


class LogBatch(Struct, frozen=True, kw_only=True):
    job_id: UUID
    epoch: Epoch
    lines: tuple[LogLine, ...]
