"""Operations of a decoder as single autograd nodes: fewer passes over memory than their formulas.

On CPU most of a small model's step is spent between the matrix products (measured: two thirds in
bf16), where automatic differentiation pads, concatenates and fills whole tensors that a formula
written by hand need not touch. Each has the plain formula's result and gradients to rounding. On
CUDA some of them are a kernel of our own (`triton_kernels`).
"""

from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

# Rows of logits that the cross entropy holds at once. On CPU 256 x 128k vocabulary are 131 MB in
# fp32. On CUDA each piece reads the whole table and adds to its whole gradient, so it must be worth
# it; 2,048 x 128k are 525 MB in bf16.
LOSS_ROWS = {"cpu": 256, "cuda": 2048}
NO_TARGET = -100  # cross entropy's own word for "not counted"


def of_card(x: Tensor) -> ModuleType | None:
    """Our kernels for the card that x is on, if it is on one and they work there."""
    return _on(x.device) if x.is_cuda else None


def has_kernels(device: torch.device) -> bool:
    """Whether `of_card` would find them."""
    return device.type == "cuda" and _on(device) is not None


@cache
def _on(device: torch.device) -> ModuleType | None:
    try:
        from services.trainer import triton_kernels  # not on every platform, and not for nothing
    except ImportError:
        return None
    return triton_kernels if triton_kernels.work(device) else None


class RmsNorm(torch.autograd.Function):
    """``w * (x / sqrt(mean(x^2) + eps))`` over the last dimension (Zhang and Sennrich,
    1910.07467); rounded to x's precision before ``w``, as transformers does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, eps: float) -> Tensor:
        size = x.shape[-1]
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = length.square_().div_(size).add_(eps).rsqrt_()
        unit = torch.empty_like(x)
        torch.mul(x, scale, out=unit)
        ctx.save_for_backward(unit, w, scale)
        return unit * w

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        unit, w, scale = ctx.saved_tensors
        (grad,) = grads
        grad_w = None
        if ctx.needs_input_grad[1]:
            product = (grad * unit).reshape(-1, unit.shape[-1])
            grad_w = product.sum(0, dtype=torch.float32).to(w.dtype)
        if not ctx.needs_input_grad[0]:
            return None, grad_w, None
        inner = grad * w
        # The part of the gradient along x changes nothing: the result has a fixed length.
        along = torch.linalg.vecdot(inner, unit).unsqueeze(-1).div_(-unit.shape[-1])
        inner.addcmul_(unit, along)
        out = torch.empty_like(inner)
        return torch.mul(inner, scale, out=out), grad_w, None


class Rotary(torch.autograd.Function):
    """Rotates x [tokens, heads, size] by angles whose ``cos`` and ``sin`` are [tokens, size], equal
    in both halves of a size (Su et al., 2104.09864, in the halves' layout of transformers)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, signed_sin)
        if card := of_card(x):
            out: Tensor = card.rotate(x, cos, signed_sin, 1.0)
            return out
        turned = x.roll(x.shape[-1] // 2, -1)
        return (x * cos[:, None]).addcmul_(turned, signed_sin[:, None])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, signed_sin = ctx.saved_tensors
        (grad,) = grads
        if card := of_card(grad):
            return card.rotate(grad, cos, signed_sin, -1.0), None, None
        turned = grad.roll(grad.shape[-1] // 2, -1)
        # The rotation back: the angle's sign is in the sine alone.
        back = (grad * cos[:, None]).addcmul_(turned, signed_sin[:, None], value=-1)
        return back, None, None


def rotated(x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """`Rotary` as a formula."""
    half = x.shape[-1] // 2
    turned = torch.cat((x[..., half:], x[..., :half]), dim=-1)
    return x * cos[:, None] + turned * signed_sin[:, None]


def signed(sin: Tensor) -> Tensor:
    """``sin`` [tokens, size] with the sign that the first half has in the rotation."""
    half = sin.shape[-1] // 2
    return torch.cat((-sin[:, :half], sin[:, half:]), dim=-1)


class SwiGlu(torch.autograd.Function):
    """``silu(gate) * up`` (Shazeer, 2002.05202), where there are kernels of the card's: of all that
    is between them only gate and up are kept."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        card = of_card(gate)
        assert card is not None
        out: Tensor = card.swiglu(gate, up)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        card = of_card(grads[0])
        assert card is not None
        found: tuple[Tensor, Tensor] = card.swiglu_back(grads[0], *ctx.saved_tensors)
        return found


class HeadLoss(torch.autograd.Function):
    """Cross entropy of ``linear(hidden, w)`` with ``targets``, summed, in fp32.

    ``hidden`` [n, size], ``w`` [vocabulary, size]. Logits exist for `LOSS_ROWS` rows at a time, and
    their gradient is taken while they do (as Liger kernels, 2410.10989): nothing of the size
    [n, vocabulary] is ever held.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, w: Tensor, targets: Tensor) -> Tensor:
        for_hidden, for_w = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if for_hidden else None
        # In fp32: a sum over many chunks in bf16 would lose the small ones.
        grad_w = torch.zeros_like(w, dtype=torch.float32) if for_w else None
        total = hidden.new_zeros((), dtype=torch.float32)
        step = LOSS_ROWS[hidden.device.type]
        for start in range(0, len(hidden), step):
            rows = hidden[start : start + step]
            losses, low = loss_and_gradient(
                linear(rows, w), targets[start : start + step], for_hidden or for_w
            )
            total += losses
            if grad_hidden is not None:
                torch.mm(low, w, out=grad_hidden[start : start + step])
            if grad_w is not None:
                add_product(grad_w, low.t(), rows)
        ctx.save_for_backward(grad_hidden, grad_w)
        ctx.dtype = w.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        grad_hidden, grad_w = ctx.saved_tensors
        (scale,) = grads
        return (
            None if grad_hidden is None else grad_hidden * scale.to(grad_hidden.dtype),
            None if grad_w is None else (grad_w * scale).to(ctx.dtype),
            None,
        )


def loss_and_gradient(said: Tensor, targets: Tensor, gradient: bool) -> tuple[Tensor, Tensor]:
    """(the summed loss, and its gradient if wanted, which may be where the logits ``said`` are)."""
    if card := of_card(said):
        return card.cross_entropy_(said, targets, gradient=gradient).sum(), said
    counted = (targets != NO_TARGET)[:, None]
    index = targets.clamp(min=0)[:, None]
    likely = said.float().log_softmax(-1)
    loss = -(likely.gather(1, index) * counted).sum()
    if not gradient:
        return loss, said
    likely.exp_().scatter_add_(1, index, likely.new_full((), -1.0).expand_as(index))
    return loss, likely.mul_(counted).to(said.dtype)


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """``total += a @ b``, the total in fp32."""
    if a.is_cuda and a.dtype != torch.float32:
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    else:
        total += a @ b
