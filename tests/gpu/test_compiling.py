"""Compiled blocks on the card: the gradients of the others, by whichever batch."""

from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from services.trainer.checkpoint import Progress
from services.trainer.compiling import compile_blocks
from services.trainer.finetune import load_model
from services.trainer.journal import Journal
from services.trainer.memory import Plan
from services.trainer.run import Run, prepare
from services.trainer.steps import Learner, compile_if_worth, try_gradient
from tests.gpu import CARD
from tests.support.jobs import NOON
from tests.support.training import spec


@pytest.fixture
def begun(
    tiny_model: Path, dataset: Path, tmp_path: Path, as_in_training: None
) -> tuple[Run, Learner]:
    """A run so long that it is worth it on any card."""
    job = spec(tiny_model, dataset, tmp_path / "out", steps=10**6, batch_size=4096, seq_len=512)
    job = replace(job, device=CARD.type, precision="bf16")
    run = prepare(job, job.finetune, Journal(tmp_path / "out", lambda: NOON, None))
    return run, load_model(run).learner


def gradients(run: Run, learner: Learner, count: int) -> tuple[float, dict[str, torch.Tensor]]:
    failed, total = try_gradient(run, learner, run.split.train[:count], 100, Plan(4096))
    assert failed is None
    found = {name: p.grad.clone() for name, p in learner.params.items() if p.grad is not None}
    learner.optimizer.zero_grad()
    return total.item(), found


def test_a_model_that_our_kernels_know_is_not_compiled_however_long_its_run(
    begun: tuple[Run, Learner],
) -> None:
    run, learner = begun
    same, progress = compile_if_worth(
        run, learner, run.split.train[:8], Progress(identity=run.identity)
    )
    assert same.compiled is None
    assert not progress.compiled


def test_compiled_blocks_have_the_gradients_of_the_others(begun: tuple[Run, Learner]) -> None:
    run, learner = begun
    faster = learner._replace(compiled=compile_blocks(learner.network))
    for count in (8, 3, 30):
        loss, expected = gradients(run, learner, count)
        same_loss, found = gradients(run, faster, count)
        again, twice = gradients(run, faster, count)
        assert again == same_loss == pytest.approx(loss, rel=1e-2)
        for name, gradient in expected.items():
            off = (found[name] - gradient).norm() / gradient.norm().clamp(min=1e-12)
            assert off < 5e-2, (name, float(off))
            assert torch.equal(found[name], twice[name]), "the same bits each time"
    torch.compiler.reset()
