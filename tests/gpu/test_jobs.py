"""Every type of job on the card: the numbers of the CPU, and files that anyone can load."""

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from msgspec.structs import replace

from libs.contracts.training import TrainSpec
from services.trainer import export
from services.trainer.documents import load_documents, prepare_tokenizer
from services.trainer.loading import load_tokenizer
from tests.gpu import CARD
from tests.support.training import (
    COLOURS,
    THINGS,
    contract_spec,
    curve,
    grow_spec,
    metrics,
    result,
    spec,
    train,
    write_rows,
)

CPU = torch.device("cpu")
SHORT: dict[str, Any] = {"steps": 12, "eval_every": 4, "learning_rate": 2e-3}

# Sums in another order, which a dozen steps make larger; in bf16 every product is rounded, too.
LOSS_OFF = {"fp32": 2e-3, "bf16": 4e-2}
MAX_KL = {"fp32": 1e-4, "bf16": 3e-2}


def preferences(path: Path) -> Path:
    rows = [
        {
            "prompt": [{"role": "user", "content": f"What is {thing} {number}?"}],
            "chosen": f"The {thing} with number {number} is {colour}.",
            "rejected": f"Go away with your {thing}.",
        }
        for number, colour in enumerate(COLOURS)
        for thing in THINGS
    ]
    return write_rows(path, rows)


def job(kind: str, model: Path, dataset: Path, out: Path) -> TrainSpec:
    match kind.split():
        case ["dpo"]:
            pairs = preferences(out.with_suffix(".jsonl"))
            return spec(model, pairs, out, method="dpo", **(SHORT | {"batch_size": 8}))
        case ["lora"]:
            return spec(model, dataset, out, merged_model=True, **SHORT)
        case ["full"]:
            return spec(model, dataset, out, method="full", **SHORT)
        case ["grow", strategy, trainable]:
            ways: dict[str, Any] = {"strategy": strategy, "trainable": trainable}
            return grow_spec(model, dataset, out, learning_rate=2e-3, **ways)
        case ["contract", strategy]:
            return contract_spec(model, out, dataset=dataset, strategy=strategy)
    raise ValueError(kind)


KINDS = (
    "lora",
    "full",
    "dpo",
    "grow depth new_blocks",
    "grow depth all",
    "grow width new_blocks",
    "grow width all",
    "contract depth",
    "contract width",
)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_job_on_the_card_is_that_on_the_cpu(
    kind: str,
    precision: Literal["fp32", "bf16"],
    tiny_model: Path,
    dataset: Path,
    tmp_path: Path,
) -> None:
    theirs = replace(
        job(kind, tiny_model, dataset, tmp_path / "cpu"), device="cpu", precision="fp32"
    )
    ours = replace(
        job(kind, tiny_model, dataset, tmp_path / "card"), device=CARD.type, precision=precision
    )
    assert train(theirs) == 0
    assert train(ours) == 0, (tmp_path / "card" / "log.txt").read_text()
    mine, expected = curve(tmp_path / "card"), curve(tmp_path / "cpu")
    assert [point[:2] for point in mine] == [point[:2] for point in expected]
    for (step, phase, loss, lr, _), (*_, wanted, wanted_lr, _) in zip(mine, expected, strict=True):
        assert loss == pytest.approx(wanted, rel=LOSS_OFF[precision]), (step, phase)
        assert lr == wanted_lr
    if CARD.type == "cuda":
        assert torch.cuda.get_device_name() == result(tmp_path / "card").device
        assert all(point.vram_gb > 0 for point in metrics(tmp_path / "card"))
    said = [logits(kind, tiny_model, dataset, tmp_path / where) for where in ("cpu", "card")]
    assert export.compare(*said).mean_kl < MAX_KL[precision]


def logits(kind: str, base: Path, dataset: Path, out: Path) -> torch.Tensor:
    """What the job's files say, to anyone who loads them."""
    adapter = kind in ("lora", "dpo")
    folder = out / "model"
    model = export.reload(
        base if adapter else folder, folder if adapter else None, CPU, torch.float32
    )
    tokenizer = load_tokenizer(folder)
    prepare_tokenizer(tokenizer)
    return export.plain_logits(model, load_documents(dataset, tokenizer, 64).rows[:8], CPU)


def test_a_model_contracts_by_texts_that_it_writes_on_the_card(
    tiny_model: Path, tmp_path: Path
) -> None:
    ours = replace(contract_spec(tiny_model, tmp_path), device=CARD.type)
    assert train(ours) == 0, (tmp_path / "log.txt").read_text()
    assert result(tmp_path).split.startswith("self-generated text")
