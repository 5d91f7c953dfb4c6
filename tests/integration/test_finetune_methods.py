"""The ways to fine-tune, as real processes: what learns, what comes out, and how it goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from libs.contracts.training import TrainSpec
from services.trainer import checkpoint
from tests.support.training import (
    COLOURS,
    THINGS,
    chat,
    chats,
    contract_spec,
    curve,
    failed,
    grow_spec,
    metrics,
    result,
    spec,
    start_held,
    steps_done,
    train,
    wait_until,
    write_rows,
)

METHODS: dict[str, dict[str, Any]] = {
    "full": {"method": "full", "learning_rate": 2e-3},
    "dpo": {"method": "dpo", "learning_rate": 2e-3, "batch_size": 8},
    # Six rows for every weight: what they have in common is learnt first, then they by heart.
    "patience": {
        "method": "full",
        "learning_rate": 4e-3,
        "steps": 60,
        "eval_every": 2,
        "patience": 2,
    },
}
WEIGHTS = {"dpo": "adapter_model.safetensors"}


def preferences() -> list[dict[str, Any]]:
    return [
        {
            "prompt": [{"role": "user", "content": f"What is {thing} {number}?"}],
            "chosen": f"The {thing} with number {number} is {colour}.",
            "rejected": f"Go away with your {thing}.",
        }
        for number, colour in enumerate(COLOURS)
        for thing in THINGS
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    pairs = write_rows(folder / "preferences.jsonl", preferences())
    rows = write_rows(folder / "chats.jsonl", chats())
    few = write_rows(folder / "few.jsonl", chats()[:6])
    other = write_rows(folder / "other.jsonl", chats()[6:36:3])
    return {"dpo": pairs, "full": rows, "lora": rows, "patience": few, "held out": other}


def job_of(method: str, model: Path, data: dict[str, Path], out: Path, **changes: Any) -> TrainSpec:
    held_out = str(data["held out"]) if method == "patience" else None
    job = spec(model, data[method], out, **METHODS[method] | changes)
    return replace(job, validation_path=held_out)


Unbroken = Callable[[str], Path]


@pytest.fixture(scope="module")
def unbroken(
    tiny_model: Path, data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Unbroken:
    """The folder of a run of each method that nothing disturbed."""
    done: dict[str, Path] = {}

    def run(method: str) -> Path:
        if method not in done:
            done[method] = tmp_path_factory.mktemp(method)
            assert train(job_of(method, tiny_model, data, done[method])) == 0
        return done[method]

    return run


def weights(out: Path, method: str) -> dict[str, bytes]:
    tensors = load_file(out / "model" / WEIGHTS.get(method, "model.safetensors"))
    return {name: t.contiguous().view(torch.uint8).numpy().tobytes() for name, t in tensors.items()}


@pytest.mark.parametrize("method", METHODS)
def test_killed_and_resumed_every_method_gives_the_unbroken_run(
    method: str, unbroken: Unbroken, tiny_model: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    whole = unbroken(method)
    job = job_of(method, tiny_model, data, tmp_path)
    process = start_held(job, 8)
    kept = tmp_path / "checkpoints"
    wait_until(lambda: steps_done(tmp_path) >= 6 and bool(checkpoint.complete(kept)))
    process.kill()
    process.join()
    newest = checkpoint.complete(kept)[-1]
    assert train(replace(job, resume_from=str(newest))) == 0
    assert curve(tmp_path) == curve(whole)
    assert weights(tmp_path, method) == weights(whole, method)
    same = ("ppl_baseline", "ppl_final", "samples", "forgetting", "preference", "best_step")
    assert [getattr(result(tmp_path), f) for f in same] == [getattr(result(whole), f) for f in same]


def test_every_weight_learns_and_the_result_is_a_model_by_itself(
    unbroken: Unbroken, tiny_model: Path
) -> None:
    out = unbroken("full")
    before, after = (
        load_file(tiny_model / "model.safetensors"),
        load_file(out / "model/model.safetensors"),
    )
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    outcome = result(out)
    assert outcome.ppl_final < 0.3 * outcome.ppl_baseline
    assert outcome.params_delta == 0
    assert outcome.forgetting is not None
    assert outcome.forgetting.score > 0
    model = AutoModelForCausalLM.from_pretrained(out / "model")
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is lamp 0?"}],
        add_generation_prompt=True,
        return_tensors="pt",
    )["input_ids"]
    said = model.generate(asked, max_new_tokens=6, do_sample=False)[0, asked.shape[1] :]
    assert tokenizer.decode(said).startswith("The")


def test_preferences_raise_the_chosen_answers_above_the_rejected(unbroken: Unbroken) -> None:
    out = unbroken("dpo")
    outcome = result(out)
    losses = [point.loss for point in metrics(out) if point.phase == "eval"]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)  # -log sigmoid(0): nothing is preferred yet
    assert outcome.loss_final == losses[-1] < 0.3
    assert outcome.preference is not None
    assert outcome.preference.accuracy == 1.0
    assert outcome.preference.margin > 1
    assert "perplexity 1." not in (out / "log.txt").read_text()


def test_patience_keeps_the_best_weights_and_stops(
    unbroken: Unbroken, tiny_model: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    out = unbroken("patience")
    outcome = result(out)
    evaluations = {p.step: p.loss for p in metrics(out) if p.phase == "eval"}
    best = min(evaluations, key=lambda step: evaluations[step])
    assert outcome.stopped_early
    assert (outcome.best_step, outcome.loss_final) == (best, evaluations[best])
    assert outcome.steps == best + 2 * METHODS["patience"]["eval_every"] < 40
    assert steps_done(out) == outcome.steps
    # The same data order and schedule, ended by hand where it was best, gives the same weights.
    job = job_of("patience", tiny_model, data, tmp_path, patience=None, checkpoint_every=best)
    process = start_held(job, best + 2)
    wait_until(lambda: (tmp_path / f"checkpoints/step-{best}").exists())
    process.kill()
    process.join()
    kept = load_file(tmp_path / f"checkpoints/step-{best}" / checkpoint.TENSORS)
    shipped = load_file(out / "model" / "model.safetensors")
    assert all(torch.equal(t, kept[f"param.{n}"].to(t.dtype)) for n, t in shipped.items())


@pytest.fixture(scope="module")
def adapter(
    tiny_model: Path, data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run with few layers, scaled by rank, that is merged as well."""
    out = tmp_path_factory.mktemp("adapter")
    options = {"target_modules": ("q_proj", "v_proj"), "use_rslora": True, "merged_model": True}
    assert train(spec(tiny_model, data["lora"], out, steps=12, **options)) == 0
    return out


def test_only_the_layers_asked_for_get_an_adapter(adapter: Path) -> None:
    names = load_file(adapter / "model/adapter_model.safetensors")
    assert {name.split(".")[-3] for name in names} == {"q_proj", "v_proj"}
    config = (adapter / "model/adapter_config.json").read_text()
    assert '"use_rslora": true' in config


def test_the_merged_model_says_what_base_and_adapter_say(adapter: Path, tiny_model: Path) -> None:
    merged = AutoModelForCausalLM.from_pretrained(adapter / "merged", dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, adapter / "model")
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        said = [model(input_ids=ids).logits.log_softmax(-1) for model in (merged, tuned, plain)]
    apart = (said[0] - said[1]).abs().mean()
    assert apart < 0.02 * (said[0] - said[2]).abs().mean() + 0.01


def test_training_goes_on_from_an_adapter_and_from_a_checkpoint(
    adapter: Path, tiny_model: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "target_modules": ("q_proj", "v_proj"),
        "use_rslora": True,
        "steps": 4,
        "learning_rate": 1e-3,
    }
    continued = spec(tiny_model, data["lora"], tmp_path / "a", **options)
    assert train(replace(continued, adapter_path=str(adapter / "model"))) == 0
    outcome = result(tmp_path / "a")
    assert outcome.ppl_baseline == pytest.approx(result(adapter).ppl_final, rel=0.02)
    assert outcome.ppl_final < outcome.ppl_baseline
    assert "adapter/adapter_model.safetensors" in outcome.lineage

    (newest,) = checkpoint.complete(adapter / "checkpoints")[-1:]
    from_there = spec(tiny_model, data["lora"], tmp_path / "b", **options)
    assert train(replace(from_there, start_from=str(newest))) == 0
    at_step = {p.step: p.loss for p in metrics(adapter) if p.phase == "eval"}
    assert result(tmp_path / "b").ppl_baseline < 2.72 ** at_step[0]
    assert "checkpoint/state.safetensors" in result(tmp_path / "b").lineage


@pytest.mark.parametrize("what", ["adapter_path", "start_from"])
def test_what_does_not_fit_is_refused_with_what_to_ask_for(
    what: str, adapter: Path, tiny_model: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    folders = {
        "adapter_path": adapter / "model",
        "start_from": checkpoint.complete(adapter / "checkpoints")[-1],
    }
    job = spec(tiny_model, data["lora"], tmp_path, lora_rank=4)
    ended = failed(replace(job, **{what: str(folders[what])}))
    assert ended.code == "model_load_failed"
    assert ended.message is not None
    assert "lora_rank" in ended.message


def test_every_other_job_takes_an_adapter_into_the_weights_first(
    adapter: Path, tiny_model: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    rows, tuned = data["lora"], str(adapter / "model")
    learnt = pytest.approx(result(adapter).ppl_final, rel=0.02)
    full = spec(tiny_model, rows, tmp_path / "full", method="full", learning_rate=1e-4, steps=2)
    assert train(replace(full, adapter_path=tuned)) == 0
    assert result(tmp_path / "full").ppl_baseline == learnt

    grown = grow_spec(tiny_model, rows, tmp_path / "grown", turns=1, cycles=1, steps_per_cycle=2)
    assert train(replace(grown, adapter_path=tuned)) == 0
    assert result(tmp_path / "grown").ppl_baseline == learnt

    for name, path in (("tuned", tuned), ("plain", None)):
        cut = contract_spec(tiny_model, tmp_path / name)
        assert train(replace(cut, dataset_path=str(rows), adapter_path=path)) == 0
    before = [result(tmp_path / name).ppl_baseline for name in ("tuned", "plain")]
    assert before[0] < 0.9 * before[1]  # it knows these rows


def test_a_file_can_be_held_out(tiny_model: Path, data: dict[str, Path], tmp_path: Path) -> None:
    held_out = write_rows(
        tmp_path / "held-out.jsonl", [chat("Is it red?", "It is red."), *chats()[:3]]
    )
    job: TrainSpec = spec(tiny_model, data["lora"], tmp_path / "out", steps=2)
    assert train(replace(job, validation_path=str(held_out))) == 0
    outcome = result(tmp_path / "out")
    assert outcome.split == "validation (file of 4 rows)"
    log = (tmp_path / "out/log.txt").read_text()
    assert "data: 69 rows to train on" in log  # the three that are held out are not among them
    assert "validation_sha256" in outcome.lineage


@pytest.mark.parametrize(("method", "rows"), [("dpo", "full"), ("lora", "dpo")])
def test_rows_that_the_method_does_not_learn_from_are_refused(
    method: str, rows: str, tiny_model: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    ended = failed(spec(tiny_model, data[rows], tmp_path, method=method))
    assert ended.code == "invalid_dataset"
    assert ended.message is not None
    assert "dpo" in ended.message
