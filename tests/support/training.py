"""A model small enough to train in a test, rows to train it on, and processes that do."""

import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from libs.contracts.results import RunResult
from libs.contracts.training import (
    ContractParams,
    FinetuneParams,
    MetricPoint,
    TrainParams,
    TrainSpec,
)
from services.trainer.tail import RunStatus
from services.trainer.tiny_llama import Recipe, build
from tests.support.jobs import NOON

SMALL = Recipe(
    vocabulary=420,
    hidden=64,
    layers=2,
    heads=2,
    key_heads=1,
    documents=200,
    steps=100,
    batch_tokens=512,
)
JOB = UUID("6a1f0f4e-37ec-4c04-9d9b-0f7f4ce22f01")

COLOURS = ("red", "blue", "green", "grey", "white", "black")
THINGS = ("lamp", "door", "boat", "bell", "map", "wheel")


def build_tiny_model(target: Path) -> Path:
    build(target, SMALL)
    return target


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_bytes(b"\n".join(msgspec.json.encode(row) for row in rows) + b"\n")
    return path


def chat(question: str, answer: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


def chats() -> list[dict[str, Any]]:
    """72 different rows that a tiny model learns quickly."""
    return [
        chat(f"What is {thing} {number}?", f"The {thing} with number {number} is {colour}.")
        for number, colour in enumerate(COLOURS)
        for thing in THINGS
    ] + [
        chat(f"Is a {colour} {thing} there?", f"Yes, the {colour} {thing} is there.")
        for colour in COLOURS
        for thing in THINGS
    ]


def spec(
    model: Path, dataset: Path, out_dir: Path, *, resume_from: Path | None = None, **params: Any
) -> TrainSpec:
    small: dict[str, Any] = {
        "steps": 24,
        "learning_rate": 1e-2,
        "seq_len": 64,
        "batch_size": 4,
        "lora_rank": 8,
        "eval_every": 10,
        "checkpoint_every": 4,
    }
    return TrainSpec(
        job_id=JOB,
        job_type="finetune",
        model_path=str(model),
        dataset_path=str(dataset),
        out_dir=str(out_dir),
        params=FinetuneParams(**(small | params)),
        resume_from=str(resume_from) if resume_from else None,
    )


def grow_spec(
    model: Path, dataset: Path, out_dir: Path, *, resume_from: Path | None = None, **params: Any
) -> TrainSpec:
    small: dict[str, Any] = {
        "turns": 2,
        "cycles": 2,
        "steps_per_cycle": 6,
        "learning_rate": 1e-2,
        "seq_len": 64,
        "batch_size": 4,
        "checkpoint_every": 4,
    }
    return TrainSpec(
        job_id=JOB,
        job_type="train",
        model_path=str(model),
        dataset_path=str(dataset),
        out_dir=str(out_dir),
        train_params=TrainParams(**(small | params)),
        resume_from=str(resume_from) if resume_from else None,
    )


def contract_spec(
    model: Path, out_dir: Path, *, dataset: Path | None = None, **params: Any
) -> TrainSpec:
    small: dict[str, Any] = {
        "contraction_ratio": 0.5,
        "num_layers_to_contract": 8,
        "calibration_rows": 24,
        "seq_len": 64,
    }
    return TrainSpec(
        job_id=JOB,
        job_type="contract",
        model_path=str(model),
        dataset_path=str(dataset) if dataset else None,
        out_dir=str(out_dir),
        contract_params=ContractParams(**(small | params)),
    )


def start(job: TrainSpec) -> ForkServerProcess:
    """A real process that runs the job, forked from a server that has the imports ready."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["services.trainer.preload"])
    process = context.Process(target=_train, args=(job,))
    process.start()
    return process


def _train(job: TrainSpec) -> None:
    from services.trainer.train import run

    run(job)


def train(job: TrainSpec) -> int:
    """Runs the job to its end; gives the exit status."""
    return ended(start(job))


def train_until(job: TrainSpec, step: int) -> int:
    """Runs the job, and asks it to stop when it has taken this step; gives the exit status."""
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_train_until, args=(job, step))
    process.start()
    return ended(process)


def _train_until(job: TrainSpec, step: int) -> None:
    from services.trainer.journal import Journal
    from services.trainer.train import do, settle

    settle(job.threads)
    out_dir = Path(job.out_dir)
    journal = Journal(out_dir, lambda: NOON, None)
    do(job, journal, lambda: steps_done(out_dir) >= step)


def start_held(job: TrainSpec, step: int) -> ForkServerProcess:
    """A process that runs the job to this step, and there waits to be killed, or to be stopped by
    SIGTERM: it would be at its end before a test that is given little time has seen the step
    before."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["services.trainer.preload"])
    process = context.Process(target=_train_held, args=(job, step), daemon=True)
    process.start()
    return process


def _train_held(job: TrainSpec, step: int) -> None:
    from services.trainer.train import attempt, settle

    out_dir, told = Path(job.out_dir), {signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, told)  # in every thread: it is kept for who waits
    settle(job.threads)
    attempt(job, lambda: steps_done(out_dir) >= step and signal.sigwait(told) in told)


def told_to_stop(job: TrainSpec) -> int:
    """Runs the job, and sends it SIGTERM when it is under way; gives the exit status. Nobody holds
    the run, which hears the signal by itself: it must have no end that it soon comes to."""
    process = start(job)
    try:
        wait_until(lambda: steps_done(Path(job.out_dir)) >= 1)
        process.terminate()
        return ended(process)
    finally:
        process.kill()


def ended(process: ForkServerProcess) -> int:
    process.join(timeout=300)
    assert process.exitcode is not None, "the run takes longer than five minutes"
    return process.exitcode


def failed(job: TrainSpec) -> RunStatus:
    assert train(job) == 1
    return status(Path(job.out_dir))


def wait_until(true: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "what was waited for has not happened"
        time.sleep(0.002)


def status(out_dir: Path) -> RunStatus:
    return msgspec.json.decode((out_dir / "status.json").read_bytes(), type=RunStatus)


def result(out_dir: Path) -> RunResult:
    return msgspec.json.decode((out_dir / "result.json").read_bytes(), type=RunResult)


def steps_done(out_dir: Path) -> int:
    try:
        return sum(b'"train"' in line for line in (out_dir / "metrics.jsonl").open("rb"))
    except FileNotFoundError:
        return 0


def metrics(out_dir: Path) -> list[MetricPoint]:
    lines = (out_dir / "metrics.jsonl").read_bytes().splitlines()
    return [msgspec.json.decode(line, type=MetricPoint) for line in lines]


def curve(out_dir: Path) -> list[tuple[int, str, float, float, float]]:
    """What must be equal, bit for bit, between two runs of the same job."""
    return [(p.step, p.phase, p.loss, p.lr, p.grad_norm) for p in metrics(out_dir)]
