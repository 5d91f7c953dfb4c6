"""Two processes under torchrun with gloo: one run, the same numbers, one writer."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal

import msgspec
import psutil
import pytest
from msgspec.structs import replace
from safetensors.torch import load_file

from libs.contracts.training import TrainSpec
from services.trainer import checkpoint
from tests.support.training import (
    chats,
    curve,
    grow_spec,
    result,
    spec,
    status,
    steps_done,
    train,
    wait_until,
    write_rows,
)

LONG = 160  # steps, in two turns of two cycles: a signal comes before their end, on a busy machine


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "chats.jsonl", chats())


def torchrun(job: TrainSpec) -> subprocess.Popen[bytes]:
    file = Path(job.out_dir).with_suffix(".json")
    file.write_bytes(msgspec.json.encode(msgspec.structs.replace(job, threads=1)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.Popen(
        [*command, "--nproc-per-node", "2", "-m", "services.trainer.train", str(file)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def test_two_processes_give_the_loss_of_one(
    tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    alone = spec(tiny_model, dataset, tmp_path / "alone", steps=10)
    together = spec(tiny_model, dataset, tmp_path / "together", steps=10)
    both = torchrun(together)
    assert train(alone) == 0
    assert both.wait(300) == 0
    ours, theirs = curve(tmp_path / "together"), curve(tmp_path / "alone")
    assert [point[:2] for point in ours] == [point[:2] for point in theirs], (
        "each step is told once"
    )
    for mine, expected in zip(ours, theirs, strict=True):
        # Sums in another order, in bf16 where the machine computes in it.
        assert mine[2:] == pytest.approx(expected[2:], rel=2e-2)
    assert result(tmp_path / "together").tokens_processed == (
        result(tmp_path / "alone").tokens_processed
    )


def second_of(group: subprocess.Popen[bytes]) -> psutil.Process:
    """The process that writes nothing."""
    workers = psutil.Process(group.pid).children()
    return next(worker for worker in workers if worker.environ().get("RANK") == "1")


def test_sigterm_to_one_stops_both_after_the_same_step_and_the_run_goes_on_from_there(
    tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    job = grow_spec(tiny_model, dataset, out, checkpoint_every=1000, steps_per_cycle=LONG // 4)
    both = torchrun(job)
    wait_until(lambda: steps_done(out) >= 3)
    second_of(both).send_signal(signal.SIGTERM)
    assert both.wait(300) == 0
    assert status(out).outcome == "stopped"
    (kept,) = checkpoint.complete(out / "checkpoints")
    assert kept.name == f"step-{steps_done(tmp_path / 'out')}"
    again = torchrun(msgspec.structs.replace(job, resume_from=str(kept)))
    assert again.wait(300) == 0
    assert status(out).outcome == "finished"
    assert steps_done(out) == LONG
    assert not [name for name in os.listdir(out) if name.startswith("tuneyard-")]


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_every_weight_is_stepped_by_one_of_two_and_a_checkpoint_has_them_all(
    precision: Literal["bf16", "fp32"], tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    options = {"method": "full", "learning_rate": 2e-3, "steps": 12, "eval_every": 3, "patience": 9}
    jobs = [
        replace(spec(tiny_model, dataset, tmp_path / where, **options), precision=precision)
        for where in ("alone", "together")
    ]
    both = torchrun(jobs[1])
    assert train(jobs[0]) == 0
    assert both.wait(300) == 0
    theirs, ours = (curve(Path(job.out_dir)) for job in jobs)
    for mine, expected in zip(ours, theirs, strict=True):
        assert mine[2:] == pytest.approx(expected[2:], rel=3e-2 if precision == "bf16" else 1e-4)

    kept = [Path(job.out_dir) / "checkpoints/step-8" for job in jobs]
    one, two = (load_file(folder / checkpoint.TENSORS) for folder in kept)
    assert {name: t.shape for name, t in one.items()} == {n: t.shape for n, t in two.items()}
    apart = {n: (t - two[n]).norm() / t.norm() for n, t in one.items() if "exp_avg." in n}
    assert max(apart.values()) < (0.2 if precision == "bf16" else 1e-3)

    # Another number of processes goes on from there.
    moved = replace(jobs[1], out_dir=str(tmp_path / "moved"), resume_from=str(kept[1]))
    assert train(moved) == 0
    for mine, expected in zip(curve(tmp_path / "moved"), ours[-6:], strict=True):
        assert mine[2:] == pytest.approx(expected[2:], rel=3e-2 if precision == "bf16" else 1e-4)
    again = torchrun(replace(moved, out_dir=str(tmp_path / "back"), resume_from=str(kept[0])))
    assert again.wait(300) == 0
    assert result(tmp_path / "back").loss_final == pytest.approx(theirs[-1][2], rel=3e-2)
