"""Made by `just sdk` from the OpenAPI document; what is changed here by hand is lost."""

from datetime import datetime
from typing import Any

from msgspec import Struct

from tuneyard.types.runs import Failure
from tuneyard.types.telemetry import LogLine, MetricPoint


class JobHyperparams(Struct, frozen=True, kw_only=True):
    """What a job trains with, every default filled in. Only what its type has is there, under the
    names that a submission takes.
    """

    method: str | None = None
    """Known are `dpo`, `full`, `lora`; a newer server may say others."""
    strategy: str | None = None
    """Known are `depth`, `width`; a newer server may say others."""
    trainable: str | None = None
    """Known are `all`, `new_blocks`; a newer server may say others."""
    steps: int | None = None
    lora_rank: int | None = None
    lora_alpha: float | None = None
    target_modules: list[str] | None = None
    use_rslora: bool | None = None
    beta: float | None = None
    merged_model: bool | None = None
    patience: int | None = None
    turns: int | None = None
    cycles: int | None = None
    steps_per_cycle: int | None = None
    layers_per_cycle: int | None = None
    contraction_ratio: float | None = None
    num_layers_to_contract: int | None = None
    calibration_rows: int | None = None
    lr: float | None = None
    seq_len: int | None = None
    batch_size: int | None = None
    warmup_ratio: float | None = None
    weight_decay: float | None = None
    max_grad_norm: float | None = None
    validation_fraction: float | None = None
    eval_every: int | None = None
    checkpoint_every: int | None = None
    seed: int | None = None


class ModelName(Struct, frozen=True, kw_only=True):
    """The model that a job works on, as the catalogue had it at submission."""

    id: str
    slug: str


class Estimate(Struct, frozen=True, kw_only=True):
    """What a job would cost. A submission of the same costs the same, and so does the job once it
    has completed; one that is cancelled, or ends early because it gets no better (`patience`),
    costs the share of `tokens_planned` that was processed, rounded up to a cent.

    `parts` add up to `price_cents`. The part `tokens` is the product of all `factors`, over
    10^17 (a million tokens, a billion parameters, a hundred percent), rounded up to a cent.

    `expected_duration_seconds` counts from the job's start to its end, and not its wait in the
    queue; it is what recent jobs of this type took for so many tokens and parameters, on the
    same model if there were any; null when there were none. It is an expectation, and promises
    nothing.

    `valid_until` is how long to rely on this answer; then ask again. The price follows from the
    operator's price list and, for priority, from the account's subscription: should one of them
    change before, what the submission answers is what counts.
    """

    type: str
    """Known are `contract`, `finetune`, `train`; a newer server may say others."""
    price_cents: int
    currency: str
    parts: dict[str, int]
    factors: dict[str, int]
    tokens_planned: int
    steps_total: int
    hyperparams: JobHyperparams
    recommended: list[str] = []
    base_model: ModelName
    dataset_id: str | None = None
    priority_processing: bool
    expected_duration_seconds: int | None = None
    valid_until: datetime


class StartedFrom(Struct, frozen=True, kw_only=True):
    """The checkpoint of another job that the work began with."""

    job_id: str
    step: int


class Job(Struct, frozen=True, kw_only=True):
    """The job object. `output_model_id` is null until the job has completed.

    `retries` counts how often it was taken up again after an interruption, from
    `last_checkpoint_step`: no fault of the job's. `price_cents` was agreed at submission,
    `charge_cents` is what was taken, null until the job has ended. `steps_total` and
    `tokens_planned` are the whole work, `tokens_processed` what is done of it. `recommended`
    names the hyperparameters that nobody asked for: they are what `POST /v1/training/recommend`
    says for the model and the data set. `surface` is the API that it came in by.
    `artifacts_expires_at` is when its files go.
    """

    id: str
    type: str
    """Known are `contract`, `finetune`, `train`; a newer server may say others."""
    status: str
    """Known are `cancelled`, `completed`, `failed`, `queued`, `running`; a newer server may say
    others.
    """
    retries: int
    last_checkpoint_step: int
    output_model_id: str | None = None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    surface: str
    """Known are `jobs`, `runs`; a newer server may say others."""
    base_model: ModelName
    dataset_id: str | None = None
    output_name: str | None = None
    label: str | None = None
    hyperparams: JobHyperparams
    recommended: list[str] = []
    validation_dataset_id: str | None = None
    start_from: StartedFrom | None = None
    steps_total: int
    tokens_planned: int
    tokens_processed: int
    priority_processing: bool
    cancel_requested: bool
    price_cents: int
    charge_cents: int | None = None
    currency: str
    artifacts_expires_at: datetime | None = None
    error: Failure | None = None


class Moment(Struct, frozen=True, kw_only=True):
    """`kind` is the event's type without its version, e.g. `job.submitted`."""

    ts: datetime
    kind: str
    payload: dict[str, Any]


class DownloadLink(Struct, frozen=True, kw_only=True):
    """One file at a presigned address, which needs no key and works for `expires_in` seconds."""

    name: str
    role: str
    url: str
    size_bytes: int
    sha256: str
    expires_in: int


class JobDownload(Struct, frozen=True, kw_only=True):
    """`expires_in` in seconds, for every link."""

    job_id: str
    expires_in: int
    files: list[DownloadLink] = []


class CheckpointLink(Struct, frozen=True, kw_only=True):
    """One checkpoint, a tar, at a presigned address, which needs no key and works for `expires_in`
    seconds, unless the checkpoint itself goes before.
    """

    step: int
    tokens_processed: int
    size_bytes: int
    sha256: str
    created_at: datetime
    url: str
    expires_in: int


class Notice(Struct, frozen=True, kw_only=True):
    """The payload of Standard Webhooks: `timestamp` is when it happened (UTC), `data` the job
    right after it. The event's id travels beside it, as `webhook-id`.
    """

    type: str
    """Known are `job.cancelled`, `job.completed`, `job.failed`, `job.queued`, `job.running`; a
    newer server may say others.
    """
    timestamp: datetime
    data: Job


class NewPoints(Struct, frozen=True, kw_only=True):
    """What a job has measured. A step and phase that come again, after the job was taken up anew,
    replace what was said before.
    """

    job_id: str
    points: list[MetricPoint] = []


class NewLines(Struct, frozen=True, kw_only=True):
    """What a job has written on its console."""

    job_id: str
    lines: list[LogLine] = []
