"""Killed and resumed on the card, a run is the unbroken one, bit for bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file

from libs.contracts.training import TrainSpec
from services.trainer import checkpoint
from tests.gpu import CARD
from tests.gpu.test_jobs import preferences
from tests.support.training import curve, grow_spec, spec, start, train, wait_until

LONG: dict[str, Any] = {"steps": 160, "eval_every": 50, "checkpoint_every": 10}


def job(kind: str, model: Path, dataset: Path, out: Path) -> TrainSpec:
    match kind:
        case "grow":
            made = grow_spec(model, dataset, out, steps_per_cycle=40, checkpoint_every=10)
        case "dpo":
            pairs = preferences(dataset.with_name("pairs.jsonl"))
            made = spec(model, pairs, out, method="dpo", **(LONG | {"learning_rate": 1e-3}))
        case _:
            made = spec(model, dataset, out, method=kind, **(LONG | {"learning_rate": 1e-3}))
    return replace(made, device=CARD.type, precision="fp32" if kind == "dpo" else "bf16")


def weights(out: Path) -> dict[str, bytes]:
    (file,) = (out / "model").glob("*.safetensors")
    return {n: t.view(torch.uint8).numpy().tobytes() for n, t in load_file(file).items()}


@pytest.mark.parametrize("kind", ["lora", "full", "dpo", "grow"])
def test_a_killed_run_goes_on_to_the_same_end(
    kind: str, tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    unbroken = job(kind, tiny_model, dataset, tmp_path / "unbroken")
    broken = job(kind, tiny_model, dataset, tmp_path / "broken")
    assert train(unbroken) == 0, (tmp_path / "unbroken" / "log.txt").read_text()
    process = start(broken)
    kept = tmp_path / "broken" / "checkpoints"
    wait_until(lambda: bool(checkpoint.complete(kept)))
    process.kill()
    process.join()
    assert not (tmp_path / "broken" / "status.json").exists(), "it was killed before its end"
    newest = checkpoint.complete(kept)[-1]
    assert train(replace(broken, resume_from=str(newest))) == 0
    assert curve(tmp_path / "broken") == curve(tmp_path / "unbroken")
    assert weights(tmp_path / "broken") == weights(tmp_path / "unbroken")
