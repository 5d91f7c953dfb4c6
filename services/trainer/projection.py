"""Linear layers with LoRA adapters, several that read the same input as one autograd node.

peft's own forward runs the low-rank branch in the adapter's precision and adds it in separate
passes over memory. This one computes in the activations' precision and accumulates in place; the
adapter itself stays in fp32, as peft made it. Layers that share their input (q, k and v; gate and
up) read it once for all their adapters, and add up its gradient in place.
"""

from types import MethodType
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor
from torch.nn.functional import linear

ADAPTER = "default"
PARTS = 5  # of a layer, in `FusedLora`'s arguments


class FusedLora(torch.autograd.Function):
    """For x [..., in] and every layer (W [out, in] frozen, bias or None, A [r, in], B [out, r], s):
    ``x W^T + bias + s (x A^T) B^T``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parts: Any) -> tuple[Tensor, ...]:
        layers = [parts[at : at + PARTS] for at in range(0, len(parts), PARTS)]
        flat = x.reshape(-1, x.shape[-1])
        low_a = [a.to(x.dtype) for _, _, a, _, _ in layers]
        together = low_a[0] if len(low_a) == 1 else torch.cat(low_a)
        low_b = [b.to(x.dtype) for _, _, _, b, _ in layers]
        ctx.ranks = [len(a) for a in low_a]
        inner = flat @ together.t()
        outs = []
        for (w, bias, _, _, s), b, part in zip(
            layers, low_b, torch.split(inner, ctx.ranks, dim=1), strict=True
        ):
            out = flat @ w.t() if bias is None else torch.addmm(bias, flat, w.t())
            outs.append(out.addmm_(part, b.t(), alpha=s).view(*x.shape[:-1], -1))
        ctx.save_for_backward(flat, together, inner, *low_b, *(w for w, *_ in layers))
        ctx.scalings, ctx.shape = [s for *_, s in layers], x.shape
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        flat, together, inner, *rest = ctx.saved_tensors
        count = len(ctx.ranks)
        low_b, weights = rest[:count], rest[count:]
        flats = [g.reshape(-1, g.shape[-1]) for g in grads]
        grad_inner = torch.empty_like(inner)
        grads_b = []
        for grad, b, s, mine, part in zip(
            flats,
            low_b,
            ctx.scalings,
            torch.split(grad_inner, ctx.ranks, dim=1),
            torch.split(inner, ctx.ranks, dim=1),
            strict=True,
        ):
            torch.mul(grad @ b, s, out=mine)
            grads_b.append((grad.t() @ part).float().mul_(s))
        grads_a = torch.split((grad_inner.t() @ flat).float(), ctx.ranks)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad_inner @ together
            for grad, w in zip(flats, weights, strict=True):
                grad_x.addmm_(grad, w)
            grad_x = grad_x.view(ctx.shape)
        per_layer = zip(grads_a, grads_b, strict=True)
        return grad_x, *(g for a, b in per_layer for g in (None, None, a, b, None))


def is_adapting(layer: Any) -> bool:
    """Whether a layer has an adapter that is to be computed beside its weights."""
    return isinstance(layer, Linear) and not layer.disable_adapters and not layer.merged


def project(x: Tensor, *layers: Any) -> tuple[Tensor, ...]:
    """What each of the linear ``layers`` makes of x [..., in]."""
    if not all(is_adapting(layer) for layer in layers):
        return tuple(layer(x) for layer in layers)
    if torch.compiler.is_compiling():
        return tuple(formula(x, layer) for layer in layers)
    parts: list[Any] = []
    for layer in layers:
        base: Any = layer.base_layer
        a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        parts += [base.weight, base.bias, a, b, layer.scaling[ADAPTER]]
    out: tuple[Tensor, ...] = FusedLora.apply(x, *parts)
    return out


def formula(x: Tensor, layer: Any) -> Tensor:
    """The same, written out: a compiler fuses better what it can see."""
    base = layer.base_layer
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    low = linear(linear(x, a.to(x.dtype)), b.to(x.dtype))
    out: Tensor = linear(x, base.weight, base.bias) + layer.scaling[ADAPTER] * low
    return out


def fuse(layer: Linear) -> None:
    """Lets a layer of peft's go forward in one node."""
    layer.forward = MethodType(forward, layer)  # type: ignore[method-assign]


def forward(self: Any, x: Tensor) -> Tensor:
    if is_adapting(self):
        return project(x, self)[0]
    base = self.base_layer
    return linear(x, base.weight, base.bias)
