"""Memory that does not suffice: foreseen, or met by less at once. The failures are real ones."""

import json
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from services.trainer.checkpoint import Progress
from services.trainer.finetune import load_model
from services.trainer.journal import LOG, Journal
from services.trainer.memory import Plan, TooLittleMemory
from services.trainer.packing import Position, training_steps
from services.trainer.run import prepare
from services.trainer.steps import take_step
from tests.support.jobs import NOON
from tests.support.training import chats, failed, spec, write_rows

MORE_THAN_ANY_MACHINE = 1 << 60  # bytes: asking for it fails as any allocation fails


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "chats.jsonl", chats())


class Training:
    """A run in this process whose first block finds no memory for more than ``most`` tokens, nor in
    the passes (from 1) that ``failing`` names."""

    def __init__(self, model: Path, dataset: Path, out: Path, **params: Any) -> None:
        job = spec(model, dataset, out, **params)
        self.out = out
        self.journal = Journal(out, lambda: NOON, None)
        self.run = prepare(job, job.finetune, self.journal)._replace(dtype=torch.float32)
        self.learner = load_model(self.run).learner
        self.most = MORE_THAN_ANY_MACHINE
        self.failing: set[int] = set()
        self.seen: list[int] = []
        self.learner.network.model.layers[0].mlp.register_forward_pre_hook(self._allocate)

    def _allocate(self, module: Any, inputs: tuple[Any, ...]) -> None:
        tokens = inputs[0].shape[1]
        self.seen.append(tokens)
        if tokens > self.most or len(self.seen) in self.failing:
            torch.empty(MORE_THAN_ANY_MACHINE, dtype=torch.uint8)

    def steps(self) -> Iterator[Progress]:
        p = self.run.spec.finetune
        stream = training_steps(self.run.split.train, p.batch_size * p.seq_len, p.seed, Position())
        progress = Progress(identity=self.run.identity)
        while True:
            progress = take_step(self.run, self.learner, stream, progress)
            yield progress


def weights(training: Training) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in training.learner.params.items()}


def test_a_step_that_finds_no_memory_is_taken_again_with_half_at_once(
    tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    roomy = Training(tiny_model, dataset, tmp_path / "roomy", batch_size=8)
    expected = list(islice(roomy.steps(), 3))
    narrow = Training(tiny_model, dataset, tmp_path / "narrow", batch_size=8)
    narrow.most = 256
    taken = list(islice(narrow.steps(), 3))
    assert taken[0].micro_tokens == roomy.run.plan.micro_tokens // 2 == 256
    assert [p.micro_tokens for p in taken] == [256] * 3, "what did not fit once is not tried again"
    assert sum(tokens > 256 for tokens in narrow.seen) == 1
    for mine, theirs in zip(taken, expected, strict=True):
        assert mine.train_loss == pytest.approx(theirs.train_loss, rel=1e-5)
    for name, weight in weights(narrow).items():
        torch.testing.assert_close(weight, weights(roomy)[name], rtol=1e-2, atol=1e-4)
    assert (
        "memory ran out at 512 tokens at once; goes on with 256" in (narrow.out / LOG).read_text()
    )


def test_what_a_step_had_added_up_before_it_found_no_memory_is_not_added_twice(
    tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    roomy = Training(tiny_model, dataset, tmp_path / "roomy", batch_size=8)
    expected = next(roomy.steps())
    narrow = Training(tiny_model, dataset, tmp_path / "narrow", batch_size=8)
    narrow.run = narrow.run._replace(plan=Plan(128))
    narrow.failing = {3}
    taken = next(narrow.steps())
    assert taken.micro_tokens == 64
    assert taken.train_loss == pytest.approx(expected.train_loss, rel=1e-5)
    # The first moment: what Adam makes of a larger gradient is the same step.
    for mine, theirs in zip(moments(narrow), moments(roomy), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)


def moments(training: Training) -> list[torch.Tensor]:
    optimizer = training.learner.optimizer
    return [optimizer.state[p]["exp_avg"] for p in training.learner.params.values()]


def test_a_plan_in_progress_holds_in_a_run_that_goes_on(
    tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    training = Training(tiny_model, dataset, tmp_path / "out", batch_size=8)
    begun = Progress(identity=training.run.identity, micro_tokens=128, recompute=True)
    p = training.run.spec.finetune
    stream = training_steps(training.run.split.train, 512, p.seed, Position())
    progress = take_step(training.run, training.learner, stream, begun)
    assert (progress.micro_tokens, progress.recompute) == (128, True)
    assert max(training.seen) <= 128
    assert len(training.seen) >= 2 * 4, "four micro-batches, each block computed twice"


def test_where_not_even_one_row_fits_the_run_fails_and_says_what_to_change(
    tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    training = Training(tiny_model, dataset, tmp_path / "out", batch_size=8)
    training.most = 8
    before = weights(training)
    with pytest.raises(TooLittleMemory, match="lower seq_len"):
        next(training.steps())
    assert training.run.plan == Plan(512)
    assert "computes every block twice" in (training.out / LOG).read_text()
    assert all(torch.equal(before[name], p) for name, p in weights(training).items())


def test_a_model_that_cannot_fit_fails_before_it_is_loaded_with_the_numbers(
    tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    huge = tmp_path / "huge"
    shutil.copytree(tiny_model, huge)
    config = json.loads((huge / "config.json").read_text())
    config |= {"hidden_size": 65536, "intermediate_size": 262144, "num_hidden_layers": 200}
    (huge / "config.json").write_text(json.dumps(config))
    ended = failed(spec(huge, dataset, tmp_path / "out"))
    assert ended.code == "out_of_memory"
    assert ended.message is not None
    assert "choose a smaller base model" in ended.message
    assert "MB are free" in ended.message
