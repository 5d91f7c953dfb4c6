"""Contraction in width, and on a data set's own rows, as real processes."""

import random
import time
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from libs.contracts.training import TrainSpec
from tests.support.training import (
    chats,
    contract_spec,
    failed,
    metrics,
    result,
    start,
    train,
    write_rows,
)

WEIGHTS = "model/model.safetensors"
SHAPES: dict[str, dict[str, Any]] = {
    "width": {"strategy": "width", "contraction_ratio": 0.4},
    "width, data set": {"strategy": "width", "contraction_ratio": 0.4},
    "depth, data set": {"strategy": "depth"},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "chats.jsonl", chats())


@pytest.fixture(scope="module", params=SHAPES)
def shape(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def spec_of(shape: str, model: Path, dataset: Path, out_dir: Path) -> TrainSpec:
    rows = dataset if "data set" in shape else None
    return contract_spec(model, out_dir, dataset=rows, **SHAPES[shape])


@pytest.fixture(scope="module")
def contracted(
    shape: str, tiny_model: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    job = spec_of(shape, tiny_model, dataset, tmp_path_factory.mktemp("contracted"))
    assert train(job) == 0
    return Path(job.out_dir)


def test_the_result_is_a_plain_smaller_model(
    shape: str, contracted: Path, tiny_model: Path
) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(contracted / "model")
    config = model.config
    small = (config.num_hidden_layers, config.intermediate_size)
    assert small == ((2, 96) if "width" in shape else (1, 160))
    assert all(block.mlp.up_proj.out_features == small[1] for block in model.model.layers)
    outcome = result(contracted)
    base: Any = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert (outcome.params_before, outcome.params_after) == (
        base.num_parameters(),
        model.num_parameters(),
    )
    assert outcome.params_delta == outcome.params_after - outcome.params_before < 0
    assert outcome.function_preservation > 0
    assert outcome.parity is not None
    assert outcome.parity.greedy_match > 0.98
    assert len(outcome.samples) == 3


def test_it_says_on_which_rows_it_was_measured(shape: str, contracted: Path) -> None:
    outcome = result(contracted)
    if "data set" in shape:
        assert outcome.split == "validation (6 of 24 rows, seed 17)"
        assert 0 < outcome.tokens_processed < 24 * 64
        assert "dataset_sha256" in outcome.lineage
        assert all(sample.prompt.startswith("<|turn|>user") for sample in outcome.samples)
    else:
        assert outcome.split == "self-generated text (6 of 24 rows, seed 17)"
        assert outcome.tokens_processed == 24 * 64
        assert "dataset_sha256" not in outcome.lineage


def test_every_layer_is_a_step_and_much_is_warned_of(shape: str, contracted: Path) -> None:
    told = [(p.step, p.phase) for p in metrics(contracted)]
    log = (contracted / "log.txt").read_text()
    if "width" in shape:
        assert told == [(0, "eval"), (1, "contract"), (2, "contract"), (2, "eval")]
        assert "160 neurons in every MLP, 96 after contraction (40%)" in log
        assert "warning: without 40% of its MLPs' neurons" in log
        assert "step 2/2 · MLP 2 narrowed to 96 neurons · loss" in log
    else:
        assert told == [(0, "eval"), (1, "contract"), (1, "eval")]
        assert "warning: without 50% of its blocks" in log


def test_killed_and_begun_anew_it_comes_to_the_same_bytes(
    shape: str, contracted: Path, tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    job = spec_of(shape, tiny_model, dataset, tmp_path)
    process = start(job)
    time.sleep(random.Random(shape).uniform(0.1, 0.5))
    process.kill()
    process.join()
    assert train(job) == 0
    assert (tmp_path / WEIGHTS).read_bytes() == (contracted / WEIGHTS).read_bytes()
    ours, theirs = result(tmp_path), result(contracted)
    assert (ours.ppl_final, ours.samples) == (theirs.ppl_final, theirs.samples)


def test_little_of_a_width_is_removed_without_a_warning(
    tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    job = contract_spec(
        tiny_model, tmp_path, dataset=dataset, strategy="width", contraction_ratio=0.01
    )
    assert train(job) == 0
    log = (tmp_path / "log.txt").read_text()
    assert "160 neurons in every MLP, 128 after contraction (20%)" in log
    assert "warning" not in log


def test_a_data_set_that_cannot_be_read_fails_the_job_with_its_line(
    tiny_model: Path, tmp_path: Path
) -> None:
    bad = write_rows(tmp_path / "bad.jsonl", [{"text": "fine"}, {"text": 5}])
    ended = failed(contract_spec(tiny_model, tmp_path / "out", dataset=bad))
    assert ended.code == "invalid_dataset"
    assert ended.message is not None
    assert "line 2" in ended.message


def test_an_mlp_that_is_narrow_already_fails_with_what_to_do(
    contracted: Path, tmp_path: Path, dataset: Path
) -> None:
    narrow = {"strategy": "width", "contraction_ratio": 1.0, "calibration_rows": 2}
    assert train(contract_spec(contracted / "model", tmp_path / "one", **narrow)) == 0
    ended = failed(contract_spec(tmp_path / "one" / "model", tmp_path / "two", **narrow))
    assert ended.code == "model_load_failed"
    assert ended.message is not None
    assert "use the strategy depth" in ended.message
