"""torch.compile for jobs that are long enough to repay it, one decoder block at a time.

All blocks share their compiled code: the whole model at once takes as many times longer as it has
blocks. Shapes are dynamic from the start, so that no batch of another size begins anew. Attention
over packed rows stays as it is (its tiles differ with every batch), and so does whatever is not a
training step: what evaluates, writes or exports would each be compiled for itself. On a card, a
model that our own kernels know is not compiled at all (`steps.compile_if_worth`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from libs.contracts.training import FinetuneParams, TrainParams
from services.trainer.attention import attend_packed

# Measured on two cores: some 50 s with a cold cache, and a step takes a tenth less time after it.
# So twenty minutes of steps repay it twice.
WORTH_SECONDS = 1200.0

# What a step achieves before it is compiled, in FLOP/s (CPU: of each thread). Fixed numbers and not
# this run's clock: a run that goes on from a checkpoint must choose as the one before it did.
NOMINAL_RATE = {"cpu": 50e9, "cuda": 200e12}
FLOPS = 4  # a parameter and token: forward, and the gradient of what comes in
FLOPS_LEARNING = 6  # where every weight has a gradient, too


class Compiled(NamedTuple):
    """Each block of a network, and its compiled forward pass."""

    forwards: list[tuple[Any, Any]]


def is_worth_it(
    params: FinetuneParams | TrainParams, parameters: int, device: str, threads: int
) -> bool:
    """Whether the planned work is long enough, by the job's own numbers alone."""
    full = isinstance(params, FinetuneParams) and params.method == "full"
    work = params.planned_tokens * parameters * (FLOPS_LEARNING if full else FLOPS)
    rate = NOMINAL_RATE[device] * (threads if device == "cpu" else 1)
    return work / rate >= WORTH_SECONDS


def compile_blocks(network: Any, backend: str | Callable[..., Any] = "inductor") -> Compiled:
    """Nothing is compiled before it is first called."""
    blocks: list[Any] = [
        block for block in network.modules() if isinstance(block, GradientCheckpointingLayer)
    ]
    # Here and not where it is defined: that alone imports the compiler, which takes a second.
    apart: Any = torch.compiler.disable(attend_packed)  # type: ignore[no-untyped-call]
    for block in blocks:
        for module in block.modules():
            if hasattr(module, "q_proj"):
                module.attend = apart
    return Compiled(
        [(block, torch.compile(block.forward, dynamic=True, backend=backend)) for block in blocks]
    )


@contextmanager
def compiled(wanted: Compiled | None) -> Iterator[None]:
    """Within it, the blocks go forward as they were compiled."""
    forwards = wanted.forwards if wanted else []
    for block, forward in forwards:
        block.forward = forward
    try:
        yield
    finally:
        for block, _ in forwards:
            del block.forward  # the class's own is behind it
