"""A card that is really full: a step is taken again with less at once."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace

from services.trainer import memory
from services.trainer.checkpoint import Progress
from services.trainer.finetune import load_model
from services.trainer.journal import LOG, Journal
from services.trainer.kernels import LOSS_ROWS
from services.trainer.memory import Plan, TooLittleMemory
from services.trainer.packing import Position, training_steps
from services.trainer.run import prepare
from services.trainer.steps import take_step
from services.trainer.tiny_llama import Recipe, build
from tests.gpu import CARD
from tests.support.jobs import NOON
from tests.support.training import chats, spec, write_rows

GIGABYTE = 10**9
LARGER = Recipe(vocabulary=420, hidden=512, layers=8, heads=8, key_heads=4, documents=200, steps=2)
MANY: dict[str, Any] = {"seq_len": 256, "batch_size": 64, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def larger_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 million parameters: 16,384 tokens at once take some gigabytes."""
    build(target := tmp_path_factory.mktemp("models") / "larger", LARGER)
    return target


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl", chats() * 12)


class Training:
    """A run in this process, planned for a card with room."""

    def __init__(self, model: Path, dataset: Path, out: Path, **params: Any) -> None:
        job = replace(spec(model, dataset, out, **(MANY | params)), device=CARD.type)
        self.log = out / LOG
        self.run = prepare(job, job.finetune, Journal(out, lambda: NOON, None))
        self.learner = load_model(self.run).learner

    def steps(self) -> Iterator[Progress]:
        p = self.run.spec.finetune
        stream = training_steps(self.run.split.train, p.batch_size * p.seq_len, p.seed, Position())
        progress = Progress(identity=self.run.identity)
        while True:
            progress = take_step(self.run, self.learner, stream, progress)
            yield progress


def fill_all_but(left: int) -> list[torch.Tensor]:
    """Takes the card's memory by plain allocations."""
    torch.cuda.empty_cache()
    taken = []
    while (free := memory.available(CARD)) > left + GIGABYTE // 100:
        taken.append(torch.empty(min(free - left, 8 * GIGABYTE), dtype=torch.uint8, device=CARD))
    return taken


def test_a_step_that_does_not_fit_is_taken_with_less_at_once(
    larger_model: Path, rows: Path, tmp_path: Path, as_in_training: None
) -> None:
    roomy = Training(larger_model, rows, tmp_path / "roomy")
    expected = [p.train_loss for p in islice(roomy.steps(), 3)]
    narrow = Training(larger_model, rows, tmp_path / "narrow")
    assert narrow.run.plan == Plan(16384)
    taken = fill_all_but(GIGABYTE)
    steps = list(islice(narrow.steps(), 3))
    del taken
    assert steps[0].micro_tokens < 16384
    assert len({step.micro_tokens for step in steps}) == 1, "what did not fit is not tried again"
    assert [s.train_loss for s in steps] == pytest.approx(expected, rel=1e-2)
    assert "memory ran out at 16384 tokens at once; goes on with 8192" in narrow.log.read_text()


def test_where_nothing_fits_it_says_what_to_change(
    larger_model: Path, rows: Path, tmp_path: Path, as_in_training: None
) -> None:
    narrow = Training(larger_model, rows, tmp_path / "narrow")
    taken = fill_all_but(GIGABYTE // 100)
    with pytest.raises(TooLittleMemory, match="lower seq_len"):
        next(narrow.steps())
    del taken


def test_a_card_that_is_full_beforehand_is_foreseen(
    larger_model: Path, rows: Path, tmp_path: Path, as_in_training: None
) -> None:
    taken = fill_all_but(2 * GIGABYTE)
    narrow = Training(larger_model, rows, tmp_path / "narrow")
    assert narrow.run.plan.micro_tokens < 16384
    next(narrow.steps())
    assert "memory ran out" not in narrow.log.read_text()
    del taken


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("recompute", [False, True])
def test_what_is_foreseen_is_near_what_is_taken(
    method: str,
    recompute: bool,
    larger_model: Path,
    rows: Path,
    tmp_path: Path,
    as_in_training: None,
) -> None:
    shape = memory.read_shape(larger_model / "config.json")
    assert shape is not None
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    training = Training(larger_model, rows, tmp_path / "out", method=method)
    plan = Plan(16384, recompute)
    training.run = training.run._replace(plan=plan)
    list(islice(training.steps(), 2))
    held = torch.cuda.max_memory_allocated() - before
    work = replace(
        memory.work_of(shape, training.run.spec.finetune), loss_rows=LOSS_ROWS["cuda"], on_card=True
    )
    foreseen = memory.estimate(shape, work, plan, 256, 2).total
    print(
        f"{method} recompute={recompute}: foreseen {foreseen / 1e9:.2f} GB, held {held / 1e9:.2f}"
    )
    assert 0.7 * foreseen < held < 1.1 * foreseen
