"""Other ways to say which neurons and which blocks matter, to compare ours with."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from services.trainer.batches import MICRO_TOKENS, make_batch, summed_loss
from services.trainer.documents import Document
from services.trainer.packing import micro_batches
from services.trainer.width import INPUTS


def random_scores(mlps: Sequence[Any], seed: int) -> list[Tensor]:
    """[neurons] for each MLP."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(mlp.down_proj.in_features, generator=generator) for mlp in mlps]


def magnitude_scores(mlps: Sequence[Any]) -> list[Tensor]:
    """The norm of a neuron's weights: its gate and up rows and its down column."""
    return [
        sum(
            (getattr(mlp, name).weight.float().square().sum(1) for name in INPUTS),
            mlp.down_proj.weight.float().square().sum(0),
        ).sqrt()
        for mlp in mlps
    ]


def taylor_scores(
    model: Any, mlps: Sequence[Any], texts: Sequence[Document], dtype: torch.dtype
) -> list[Tensor]:
    """What the loss would change by without a neuron, to first order, summed over tokens: |h times
    the loss's gradient by h| (Molchanov et al., 1611.06440)."""
    device = torch.device("cpu")
    scores = [torch.zeros(mlp.down_proj.in_features) for mlp in mlps]
    heard: dict[int, Tensor] = {}

    def listen(number: int) -> Any:
        def hook(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor]:
            heard[number] = args[0].detach().requires_grad_(True) + 0 * args[0]
            heard[number].retain_grad()
            return (heard[number],)

        return hook

    handles = [
        mlp.down_proj.register_forward_pre_hook(listen(number)) for number, mlp in enumerate(mlps)
    ]
    model.get_input_embeddings().requires_grad_(True)  # so that gradients reach the first MLP
    for part in micro_batches(list(texts), MICRO_TOKENS["cpu"]):
        torch.autograd.backward(summed_loss(model, make_batch(part, device, dtype)))
        for number, h in heard.items():
            assert h.grad is not None
            scores[number] += (h.detach() * h.grad)[0].float().abs().sum(0)
    model.requires_grad_(False).zero_grad()
    for handle in handles:
        handle.remove()
    return scores
