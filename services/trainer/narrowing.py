"""A model that gets narrower: its MLPs lose the neurons that say least, and what is left takes over
what they said.

Neurons are scored by their activation (Muralidharan et al., "Compact Language Models", 2407.14679).
What is left is refitted by ridge regression, so that the MLP says what it said as nearly as it can.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from services.trainer.batches import MICRO_TOKENS, logits, make_batch
from services.trainer.documents import Document
from services.trainer.loading import ModelError
from services.trainer.packing import micro_batches
from services.trainer.width import INPUTS, biases_of, mlp_of, multiple_for

# Of the mean square of a kept neuron, added to each: neurons that say nearly the same make the
# equations nearly singular, and some thousand tokens do not tell a large model's neurons apart.
# Measured on a toy with half of the neurons (perplexity 2.20 with all of them): 2.36 from 1e-3 to
# 1e-1; where the ridge pulls to zero and not to the weights that there were, 2.36, 2.37 and 2.50.
RIDGE = 1e-2


class Activity(NamedTuple):
    """What the neurons of an MLP did over some texts: ``score`` [neurons], ``gram`` [neurons,
    neurons], the sum over tokens of h hᵀ; both fp64."""

    score: Tensor
    gram: Tensor


def narrower(width: int, ratio: float) -> int:
    """The width without the share ``ratio`` of the neurons, as near as multiples allow: at least
    one of them stays, at least one goes. Raises `ModelError` where that can't be."""
    step = multiple_for(width)
    most = (width - 1) // step * step
    if most == 0:
        raise ModelError(
            f"the model's MLPs have only {width} neurons, and {step} are the fewest to keep; use "
            "the strategy depth, or choose a wider model"
        )
    return max(step, min(most, math.floor(width * (1 - ratio) / step + 0.5) * step))


@torch.no_grad()
def activity(
    model: Any,
    mlp: Any,
    texts: Sequence[Document],
    device: torch.device,
    dtype: torch.dtype,
    check: Callable[[], None] = lambda: None,
) -> Activity:
    """What the neurons of ``mlp``, one of the model's, do over ``texts``: a neuron's score is the
    root of the sum over texts of its mean |h|, squared. ``check`` is called now and then."""
    width = mlp.down_proj.in_features
    squares = torch.zeros(width, dtype=torch.float64, device=device)
    gram = torch.zeros(width, width, dtype=torch.float64, device=device)
    lengths: list[int] = []

    def hook(_: Any, args: tuple[Tensor, ...]) -> None:
        h = args[0].reshape(-1, width)[: sum(lengths)].float()
        means = torch.stack([text.mean(0) for text in torch.split(h.abs(), lengths)])
        squares.add_(means.double().square().sum(0))
        gram.add_(h.T @ h)

    handle = mlp.down_proj.register_forward_pre_hook(hook)
    for part in micro_batches(list(texts), MICRO_TOKENS[device.type]):
        check()
        lengths[:] = [document.size for document in part]
        logits(model, make_batch(part, device, dtype))
    handle.remove()
    return Activity(squares.sqrt(), gram)


def strongest(score: Tensor, count: int) -> Tensor:
    """The ``count`` neurons of the highest scores, in their order."""
    return score.argsort(descending=True, stable=True)[:count].sort().values


def refit(weight: Tensor, gram: Tensor, kept: Tensor) -> Tensor:
    """down_proj's weight [hidden, neurons] for the neurons ``kept`` alone, fp64: what comes nearest
    to all of them over the texts of ``gram``, by ridge regression that pulls to the weights that
    there were: W' = (W G[:, S] + λ W[:, S]) (G[S, S] + λI)^-1."""
    chosen = gram[kept][:, kept]
    ridge = RIDGE * chosen.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
    factor = torch.linalg.cholesky(chosen + ridge * torch.eye(len(kept), device=chosen.device))
    meant = weight.double() @ gram[:, kept] + ridge * weight[:, kept].double()
    return torch.cholesky_solve(meant.T, factor).T


def narrowed(mlp: Any, kept: Tensor, down: Tensor | None = None) -> Any:
    """The MLP with the neurons ``kept`` alone. ``down`` [hidden, kept] is what their columns of
    down_proj become; None: they stay as they are."""
    weights = {f"{name}.weight": getattr(mlp, name).weight[kept] for name in INPUTS}
    weights["down_proj.weight"] = mlp.down_proj.weight[:, kept] if down is None else down
    for name, bias in biases_of(mlp).items():
        weights[f"{name}.bias"] = bias[kept] if name in INPUTS else bias
    return mlp_of(mlp, weights)
