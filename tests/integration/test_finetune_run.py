"""Fine-tuning as real processes: what a run leaves behind, how it ends, and how it goes on."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace
from safetensors.torch import load_file

from services.trainer import checkpoint
from services.trainer.tail import RunState, RunStatus
from tests.support.training import (
    chats,
    curve,
    failed,
    metrics,
    result,
    spec,
    start_held,
    status,
    steps_done,
    told_to_stop,
    train,
    wait_until,
    write_rows,
)

LONG = 100_000  # steps: minutes, and not so many that their blocks are compiled first
ADAPTER = "model/adapter_model.safetensors"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "chats.jsonl", chats())


@pytest.fixture(scope="module")
def unbroken(tiny_model: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    job = spec(tiny_model, dataset, tmp_path_factory.mktemp("unbroken"))
    assert train(job) == 0
    return Path(job.out_dir)


def test_a_run_lowers_the_held_out_perplexity_and_says_on_which_rows(unbroken: Path) -> None:
    outcome = result(unbroken)
    assert outcome.ppl_final < 0.6 * outcome.ppl_baseline
    assert outcome.split == "validation (10% of rows, seed 17)"
    assert outcome.parity is not None
    assert outcome.parity.greedy_match > 0.95
    assert len(outcome.samples) == 3
    assert all(sample.base != sample.tuned for sample in outcome.samples)
    assert {"dataset_sha256", "base_model/model.safetensors", "seed", "torch"} <= set(
        outcome.lineage
    )
    assert status(unbroken) == RunStatus(
        outcome="finished", tokens_processed=outcome.tokens_processed
    )


def test_every_step_and_evaluation_is_a_point(unbroken: Path) -> None:
    points = metrics(unbroken)
    assert [p.step for p in points if p.phase == "train"] == list(range(1, 25))
    assert [p.step for p in points if p.phase == "eval"] == [0, 10, 20, 24]
    assert all(p.throughput > 0 for p in points)
    state = msgspec.json.decode((unbroken / "state.json").read_bytes(), type=RunState)
    assert (state.phase, state.step, state.steps_total) == ("done", 24, 24)
    assert "step 24/24 · loss" in (unbroken / "log.txt").read_text()


def test_only_the_last_two_checkpoints_are_kept_and_whole(unbroken: Path) -> None:
    kept = sorted(path.name for path in (unbroken / "checkpoints").iterdir())
    assert kept == ["step-16", "step-20"]


def test_a_fresh_process_sees_the_same_fall_with_stock_peft(
    unbroken: Path, tiny_model: Path, dataset: Path
) -> None:
    def ppl(*adapter: str) -> float:
        command = [sys.executable, "-m", "services.trainer.evaluate", "--model", str(tiny_model)]
        done = subprocess.run(
            [*command, "--data", str(dataset), *adapter], capture_output=True, check=True, text=True
        )
        return float(msgspec.json.decode(done.stdout)["ppl"])

    before, after = ppl(), ppl("--adapter", str(unbroken / "model"))
    outcome = result(unbroken)
    assert before == pytest.approx(outcome.ppl_baseline, rel=0.2)
    assert after < 0.6 * before


def test_the_same_job_gives_the_same_numbers(
    unbroken: Path, tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    assert train(spec(tiny_model, dataset, tmp_path)) == 0
    assert curve(tmp_path) == curve(unbroken)
    assert (tmp_path / ADAPTER).read_bytes() == (unbroken / ADAPTER).read_bytes()


@pytest.mark.parametrize("kill_after", [5, 11, 18])
def test_killed_at_any_step_and_resumed_the_run_is_the_unbroken_one(
    kill_after: int, unbroken: Path, tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    job = spec(tiny_model, dataset, tmp_path)
    process = start_held(job, kill_after + 2)
    kept = tmp_path / "checkpoints"  # written beside the training, so it may come a step later
    wait_until(lambda: steps_done(tmp_path) >= kill_after and bool(checkpoint.complete(kept)))
    process.kill()
    process.join()
    assert not (tmp_path / "status.json").exists()

    newest = checkpoint.complete(tmp_path / "checkpoints")[-1]
    assert train(spec(tiny_model, dataset, tmp_path, resume_from=newest)) == 0
    assert curve(tmp_path) == curve(unbroken)
    mine, theirs = load_file(tmp_path / ADAPTER), load_file(unbroken / ADAPTER)
    assert {name: t.numpy().tobytes() for name, t in mine.items()} == {
        name: t.numpy().tobytes() for name, t in theirs.items()
    }
    same = ("ppl_baseline", "ppl_final", "loss_final", "tokens_processed", "samples", "lineage")
    ours, unbroken_result = result(tmp_path), result(unbroken)
    assert [getattr(ours, f) for f in same] == [getattr(unbroken_result, f) for f in same]


def test_a_run_goes_on_in_its_precision_on_a_machine_that_would_choose_another(
    tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    """As after a change of machine: the second attempt's choice would be the other one."""
    whole = replace(spec(tiny_model, dataset, tmp_path / "whole"), precision="fp32")
    assert train(whole) == 0
    job = replace(whole, out_dir=str(tmp_path / "moved"))
    process = start_held(job, 6)  # behind its first checkpoint
    kept = tmp_path / "moved" / "checkpoints"
    wait_until(lambda: bool(checkpoint.complete(kept)))
    process.kill()
    process.join()
    newest = str(checkpoint.complete(kept)[-1])
    assert train(replace(job, resume_from=newest, precision="bf16")) == 0
    assert curve(tmp_path / "moved") == curve(tmp_path / "whole")
    assert result(tmp_path / "moved").lineage["precision"] == "float32"


def test_sigterm_ends_a_run_with_a_checkpoint_to_go_on_from(
    unbroken: Path, tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    job = spec(tiny_model, dataset, tmp_path, checkpoint_every=1000)
    process = start_held(job, 3)
    wait_until(lambda: steps_done(tmp_path) >= 3)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    process.join(timeout=120)
    assert process.exitcode == 0
    assert status(tmp_path).outcome == "stopped"
    done = steps_done(tmp_path)
    (kept,) = checkpoint.complete(tmp_path / "checkpoints")
    assert kept.name == f"step-{done}"
    assert status(tmp_path).tokens_processed > 0

    again = spec(tiny_model, dataset, tmp_path, checkpoint_every=1000, resume_from=kept)
    assert train(again) == 0
    assert curve(tmp_path) == curve(unbroken)


def test_a_run_under_way_hears_sigterm_and_ends_with_a_checkpoint(
    tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    long = spec(tiny_model, dataset, tmp_path, steps=LONG, checkpoint_every=LONG)
    assert told_to_stop(long) == 0
    assert status(tmp_path).outcome == "stopped"
    (kept,) = checkpoint.complete(tmp_path / "checkpoints")
    assert kept.name == f"step-{steps_done(tmp_path)}"


def test_a_bad_row_fails_the_job_with_its_line(tiny_model: Path, tmp_path: Path) -> None:
    bad = write_rows(tmp_path / "bad.jsonl", [{"text": "fine"}, {"text": 5}])
    ended = failed(spec(tiny_model, bad, tmp_path / "out"))
    assert ended.code == "invalid_dataset"
    assert ended.message is not None
    assert "line 2" in ended.message


def test_a_missing_model_fails_the_job_with_its_name(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "no-such-model").mkdir()
    ended = failed(spec(tmp_path / "no-such-model", dataset, tmp_path / "out"))
    assert ended.code == "model_load_failed"
    assert ended.message is not None
    assert "no-such-model" in ended.message


def test_a_rate_that_is_too_high_fails_as_diverged(
    tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    """Looked at while it is thrown about: what it settles at later is hardly worse than a model
    that has never seen such rows, by more or less with the CPU's rounding."""
    ended = failed(spec(tiny_model, dataset, tmp_path, learning_rate=1.0, eval_every=4))
    assert ended.code == "training_diverged"
    assert ended.message is not None
    assert "lower learning_rate" in ended.message


def test_a_checkpoint_of_another_job_is_refused(
    unbroken: Path, tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    foreign = unbroken / "checkpoints" / "step-20"
    ended = failed(spec(tiny_model, dataset, tmp_path, steps=25, resume_from=foreign))
    assert ended.code == "internal_error"
    assert ended.message is not None
    assert "another run" in ended.message


def test_the_command_line_runs_a_spec(tiny_model: Path, dataset: Path, tmp_path: Path) -> None:
    job = spec(tiny_model, dataset, tmp_path / "out", steps=2)
    (tmp_path / "spec.json").write_bytes(msgspec.json.encode(job))
    command = [sys.executable, "-m", "services.trainer.train", str(tmp_path / "spec.json")]
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert (tmp_path / "out" / "model" / "adapter_config.json").exists()
