"""``python -m services.trainer.train spec.json``: runs one job without the platform.

Writes into the spec's ``out_dir``; ``status.json`` says how it ended. Exit status 0 if the job
finished or was stopped by SIGTERM, 1 if it failed. Started by torchrun, several processes are one
run (`parallel`).
"""

import gc
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import assert_never

import msgspec
import torch
from transformers.utils.logging import disable_progress_bar

from libs.contracts.scheduler import FailureCode
from libs.contracts.training import TrainSpec
from services.trainer import parallel
from services.trainer.checkpoint import CheckpointError, progress_of
from services.trainer.contract import contract
from services.trainer.export import ParityError
from services.trainer.finetune import finetune
from services.trainer.grow import grow
from services.trainer.journal import STATUS, Journal, replace
from services.trainer.loading import ModelError
from services.trainer.memory import TooLittleMemory, is_out_of_memory
from services.trainer.rows import DatasetError
from services.trainer.run import Outcome
from services.trainer.steps import DivergedError
from services.trainer.tail import RunStatus

MAX_MESSAGE = 4000  # of a LongText

FAILURES: tuple[tuple[type[BaseException], FailureCode], ...] = (
    (DatasetError, "invalid_dataset"),
    (ModelError, "model_load_failed"),
    (DivergedError, "training_diverged"),
    (ParityError, "parity_gate_failed"),
    (TooLittleMemory, "out_of_memory"),
    (CheckpointError, "internal_error"),
)


def run(spec: TrainSpec) -> None:
    """Runs the job in this process, which is for this job alone. Raises SystemExit(1) if it fails.

    On SIGTERM the step under way is finished, a checkpoint written (a contraction needs none), and
    the outcome is "stopped".
    """
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))
    settle(spec.threads)
    parallel.join(spec.device, os.environ)
    with tempfile.TemporaryDirectory(prefix="tuneyard-") as aside:
        if not parallel.is_first():  # what it says, the first says
            spec = msgspec.structs.replace(spec, out_dir=aside)
        try:
            attempt(spec, lambda: parallel.anyone(bool(stop)))
        finally:
            parallel.leave()


def attempt(spec: TrainSpec, asked_to_stop: Callable[[], bool]) -> None:
    """Raises SystemExit(1) if it fails, when it has said why."""
    out_dir = Path(spec.out_dir)
    resumed = progress_of(Path(spec.resume_from)) if spec.resume_from else None
    journal = Journal(out_dir, lambda: datetime.now(UTC), resumed.step if resumed else None)
    try:
        outcome = do(spec, journal, asked_to_stop)
        status = RunStatus(
            outcome="finished" if outcome.result else "stopped",
            tokens_processed=outcome.tokens_processed,
        )
    except Exception as error:
        traceback.print_exc()
        code, message = explain(error)
        journal.log(f"failed: {message}")
        status = RunStatus(outcome="failed", code=code, message=message[:MAX_MESSAGE])
    journal.close()
    replace(out_dir / STATUS, status)
    if status.outcome == "failed":
        raise SystemExit(1)


def do(spec: TrainSpec, journal: Journal, asked_to_stop: Callable[[], bool]) -> Outcome:
    match spec.job_type:
        case "finetune":
            return finetune(spec, journal, asked_to_stop)
        case "train":
            return grow(spec, journal, asked_to_stop)
        case "contract":
            if parallel.size() > 1:
                raise ValueError("a contraction is one process's work; start it without torchrun")
            return contract(spec, journal, asked_to_stop)
        case other:
            assert_never(other)


def settle(threads: int) -> None:
    """The same numbers from the same spec: fixed threads, deterministic kernels."""
    # cuBLAS is deterministic only with a workspace of fixed size; it reads this when it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("RAYON_NUM_THREADS", str(threads))
    gc.freeze()  # what was imported stays; a collection need not walk through it (0.3 s of a start)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # That also fills every new tensor with NaN, for nothing: no kernel here reads one unwritten.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def explain(error: Exception) -> tuple[FailureCode, str]:
    """The failure's code, and what happened with what to change."""
    for kind, code in FAILURES:
        if isinstance(error, kind):
            return code, str(error)
    if is_out_of_memory(error):
        return "out_of_memory", f"out of memory: lower seq_len or choose the method lora ({error})"
    return "internal_error", f"{type(error).__name__}: {error}; the process's output has details"


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m services.trainer.train spec.json")
    try:
        spec = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=TrainSpec)
    except (OSError, msgspec.MsgspecError) as error:
        raise SystemExit(f"{sys.argv[1]}: {error}") from error
    run(spec)


if __name__ == "__main__":
    main()
