"""What stays the same throughout a run, and how the run tells about itself."""

import hashlib
import math
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch

from libs.contracts.results import RunResult
from libs.contracts.training import FinetuneParams, MetricPoint, TrainParams, TrainSpec
from services.trainer import memory
from services.trainer.attention import has_flash
from services.trainer.batches import MICRO_TOKENS
from services.trainer.checkpoint import Identity, progress_of
from services.trainer.documents import (
    Document,
    Documents,
    Split,
    load_documents,
    prepare_tokenizer,
    split,
    split_by_file,
)
from services.trainer.journal import Journal
from services.trainer.kernels import LOSS_ROWS, has_kernels
from services.trainer.loading import (
    ModelError,
    choose_device,
    choose_dtype,
    load_tokenizer,
    sha256_of,
)
from services.trainer.memory import Plan
from services.trainer.preferences import load_pairs
from services.trainer.tail import RunState

PREVIEW_CHARACTERS = 500


class Run(NamedTuple):
    """``steps`` is how many there will be; ``split`` what is learnt, and what is measured on."""

    spec: TrainSpec
    steps: int
    journal: Journal
    device: torch.device
    dtype: torch.dtype
    tokenizer: Any
    data: Documents[Any]
    split: Split[Any]
    identity: Identity
    plan: Plan = Plan(MICRO_TOKENS["cpu"])

    @property
    def learning(self) -> FinetuneParams | TrainParams:
        """Raises ValueError for a job that learns nothing."""
        return self.spec.train if self.spec.params is None else self.spec.params


class Outcome(NamedTuple):
    """``result`` is None if the run was asked to stop."""

    result: RunResult | None
    tokens_processed: int


def prepare(spec: TrainSpec, params: FinetuneParams | TrainParams, journal: Journal) -> Run:
    """Device, tokenizer and data; nothing that takes the model. Raises `DatasetError`,
    `ModelError`, `TooLittleMemory`."""
    device = choose_device(spec.device)
    dtype = precision(spec, device)
    model_path = Path(spec.model_path)
    if spec.dataset_path is None:
        raise ValueError(f"a {spec.job_type} job needs dataset_path")
    dataset_path = Path(spec.dataset_path)
    tokenizer = load_tokenizer(model_path)
    prepare_tokenizer(tokenizer)
    data, parts = load_rows(spec, params, dataset_path, tokenizer)
    begins_with = [folder for folder in (spec.adapter_path, spec.start_from) if folder]
    identity = Identity(
        params=spec.params,
        train_params=spec.train_params,
        dataset_sha256=sha256_of(dataset_path),
        model_sha256=msgspec.json.encode(model_files(model_path)).decode(),
        dtype=dtype_name(dtype),
        validation_sha256=sha256_of(Path(spec.validation_path)) if spec.validation_path else None,
        begins_with_sha256=tuple(
            digest for folder in begins_with for digest in model_files(Path(folder)).values()
        ),
    )
    tokens = sum(row.size for row in parts.train)
    journal.log(
        f"data: {len(parts.train)} rows to train on ({spaced(tokens)} tokens), "
        f"{len(parts.validation)} held out as {parts.name}"
    )
    if data.rows_truncated:
        journal.log(
            f"truncated: {data.rows_truncated} rows longer than {params.seq_len} tokens "
            f"lost {spaced(data.tokens_truncated)} tokens; raise seq_len to keep them"
        )
    first = parts.train[0].example
    journal.log(f"trained on what stands in brackets: {preview(first, tokenizer)}")
    steps = params.planned_steps
    plan = foresee(model_path, params, device, dtype, data, journal)
    return Run(spec, steps, journal, device, dtype, tokenizer, data, parts, identity, plan)


def foresee(
    model: Path,
    params: FinetuneParams | TrainParams,
    device: torch.device,
    dtype: torch.dtype,
    data: Documents[Any],
    journal: Journal,
) -> Plan:
    """How much of a step will go through the model at once. Raises `TooLittleMemory`."""
    longest = max(row.size for row in data.rows)
    step_tokens = max(longest, params.batch_size * params.seq_len)
    usual = min(MICRO_TOKENS[device.type], step_tokens)
    shape = memory.read_shape(model / "config.json")
    if shape is None:
        return Plan(usual)
    on_cpu = device.type == "cpu"
    work = msgspec.structs.replace(
        memory.work_of(shape, params),
        keeps_scores=on_cpu and dtype == torch.bfloat16,
        keeps_beginning=on_cpu and isinstance(params, FinetuneParams),
        loss_rows=LOSS_ROWS[device.type],
        on_card=has_flash(device, dtype) and has_kernels(device),
    )
    free = memory.available(device)
    plan = memory.choose(shape, work, usual, longest, dtype.itemsize, free)
    taken = memory.estimate(shape, work, plan, longest, dtype.itemsize)
    how = "; every block is computed twice to save memory" if plan.recompute else ""
    journal.log(
        f"memory: some {memory.megabytes(taken.total)} of {memory.megabytes(free)} MB, with "
        f"{spaced(plan.micro_tokens)} tokens at once{how}"
    )
    return plan


def precision(spec: TrainSpec, device: torch.device) -> torch.dtype:
    """As asked for; of a run that goes on, as it began, whatever this machine is fast at."""
    begun = progress_of(Path(spec.resume_from)) if spec.resume_from else None
    if begun is None:
        return choose_dtype(device, spec.precision)
    dtype: torch.dtype = getattr(torch, begun.identity.dtype)
    return dtype


def load_rows(
    spec: TrainSpec, params: FinetuneParams | TrainParams, path: Path, tokenizer: Any
) -> tuple[Documents[Any], Split[Any]]:
    """The data set, and what of it is held out. Raises `DatasetError`."""
    pairs = isinstance(params, FinetuneParams) and params.method == "dpo"
    load: Callable[..., Documents[Any]] = load_pairs if pairs else load_documents
    data = load(path, tokenizer, params.seq_len)
    if spec.validation_path is None:
        return data, split(data.rows, params.validation_fraction, params.seed)
    held_out = load(Path(spec.validation_path), tokenizer, params.seq_len)
    return data, split_by_file(data.rows, held_out.rows)


def check_window(model: Any, seq_len: int) -> None:
    """Raises `ModelError` if the model has not so many positions."""
    window = getattr(model.config, "max_position_embeddings", seq_len)
    if seq_len > window:
        raise ModelError(f"seq_len {seq_len} exceeds the model's {window} positions")


def record(
    run: Run,
    phase: str,
    *,
    step: int,
    loss: float,
    throughput: float,
    cycle: int = 0,
    lr: float = 0.0,
    grad_norm: float = 0.0,
) -> None:
    vram = torch.cuda.max_memory_allocated() / 1e9 if run.device.type == "cuda" else 0.0
    run.journal.metric(
        MetricPoint(
            ts=run.journal.clock(),
            step=step,
            cycle=cycle,
            phase=phase,
            loss=loss,
            lr=lr,
            throughput=throughput,
            vram_gb=vram,
            grad_norm=grad_norm,
        )
    )


def tell(run: Run, phase: str, step: int, tokens_processed: int, *, now: bool = False) -> None:
    state = RunState(
        step=step,
        steps_total=run.steps,
        phase=phase,
        tokens_processed=tokens_processed,
        device=device_name(run.device),
    )
    run.journal.state(state, now=now)


def lineage(run: Run) -> dict[str, str]:
    """What the result was made from, enough to make it again."""
    files = model_files(Path(run.spec.model_path))
    dataset = run.identity.dataset_sha256
    return {
        **({"dataset_sha256": dataset} if dataset else {}),
        **{f"base_model/{name}": digest for name, digest in files.items()},
        **begun_with(run.spec),
        "trainer_sha256": sources_sha256(),
        "seed": str(run.spec.hyperparams.seed),
        "precision": run.identity.dtype,
        **{name: version(name) for name in ("torch", "transformers", "peft", "tokenizers")},
    }


def begun_with(spec: TrainSpec) -> dict[str, str]:
    """What else went in, and what did not stand in the data set."""
    named = {"adapter": spec.adapter_path, "checkpoint": spec.start_from}
    hashes = {
        f"{what}/{name}": digest
        for what, folder in named.items()
        if folder
        for name, digest in model_files(Path(folder)).items()
    }
    if spec.validation_path:
        hashes["validation_sha256"] = sha256_of(Path(spec.validation_path))
    return hashes


def model_files(path: Path) -> dict[str, str]:
    """The SHA-256 of each file that makes the base model what it is."""
    names = sorted(p for p in path.iterdir() if p.suffix in (".safetensors", ".json"))
    return {file.name: sha256_of(file) for file in names}


def sources_sha256() -> str:
    """One hash over the training code's files."""
    digests = [sha256_of(file) for file in sorted(Path(__file__).parent.glob("*.py"))]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def preview(document: Document, tokenizer: Any) -> str:
    """A row as the loss sees it: what is learnt stands in ⟦ ⟧."""
    text = ""
    inside = False
    for token, wanted in zip(document.tokens.tolist(), document.labels.tolist(), strict=True):
        if wanted != inside:
            text += "⟦" if wanted else "⟧"
            inside = wanted
        text += tokenizer.decode([token])
    return (text + ("⟧" if inside else ""))[:PREVIEW_CHARACTERS]


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def perplexity(loss: float) -> float:
    return math.exp(min(loss, 700.0))  # beyond, a float overflows


def spaced(number: int) -> str:
    return f"{number:,}".replace(",", " ")
