"""Growing as real processes: what a run leaves behind, how it ends, and how it goes on."""

import os
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from services.trainer import checkpoint
from services.trainer.tail import RunState
from tests.support.training import (
    chats,
    curve,
    failed,
    grow_spec,
    metrics,
    result,
    start_held,
    status,
    steps_done,
    told_to_stop,
    train,
    train_until,
    wait_until,
    write_rows,
)
from tests.support.training_kills import newest_checkpoint

MILLION = 10**6
WEIGHTS = "model/model.safetensors"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "chats.jsonl", chats())


@pytest.fixture(scope="module")
def unbroken(tiny_model: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed: two turns of two cycles of six steps."""
    job = grow_spec(tiny_model, dataset, tmp_path_factory.mktemp("unbroken"))
    assert train(job) == 0
    return Path(job.out_dir)


def weights(out_dir: Path) -> dict[str, bytes]:
    tensors = load_file(out_dir / WEIGHTS)
    return {name: tensor.view(torch.uint8).numpy().tobytes() for name, tensor in tensors.items()}


def test_a_grown_model_says_the_held_out_rows_better_and_is_larger(unbroken: Path) -> None:
    outcome = result(unbroken)
    assert outcome.ppl_final < 0.6 * outcome.ppl_baseline
    assert outcome.split == "validation (10% of rows, seed 17)"
    assert outcome.params_delta == outcome.params_after - outcome.params_before > 0
    assert outcome.steps == 24
    assert outcome.parity is not None
    assert outcome.parity.greedy_match > 0.95
    assert all(sample.base != sample.tuned for sample in outcome.samples)


def test_growing_has_changed_nothing_by_itself(unbroken: Path) -> None:
    outcome = result(unbroken)
    assert outcome.function_preservation == 0
    assert outcome.growth is not None
    assert outcome.growth.blocks == 2
    assert (outcome.growth.max_abs_logit, outcome.growth.rel_l2) == (0, 0)
    log = (unbroken / "log.txt").read_text()
    assert "cycle 2/4 · grown to 4 blocks" in log
    assert "cycle 3/4 · grown" not in log


def test_every_point_names_its_cycle_and_phase(unbroken: Path) -> None:
    points = metrics(unbroken)
    told = [(p.step, p.cycle, p.phase) for p in points if p.phase != "train"]
    assert told == [
        (0, 0, "eval"),
        (0, 1, "grow"),
        (6, 1, "eval"),
        (6, 2, "grow"),
        (12, 2, "eval"),
        (18, 3, "eval"),
        (24, 4, "eval"),
    ]
    assert [(p.step, p.cycle) for p in points if p.phase == "train"] == [
        (step, (step - 1) // 6 + 1) for step in range(1, 25)
    ]
    state = msgspec.json.decode((unbroken / "state.json").read_bytes(), type=RunState)
    assert (state.phase, state.step, state.steps_total) == ("done", 24, 24)


def test_the_log_reads_as_the_reference_has_it(unbroken: Path) -> None:
    log = (unbroken / "log.txt").read_text()
    assert "step 24/24 · loss 2." in log
    assert "Training complete — saving your model…" in log


def test_stock_transformers_loads_the_result_and_the_base_in_it_is_untouched(
    unbroken: Path, tiny_model: Path
) -> None:
    grown: Any = AutoModelForCausalLM.from_pretrained(unbroken / "model")
    base: Any = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert AutoTokenizer.from_pretrained(unbroken / "model").chat_template
    assert grown.config.num_hidden_layers == len(grown.model.layers) == 4
    assert grown.lm_head.weight is grown.model.embed_tokens.weight
    assert grown.num_parameters() == result(unbroken).params_after
    for old, at in enumerate((0, 2)):  # each with a new one behind it
        before = base.model.layers[old].state_dict()
        after = grown.model.layers[at].state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
        new = grown.model.layers[at + 1]
        assert new.mlp.down_proj.weight.abs().sum() > 0
        assert not torch.equal(new.mlp.up_proj.weight, base.model.layers[old].mlp.up_proj.weight)


@pytest.mark.parametrize("kill_after", [5, 9])
def test_killed_at_any_step_and_resumed_the_run_is_the_unbroken_one(
    kill_after: int, unbroken: Path, tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    process = start_held(grow_spec(tiny_model, dataset, tmp_path), kill_after + 2)
    kept = tmp_path / "checkpoints"  # written beside the training, so it may come a step later
    wait_until(lambda: steps_done(tmp_path) >= kill_after and bool(checkpoint.complete(kept)))
    process.kill()
    process.join()
    assert not (tmp_path / "status.json").exists()
    resume_to_the_same_end(tiny_model, dataset, tmp_path, unbroken)


@pytest.mark.parametrize("stop_at", [6, 12])
def test_stopped_where_a_cycle_ends_and_resumed_the_run_is_the_unbroken_one(
    stop_at: int, unbroken: Path, tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    assert train_until(grow_spec(tiny_model, dataset, tmp_path), stop_at) == 0
    assert checkpoint.complete(tmp_path / "checkpoints")[-1].name == f"step-{stop_at}"
    resume_to_the_same_end(tiny_model, dataset, tmp_path, unbroken)


def resume_to_the_same_end(model: Path, dataset: Path, out_dir: Path, unbroken: Path) -> None:
    newest = newest_checkpoint(out_dir)  # none, if the disk was so slow: then it begins anew
    assert train(grow_spec(model, dataset, out_dir, resume_from=newest)) == 0
    assert curve(out_dir) == curve(unbroken)
    assert weights(out_dir) == weights(unbroken)
    same = ("ppl_baseline", "ppl_final", "params_after", "growth", "tokens_processed", "samples")
    ours, theirs = result(out_dir), result(unbroken)
    assert [getattr(ours, f) for f in same] == [getattr(theirs, f) for f in same]


def test_sigterm_ends_a_run_with_a_checkpoint_that_knows_what_has_grown(
    tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    process = start_held(grow_spec(tiny_model, dataset, tmp_path, checkpoint_every=1000), 2)
    wait_until(lambda: steps_done(tmp_path) >= 2)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    process.join(timeout=120)
    assert process.exitcode == 0
    assert status(tmp_path).outcome == "stopped"
    assert status(tmp_path).tokens_processed > 0
    (kept,) = checkpoint.complete(tmp_path / "checkpoints")
    assert kept.name == f"step-{steps_done(tmp_path)}"
    assert b'"blocks":1' in (kept / checkpoint.PROGRESS).read_bytes()


def test_a_run_under_way_hears_sigterm_and_ends_with_a_checkpoint(
    tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    endless = grow_spec(
        tiny_model, dataset, tmp_path, steps_per_cycle=MILLION, checkpoint_every=MILLION
    )
    assert told_to_stop(endless) == 0
    assert status(tmp_path).outcome == "stopped"
    (kept,) = checkpoint.complete(tmp_path / "checkpoints")
    assert kept.name == f"step-{steps_done(tmp_path)}"


def test_growth_ends_before_a_model_becomes_a_spire(
    tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    job = grow_spec(
        tiny_model, dataset, tmp_path, turns=1, cycles=3, layers_per_cycle=4, steps_per_cycle=1
    )
    assert train(job) == 0
    assert [p.cycle for p in metrics(tmp_path) if p.phase == "grow"] == [1, 2]
    grown = result(tmp_path).growth
    assert grown is not None
    assert grown.blocks == 6
    assert "growth ends at 4 times the base's depth" in (tmp_path / "log.txt").read_text()


def test_a_rate_that_is_too_high_fails_as_diverged(
    unbroken: Path, dataset: Path, tmp_path: Path
) -> None:
    """A base that knows these rows. What a ruined model says (the tokens' frequencies, 4.7 nats) is
    hardly worse than what one says that has never seen them, by more or less with the rounding."""
    assert result(unbroken).loss_final < 2.5
    base = unbroken / "model"
    ended = failed(grow_spec(base, dataset, tmp_path, learning_rate=1.0, steps_per_cycle=20))
    assert ended.code == "training_diverged"
    assert ended.message is not None
    assert "lower learning_rate" in ended.message


def test_a_model_of_another_architecture_fails_with_what_to_choose(
    tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    other = tmp_path / "gpt"
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(other)
    GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=420)).save_pretrained(
        other
    )
    ended = failed(grow_spec(other, dataset, tmp_path / "out"))
    assert ended.code == "model_load_failed"
    assert ended.message is not None
    assert "Llama, Mistral, Qwen or Gemma" in ended.message


def test_a_checkpoint_of_another_job_is_refused(
    unbroken: Path, tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    foreign = unbroken / "checkpoints" / "step-20"
    ended = failed(grow_spec(tiny_model, dataset, tmp_path, cycles=3, resume_from=foreign))
    assert ended.message is not None
    assert "another run" in ended.message
