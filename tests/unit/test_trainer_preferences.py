"""Preferences: pairs from lines, and the loss against its formula, gradients included."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from services.trainer.loading import load_base, load_tokenizer
from services.trainer.preferences import (
    Pair,
    PairObjective,
    load_pairs,
    log_probabilities,
    reference_of,
    rows_of_steps,
)
from services.trainer.rows import DatasetError
from tests.support.training import write_rows

CPU = torch.device("cpu")
FP32 = torch.float32

ROWS: list[dict[str, Any]] = [
    {"prompt": "Is it", "chosen": " so, my friend.", "rejected": " not."},
    {
        "prompt": [
            {"role": "user", "content": "Red?"},
            {"role": "assistant", "content": "Red."},
            {"role": "user", "content": "Blue?"},
        ],
        "chosen": "Blue too.",
        "rejected": "No.",
    },
]


@pytest.fixture(scope="module")
def pairs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    path = write_rows(tmp_path_factory.mktemp("pairs") / "rows.jsonl", ROWS)
    return load_pairs(path, load_tokenizer(tiny_model), 200).rows


def test_only_the_last_answer_is_compared(pairs: list[Pair], tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)

    def learnt(pair: Pair) -> tuple[str, str]:
        both = (pair.chosen, pair.rejected)
        first, second = (tokenizer.decode(d.tokens[d.labels].tolist()) for d in both)
        return first, second

    assert learnt(pairs[0]) == (" so, my friend.<|end|>", " not.<|end|>")
    assert learnt(pairs[1]) == ("Blue too.<|end|>\n", "No.<|end|>\n")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "line 2: chosen and rejected are"),
        ({"prompt": "a", "chosen": "b", "rejected": " "}, "line 2: an answer has no token"),
        ({"prompt": "a", "chosen": "b"}, "line 2"),
    ],
)
def test_a_pair_that_teaches_nothing_is_named(
    row: dict[str, Any], reason: str, tiny_model: Path, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [ROWS[0], row])
    with pytest.raises(DatasetError, match=reason):
        load_pairs(path, load_tokenizer(tiny_model), 200)


def test_an_answer_is_cut_and_a_pair_without_one_is_lost(tiny_model: Path, tmp_path: Path) -> None:
    long = {"prompt": "word " * 40, "chosen": "a", "rejected": "b"}
    path = write_rows(tmp_path / "rows.jsonl", [ROWS[0], long])
    whole = load_pairs(path, load_tokenizer(tiny_model), 1000)
    cut = load_pairs(path, load_tokenizer(tiny_model), 16)
    assert (whole.rows_truncated, cut.rows_truncated) == (0, 1)
    assert cut.tokens_truncated == whole.rows[1].size
    assert [pair.line for pair in cut.rows] == [1]


def test_the_loss_and_its_gradient_are_those_of_the_formula(
    pairs: list[Pair], tiny_model: Path
) -> None:
    """With stock transformers, a document at a time, and autograd on the written formula."""
    packed: Any = load_base(tiny_model, CPU, FP32)
    reference = reference_of(packed, pairs, 4096, CPU, FP32)
    plain: Any = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=FP32)
    generator = torch.Generator().manual_seed(3)
    for mine, theirs in zip(packed.parameters(), plain.parameters(), strict=True):
        step = 0.02 * torch.randn(mine.shape, generator=generator)
        mine.data += step
        theirs.data += step

    def answer(document: Any) -> torch.Tensor:
        ids = torch.from_numpy(document.tokens.astype(np.int64))[None]
        said = plain(input_ids=ids).logits[0, :-1].log_softmax(-1)
        token = said.gather(1, ids[0, 1:, None])[:, 0]
        return token[torch.from_numpy(document.labels[1:])].sum()

    beta = 0.3
    expected = torch.zeros(())
    for pair in pairs:
        before = reference[pair.fingerprint]
        margin = (answer(pair.chosen) - before[0]) - (answer(pair.rejected) - before[1])
        expected = expected - torch.log(torch.sigmoid(beta * margin))
    (theirs,) = torch.autograd.grad(expected, plain.model.layers[0].mlp.down_proj.weight)

    packed.requires_grad_(True)
    loss = PairObjective(beta, reference).summed(packed, pairs, CPU, FP32)
    (mine,) = torch.autograd.grad(loss, packed.model.layers[0].mlp.down_proj.weight)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-5)


def test_a_model_that_has_learnt_nothing_has_a_loss_of_log_two(
    pairs: list[Pair], tiny_model: Path
) -> None:
    model = load_base(tiny_model, CPU, FP32)
    objective = PairObjective(0.1, reference_of(model, pairs, 4096, CPU, FP32))
    loss = objective.summed(model, pairs, CPU, FP32) / objective.weight(pairs)
    assert loss.item() == pytest.approx(math.log(2), rel=1e-5)


def test_the_reference_does_not_depend_on_what_else_is_read(
    pairs: list[Pair], tiny_model: Path
) -> None:
    model = load_base(tiny_model, CPU, FP32)
    together = log_probabilities(model, pairs, CPU, FP32)
    alone = torch.cat([log_probabilities(model, [pair], CPU, FP32) for pair in pairs])
    assert torch.allclose(together, alone, atol=1e-3)


def test_only_rows_that_will_be_seen_are_read_beforehand(pairs: list[Pair]) -> None:
    many = [pair._replace(line=line) for line in range(4) for pair in pairs]
    assert len(rows_of_steps(many, budget=pairs[0].size, seed=1, steps=1)) == 1
    assert len(rows_of_steps(many, budget=10_000, seed=1, steps=50)) == 2
