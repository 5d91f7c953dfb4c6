"""Growing in width, and with every weight learning, as real processes."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from services.trainer import checkpoint
from services.trainer.loading import choose_dtype
from tests.integration.test_train_run import weights
from tests.support.training import (
    chats,
    curve,
    grow_spec,
    metrics,
    result,
    train,
    train_until,
    write_rows,
)
from tests.support.training_kills import finish_through_kills

SHAPES: dict[str, dict[str, Any]] = {
    "width": {"strategy": "width", "layers_per_cycle": 3},
    "depth, all learn": {"trainable": "all", "learning_rate": 3e-3},
    "width, all learn": {"strategy": "width", "trainable": "all", "learning_rate": 3e-3},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "chats.jsonl", chats())


@pytest.fixture(scope="module", params=SHAPES)
def shape(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def unbroken(
    shape: str, tiny_model: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a run that nothing disturbed: two turns of two cycles of six steps."""
    job = grow_spec(tiny_model, dataset, tmp_path_factory.mktemp("unbroken"), **SHAPES[shape])
    assert train(job) == 0
    return Path(job.out_dir)


def test_the_model_learns_and_says_how_it_grew(shape: str, unbroken: Path) -> None:
    outcome = result(unbroken)
    assert outcome.ppl_final < 0.7 * outcome.ppl_baseline
    assert outcome.params_delta == outcome.params_after - outcome.params_before > 0
    assert outcome.parity is not None
    assert outcome.parity.greedy_match > 0.95
    assert all(sample.base != sample.tuned for sample in outcome.samples)
    assert outcome.forgetting is not None
    assert outcome.forgetting.ppl_before < outcome.forgetting.ppl_after
    report = outcome.growth
    assert report is not None
    assert report.mean_kl == outcome.function_preservation
    if "depth" in shape:
        assert (report.blocks, report.neurons) == (2, 0)
        assert (report.max_abs_logit, report.rel_l2, report.mean_kl) == (0, 0, 0)
    else:
        rounding = 1e-2 if choose_dtype(torch.device("cpu")) == torch.bfloat16 else 1e-4
        assert (report.blocks, report.neurons) == (0, 160)
        assert report.rel_l2 <= rounding
        assert "cycle 2/4 · grown to 320 neurons in every MLP" in (unbroken / "log.txt").read_text()
    assert [(p.step, p.cycle) for p in metrics(unbroken) if p.phase == "grow"] == [(0, 1), (6, 2)]


def test_stock_transformers_loads_the_result(shape: str, unbroken: Path, tiny_model: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(unbroken / "model")
    base: Any = AutoModelForCausalLM.from_pretrained(tiny_model)
    config = model.config
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.num_parameters() == result(unbroken).params_after
    assert base.num_parameters() == result(unbroken).params_before
    grown = (config.num_hidden_layers, config.intermediate_size)
    assert grown == ((4, 160) if "depth" in shape else (2, 320))
    learnt = not torch.equal(base.model.embed_tokens.weight, model.model.embed_tokens.weight)
    assert learnt == ("all" in shape)


def test_only_the_new_neurons_have_learnt(shape: str, unbroken: Path, tiny_model: Path) -> None:
    if shape != "width":
        return
    model: Any = AutoModelForCausalLM.from_pretrained(unbroken / "model")
    base: Any = AutoModelForCausalLM.from_pretrained(tiny_model)
    for before, after in zip(base.model.layers, model.model.layers, strict=True):
        old, new = before.mlp, after.mlp
        assert torch.equal(before.self_attn.q_proj.weight, after.self_attn.q_proj.weight)
        assert torch.equal(new.gate_proj.weight[:160], old.gate_proj.weight)
        assert torch.equal(new.down_proj.weight[:, :160], old.down_proj.weight / 2)
        moved = (new.gate_proj.weight[160:] - old.gate_proj.weight).norm(dim=1)
        assert (moved > 0).all()


def test_killed_again_and_again_the_run_is_the_unbroken_one(
    shape: str, unbroken: Path, tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    def job(resume_from: Path | None) -> Any:
        return grow_spec(tiny_model, dataset, tmp_path, resume_from=resume_from, **SHAPES[shape])

    assert finish_through_kills(job, kills=3, most_steps=9, dice=random.Random(shape)) > 1
    same_end(tmp_path, unbroken)


def test_stopped_where_the_second_growth_comes_and_resumed_it_is_too(
    shape: str, unbroken: Path, tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    assert train_until(grow_spec(tiny_model, dataset, tmp_path, **SHAPES[shape]), 6) == 0
    kept = checkpoint.complete(tmp_path / "checkpoints")[-1]
    assert kept.name == "step-6"
    assert train(grow_spec(tiny_model, dataset, tmp_path, resume_from=kept, **SHAPES[shape])) == 0
    same_end(tmp_path, unbroken)


def same_end(out_dir: Path, unbroken: Path) -> None:
    assert curve(out_dir) == curve(unbroken)
    assert weights(out_dir) == weights(unbroken)
    same = ("ppl_baseline", "ppl_final", "params_after", "growth", "tokens_processed", "samples")
    ours, theirs = result(out_dir), result(unbroken)
    assert [getattr(ours, f) for f in same] == [getattr(theirs, f) for f in same]
