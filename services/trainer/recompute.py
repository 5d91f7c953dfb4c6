"""Activation checkpointing: a block keeps its input alone, and is computed again going backward."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

# Nothing in a block is random: there is no generator to set back.
AGAIN = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)


@contextmanager
def recomputing(network: Any, wanted: bool) -> Iterator[None]:
    """Within it, if ``wanted``, every block of ``network`` is computed twice.

    transformers does that for a block in training mode; what is within the block stays as it is,
    so that nothing is dropped out.
    """
    blocks: list[Any] = []
    if wanted:
        blocks = [b for b in network.modules() if isinstance(b, GradientCheckpointingLayer)]
    for block in blocks:
        block.gradient_checkpointing, block.training = True, True
        block._gradient_checkpointing_func = AGAIN
    try:
        yield
    finally:
        for block in blocks:
            block.gradient_checkpointing = block.training = False
