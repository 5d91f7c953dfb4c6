"""A long job compiles, a short one does not, and where nothing can be compiled training goes on."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch._inductor import config as inductor

from libs.contracts.training import FinetuneParams
from services.trainer.checkpoint import Progress
from services.trainer.compiling import compile_blocks, compiled, is_worth_it
from services.trainer.finetune import load_model
from services.trainer.journal import LOG, Journal
from services.trainer.memory import Plan
from services.trainer.run import Run, prepare
from services.trainer.steps import Learner, compile_if_worth, try_gradient
from tests.support.jobs import NOON
from tests.support.training import chats, spec, write_rows

MILLION = 10**6


@pytest.fixture
def begun(tiny_model: Path, tmp_path: Path) -> tuple[Run, Learner]:
    """A run of a million steps, in fp32."""
    dataset = write_rows(tmp_path / "chats.jsonl", chats())
    job = spec(tiny_model, dataset, tmp_path / "out", steps=MILLION)
    run = prepare(job, job.finetune, Journal(tmp_path / "out", lambda: NOON, None))
    run = run._replace(dtype=torch.float32)
    return run, load_model(run).learner


def gradients(run: Run, learner: Learner) -> tuple[float, dict[str, torch.Tensor]]:
    failed, total = try_gradient(run, learner, run.split.train[:8], 100, Plan(4096))
    assert failed is None
    found = {name: p.grad.clone() for name, p in learner.params.items() if p.grad is not None}
    learner.optimizer.zero_grad()
    return total.item(), found


def params(steps: int, **others: Any) -> FinetuneParams:
    return FinetuneParams(steps=steps, learning_rate=1e-3, seq_len=256, batch_size=8, **others)


def test_the_rule_goes_by_the_jobs_own_numbers() -> None:
    size = 8 * MILLION  # tokens of 64 MFLOP go at 3,100 a second on two threads
    assert not is_worth_it(params(100), size, "cpu", 2), "a minute"
    assert is_worth_it(params(2000), size, "cpu", 2), "twenty-two minutes"
    assert not is_worth_it(params(2000), size, "cpu", 8), "five minutes with more threads"
    assert not is_worth_it(params(1400), size, "cpu", 2)
    assert is_worth_it(params(1400, method="full"), size, "cpu", 2), "half as much work again"
    assert not is_worth_it(params(2000), size, "cuda", 2), "a second"


def test_compiled_blocks_have_the_gradients_of_the_others_and_are_gone_afterwards(
    begun: tuple[Run, Learner],
) -> None:
    run, learner = begun
    loss, expected = gradients(run, learner)
    called: list[bool] = []
    faster = learner._replace(compiled=compile_blocks(learner.network, backend="aot_eager"))
    learner.network.model.layers[0].mlp.register_forward_pre_hook(
        lambda *_: called.append(torch.compiler.is_compiling())
    )
    same_loss, found = gradients(run, faster)
    assert called == [True], "the compiler has seen a block"
    assert same_loss == pytest.approx(loss, rel=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5)
    torch.compiler.reset()
    layer = learner.network.model.layers[0]
    assert "forward" not in vars(layer)
    with compiled(faster.compiled):
        assert "forward" in vars(layer)


def test_batches_that_are_packed_otherwise_do_not_compile_anew(begun: tuple[Run, Learner]) -> None:
    """At most twice: the first block's input has no gradient, and the others' has."""
    run, learner = begun
    frames: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Any:
        frames.append(graph)
        return graph.forward

    faster = learner._replace(compiled=compile_blocks(learner.network, backend=backend))
    row = run.split.train[0]
    long = row._replace(
        tokens=np.tile(row.tokens, 150 // row.size), labels=np.tile(row.labels, 150 // row.size)
    )
    assert try_gradient(run, faster, run.split.train[:8], 100, Plan(4096))[0] is None
    known = len(frames)
    for rows in ([long], [*run.split.train[:5], long], run.split.train[:20]):
        assert try_gradient(run, faster, rows, 100, Plan(4096))[0] is None
    assert len(frames) == known > 0
    torch.compiler.reset()


def test_without_a_compiler_training_goes_on_and_says_so(begun: tuple[Run, Learner]) -> None:
    run, learner = begun
    _, expected = gradients(run, learner)
    with inductor.patch({"cpp.cxx": ("/no/such/compiler",), "force_disable_caches": True}):
        same, progress = compile_if_worth(
            run, learner, run.split.train[:8], Progress(identity=run.identity)
        )
    torch.compiler.reset()
    assert same.compiled is None
    assert not progress.compiled
    log = (Path(run.spec.out_dir) / LOG).read_text()
    assert "not compiled, training goes on without" in log
    _, found = gradients(run, same)
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


def test_a_run_that_goes_on_does_as_it_did_before(begun: tuple[Run, Learner]) -> None:
    run, learner = begun
    before = Progress(identity=run.identity, step=7, micro_tokens=4096, compiled=False)
    same, progress = compile_if_worth(run, learner, run.split.train[:8], before)
    assert same.compiled is None
    assert progress == before
    short = run._replace(spec=msgspec.structs.replace(run.spec, params=params(1)), steps=1)
    same, progress = compile_if_worth(
        short, learner, run.split.train[:8], Progress(identity=run.identity)
    )
    assert same.compiled is None
