"""How long a checkpoint holds up training, beside a plain save of the same state; and what a step's
telemetry takes. ``python -m tests.bench.rivals.saving DIR``; prints seconds as JSON.
"""

import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import save_file

from libs.contracts.training import MetricPoint
from services.trainer.checkpoint import Checkpoints, Identity, Progress, fsync
from services.trainer.journal import Journal
from services.trainer.tail import RunState

TENSORS, SIZE = 50, 2 << 20  # fp32: 420 MB, as weights and moments of 35 million parameters
SAVES = 6
PRODUCTS = 25  # some 0.3 s of a step's work on two cores
POINTS = 500


def main() -> None:
    folder = Path(sys.argv[1])
    tensors = {f"param.{n}": torch.randn(SIZE) for n in range(TENSORS)}
    print(json.dumps(saves(folder, tensors) | {"telemetry": telemetry(folder / "journal")}))


def saves(folder: Path, tensors: dict[str, torch.Tensor]) -> dict[str, float]:
    identity = Identity(params=None, dataset_sha256="", model_sha256="", dtype="float32")
    checkpoints = Checkpoints(folder / "ours", lambda step: None, fresh=True)
    params = [torch.nn.Parameter(torch.zeros(1))]
    optimizer = torch.optim.AdamW(params, lr=0.0)
    work = torch.randn(1024, 1024)

    def passes() -> None:
        for _ in range(PRODUCTS):
            work @ work

    blocked, plain = [], []
    for number in range(1, SAVES + 1):
        progress = Progress(identity=identity, step=number)

        def saving(progress: Progress = progress) -> None:
            checkpoints.save(tensors, progress, optimizer)

        held_up = seconds(saving)
        passes()
        blocked.append(held_up + seconds(optimizer.step))  # which waits for the copy
        checkpoints.wait()  # as the steps until the next one would let it
        plain.append(seconds(lambda: plain_save(folder / "plain.safetensors", tensors)))
    checkpoints.close()
    return {"blocked": median(blocked[1:]), "plain": median(plain[1:])}


def plain_save(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, path)
    fsync(path)


def telemetry(folder: Path) -> float:
    """Of one step: a point of metrics, and how far the run is."""
    journal = Journal(folder, lambda: datetime.now(UTC), None)

    def tell() -> None:
        for step in range(POINTS):
            journal.metric(
                MetricPoint(
                    ts=journal.clock(),
                    step=step,
                    cycle=0,
                    phase="train",
                    loss=2.5,
                    lr=1e-3,
                    throughput=4000.0,
                    vram_gb=0.0,
                    grad_norm=0.7,
                )
            )
            journal.log(f"step {step}/{POINTS} · loss 2.500 · lr 1.0e-03 · 4 000 tok/s")
            journal.state(
                RunState(
                    step=step,
                    steps_total=POINTS,
                    phase="train",
                    tokens_processed=step * 2048,
                    device="cpu",
                )
            )

    return seconds(tell) / POINTS


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
