"""Kernels for a CUDA card, in Triton: what lies between the matrix products, in one pass each.

A card computes these faster than its memory can bring the numbers, so what counts is how often each
goes through memory. Everything is computed in fp32 and rounded once, and every sum is in the same
order each time.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # numbers of a pointwise program
LOGITS_BLOCK = 4096  # of a row of logits, at a time


@triton.jit
def _swiglu(gate, up, out, count, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = at < count
    g = tl.load(gate + at, mask=there).to(tl.float32)
    u = tl.load(up + at, mask=there).to(tl.float32)
    tl.store(out + at, g * tl.sigmoid(g) * u, mask=there)


@triton.jit
def _swiglu_back(grad, gate, up, grad_gate, grad_up, count, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = at < count
    d = tl.load(grad + at, mask=there).to(tl.float32)
    g = tl.load(gate + at, mask=there).to(tl.float32)
    u = tl.load(up + at, mask=there).to(tl.float32)
    open_ = tl.sigmoid(g)
    tl.store(grad_up + at, d * g * open_, mask=there)
    tl.store(grad_gate + at, d * u * open_ * (1 + g * (1 - open_)), mask=there)


@triton.jit
def _rotate(x, cos, signed_sin, out, count, sign, half: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    pair = tl.arange(0, BLOCK)
    there = pair < count
    head, column = pair // half, pair % half
    first = (token * (count // half) + head) * 2 * half + column
    c = tl.load(cos + token * 2 * half + column, mask=there).to(tl.float32)
    s = -sign * tl.load(signed_sin + token * 2 * half + column, mask=there).to(tl.float32)
    a = tl.load(x + first, mask=there).to(tl.float32)
    b = tl.load(x + first + half, mask=there).to(tl.float32)
    tl.store(out + first, a * c - b * s, mask=there)
    tl.store(out + first + half, b * c + a * s, mask=there)


@triton.jit
def _cross_entropy(logits, targets, losses, size, GRADIENT: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    start = logits + row * size
    target = tl.load(targets + row)
    top = tl.full((), float("-inf"), tl.float32)
    total = tl.full((), 0.0, tl.float32)
    for first in range(0, size, BLOCK):
        at = first + tl.arange(0, BLOCK)
        x = tl.load(start + at, mask=at < size, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(top, tl.max(x, 0))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(x - higher), 0)
        top = higher
    wanted = tl.load(start + tl.maximum(target, 0)).to(tl.float32)
    tl.store(losses + row, tl.where(target < 0, 0.0, top + tl.log(total) - wanted))
    if GRADIENT:
        tl.debug_barrier()  # no thread may write where another has not read
        counted = tl.where(target < 0, 0.0, 1.0)
        for first in range(0, size, BLOCK):
            at = first + tl.arange(0, BLOCK)
            x = tl.load(start + at, mask=at < size, other=float("-inf")).to(tl.float32)
            likely = tl.exp(x - top) / total - tl.where(at == target, 1.0, 0.0)
            tl.store(start + at, likely * counted, mask=at < size)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up``."""
    gate, up = gate.contiguous(), up.contiguous()
    out, count = torch.empty_like(gate), gate.numel()
    _swiglu[(triton.cdiv(count, BLOCK),)](gate, up, out, count, BLOCK=BLOCK)
    return out


def swiglu_back(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of gate and up."""
    grad, gate, up = grad.contiguous(), gate.contiguous(), up.contiguous()
    grad_gate, grad_up, count = torch.empty_like(gate), torch.empty_like(gate), gate.numel()
    grid = (triton.cdiv(count, BLOCK),)
    _swiglu_back[grid](grad, gate, up, grad_gate, grad_up, count, BLOCK=BLOCK)
    return grad_gate, grad_up


def rotate(x: Tensor, cos: Tensor, signed_sin: Tensor, sign: float) -> Tensor:
    """x [tokens, heads, size] as `kernels.Rotary` turns it; with the sign -1, back."""
    x, cos, signed_sin = x.contiguous(), cos.contiguous(), signed_sin.contiguous()
    tokens, heads, size = x.shape
    out, pairs = torch.empty_like(x), heads * size // 2
    width = triton.next_power_of_2(pairs)
    _rotate[(tokens,)](x, cos, signed_sin, out, pairs, sign, half=size // 2, BLOCK=width)
    return out


def cross_entropy_(logits: Tensor, targets: Tensor, *, gradient: bool) -> Tensor:
    """[n] in fp32: the loss of each row of logits [n, vocabulary], 0 for a negative target. With
    ``gradient``, that of the losses' sum takes the logits' place."""
    assert logits.is_contiguous()
    rows, size = logits.shape
    losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
    _cross_entropy[(rows,)](
        logits, targets, losses, size, GRADIENT=gradient, BLOCK=LOGITS_BLOCK, num_warps=8
    )
    return losses


@cache
def work(device: Any) -> bool:
    """Whether they can be used there: Triton builds its launchers with a C compiler, which not
    every machine has."""
    one = torch.ones(1, device=device)
    try:
        return swiglu(one, one).item() > 0
    except Exception:  # whatever it dies of, the formulas do as well
        return False
