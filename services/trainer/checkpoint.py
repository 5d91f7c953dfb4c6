"""Checkpoints: complete or absent, safetensors and JSON, written while training goes on."""

import ctypes
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import torch
from msgspec import Struct
from safetensors.torch import load_file, save_file
from torch import Tensor

from libs.contracts.results import GrowthReport
from libs.contracts.training import FinetuneParams, TrainParams
from services.trainer import parallel
from services.trainer.packing import Position
from services.trainer.sharding import Owners, collect, is_mine

TENSORS = "state.safetensors"
PROGRESS = "progress.json"
PARAM = "param."  # before the names of the weights
MOMENTS = ("exp_avg", "exp_avg_sq")  # what Adam keeps of each
NOBODY: Owners = {}

# The newest may be in transit to the object store while the next one is written.
KEEP = 2


class Identity(Struct, frozen=True):
    """What a checkpoint belongs to; a run with another identity must not continue it."""

    params: FinetuneParams | None
    dataset_sha256: str
    model_sha256: str
    dtype: str
    train_params: TrainParams | None = None
    validation_sha256: str | None = None
    begins_with_sha256: tuple[str, ...] = ()


class Progress(Struct, frozen=True, kw_only=True):
    """Everything beside the tensors that a run needs to go on as if nothing had happened.

    ``gpu_seconds`` and ``tokens_processed`` grow over all attempts. Of a model that grows:
    ``cycle`` cycles are over, and ``blocks`` blocks, or ``neurons`` neurons in every MLP, are in it
    that its base does not have;
    ``loss_held_out`` is what the last evaluation said. Of a run with patience: ``best_loss`` is
    the lowest that one said, after ``best_step``, and ``waited`` counts the evaluations since.
    ``answer_loss_baseline`` is ``loss_baseline`` but for preferences, where it is the cross entropy
    of the chosen answers. ``micro_tokens`` and ``recompute`` are the `Plan` of the last step, 0
    before the first, and ``compiled`` says whether it was: a run that goes on must add up in the
    same parts and with the same code to come to the same bits.
    """

    identity: Identity
    step: int = 0
    position: Position = Position()
    tokens_processed: int = 0
    gpu_seconds: float = 0.0
    loss_baseline: float = 0.0
    train_loss: float = 0.0
    loss_held_out: float = 0.0
    cycle: int = 0
    blocks: int = 0
    neurons: int = 0
    growth: GrowthReport | None = None
    answer_loss_baseline: float = 0.0
    best_loss: float | None = None
    best_step: int = 0
    waited: int = 0
    micro_tokens: int = 0
    recompute: bool = False
    compiled: bool = False


class CheckpointError(Exception):
    """A checkpoint is damaged or of another run."""


class Checkpoints:
    """Writes ``step-N`` folders in the background, one at a time; keeps the last `KEEP`.

    A ``fresh`` run removes the checkpoints that another left in its place. Of several processes
    that are one run, the first alone writes.
    """

    def __init__(self, root: Path, on_written: Callable[[int], None], *, fresh: bool) -> None:
        self.root = root
        self.on_written = on_written
        self.writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self.pending: Future[None] | None = None
        self.staging: dict[str, Tensor] = {}
        if not parallel.is_first():
            return
        root.mkdir(parents=True, exist_ok=True)
        for leftover in [*root.glob(".step-*"), *(complete(root) if fresh else [])]:
            shutil.rmtree(leftover)

    def save(
        self,
        tensors: dict[str, Tensor],
        progress: Progress,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        """Copies the tensors and writes them later; waits for the save before this one.

        The copy is complete when this returns. With the ``optimizer`` that alone changes the
        tensors it goes on beside the next forward and backward pass, and the optimizer's next step
        waits for it: on CPU in a hook, on CUDA on the stream, where no host waits at all.
        """
        if not parallel.is_first():
            return
        self.wait()
        copies = {name: self.staged(name, tensor) for name, tensor in tensors.items()}
        pairs = [(tensor.detach(), copies[name]) for name, tensor in tensors.items()]
        if any(tensor.is_cuda for tensor in tensors.values()):
            copying = self.writer.submit(stage(pairs))
        else:
            copying = self.writer.submit(copy_all, pairs)
            if optimizer is None:
                copying.result()
            else:
                wait_once(optimizer, copying)
        self.staging = copies
        self.pending = self.writer.submit(self.write, copies, progress)

    def staged(self, name: str, tensor: Tensor) -> Tensor:
        """Where a tensor is copied to: the same memory each time. New pages cost more than the
        copy (measured: three times as much), and pinned ones a call to the driver."""
        kept = self.staging.get(name)
        if kept is not None and (kept.shape, kept.dtype) == (tensor.shape, tensor.dtype):
            return kept
        return torch.empty(
            tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=tensor.is_cuda
        )

    def wait(self) -> None:
        """Raises what the last write raised."""
        if self.pending:
            self.pending.result()
            self.pending = None

    def close(self) -> None:
        self.wait()
        self.writer.shutdown()

    def write(self, tensors: dict[str, Tensor], progress: Progress) -> None:
        final = self.root / f"step-{progress.step}"
        draft = self.root / f".step-{progress.step}"
        draft.mkdir()
        save_file(tensors, draft / TENSORS)
        (draft / PROGRESS).write_bytes(msgspec.json.encode(progress))
        for path in (draft / TENSORS, draft / PROGRESS, draft):
            fsync(path)
        if final.exists():
            shutil.rmtree(final)
        draft.rename(final)
        fsync(self.root)
        self.on_written(progress.step)
        for old in complete(self.root)[:-KEEP]:
            shutil.rmtree(old)


def wait_once(optimizer: torch.optim.Optimizer, copying: Future[None]) -> None:
    """Lets the optimizer's next step, and no other, wait."""

    def wait(*_: object) -> None:
        handle.remove()
        copying.result()

    handle = optimizer.register_step_pre_hook(wait)


@torch.no_grad()
def copy_all(pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Each (from, to), in this thread alone: a copy that torch divides among its threads waits for
    the slowest of them, which something else may keep from its core (measured on two busy cores:
    0.07 s against 0.3 s for 420 MB)."""
    for source, target in pairs:
        if source.is_contiguous():
            ctypes.memmove(target.data_ptr(), source.data_ptr(), source.nbytes)
        else:
            target.copy_(source)


@torch.no_grad()
def stage(pairs: list[tuple[Tensor, Tensor]]) -> Callable[[], None]:
    """Lets the copy engine copy beside the next forward pass; gives a function that waits for it.

    The current stream waits, too, before it does anything else: nothing it does next may change
    what is still being read. Only the host goes on at once.
    """
    side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    current = torch.cuda.current_stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        for source, target in pairs:
            target.copy_(source, non_blocking=True)
    copied = side.record_event()
    current.wait_event(copied)

    def wait() -> None:
        copied.synchronize()

    return wait


def complete(root: Path) -> list[Path]:
    """The complete checkpoints, oldest first."""
    return sorted(root.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))


def read(path: Path, identity: Identity) -> tuple[dict[str, Tensor], Progress]:
    """Raises `CheckpointError`."""
    try:
        progress = msgspec.json.decode((path / PROGRESS).read_bytes(), type=Progress)
        tensors = load_file(path / TENSORS)
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        raise CheckpointError(f"the checkpoint {path.name} cannot be read: {error}") from error
    if progress.identity != identity:
        raise CheckpointError(
            f"the checkpoint {path.name} is of another run (parameters, data set, base model or "
            "precision differ); start without resume_from"
        )
    return tensors, progress


def progress_of(path: Path) -> Progress | None:
    """How far a checkpoint is; None if there is none to be read, which `read` will explain."""
    try:
        return msgspec.json.decode((path / PROGRESS).read_bytes(), type=Progress)
    except (OSError, msgspec.MsgspecError):
        return None


def optimizer_tensors(
    params: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    owners: Owners = NOBODY,
) -> dict[str, Tensor]:
    """The parameters, the optimizer's state of each parameter, and the generators' states. With
    ``owners``, the first process has those of all, and all must ask."""
    tensors: dict[str, Tensor] = {"rng.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    for name, param in params.items():
        if not is_mine(name, owners):
            continue
        tensors[PARAM + name] = param
        for key, value in optimizer.state[param].items():
            tensors[f"{key}.{name}"] = value
    for prefix in (PARAM, *(f"{moment}." for moment in MOMENTS)):
        collect(tensors, params, prefix, owners)
    if owners and parallel.is_first():  # a weight that has moments has taken as many steps as any
        steps = next(tensors[f"step.{name}"] for name in params if is_mine(name, owners))
        tensors |= {f"step.{name}": steps.clone() for name in params}
    return tensors


def restore(
    tensors: dict[str, Tensor],
    params: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    owners: Owners = NOBODY,
) -> None:
    """The inverse of `optimizer_tensors`, however many processes there were."""
    torch.set_rng_state(tensors["rng.cpu"])
    if "rng.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["rng.cuda"])
    with torch.no_grad():
        for name, param in params.items():
            if not is_mine(name, owners):
                continue
            param.copy_(tensors[PARAM + name])
            for key in ("step", *MOMENTS):
                # What came just before the checkpoint has not taken a step.
                if f"{key}.{name}" in tensors:
                    # The step, too: a fused optimizer reads it where the parameter is.
                    optimizer.state[param][key] = tensors[f"{key}.{name}"].to(param.device)


def fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
