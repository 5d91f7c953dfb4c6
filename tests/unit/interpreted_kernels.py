"""The card's kernels against their formulas, run line by line on the CPU by Triton's interpreter:
what `test_trainer_triton` runs in a process of its own, as Triton chooses when it is imported."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, silu

from services.trainer import triton_kernels as card
from services.trainer.kernels import NO_TARGET, Rotary, rotated, signed
from tests.unit.test_trainer_kernels import DTYPES, TOLERANCE


def alike(actual: Tensor, expected: Tensor) -> bool:
    """To within rounding of the largest."""
    assert actual.dtype == expected.dtype
    off = (actual.float() - expected.float()).abs().max() / expected.float().abs().max()
    return bool(off < TOLERANCE[expected.dtype])


@DTYPES
def test_swiglu_is_its_formula_and_so_are_its_gradients(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    gate, up, grad = (torch.randn(7, 300).to(dtype) for _ in range(3))
    leaves = [gate.clone().requires_grad_(), up.clone().requires_grad_()]
    expected = silu(leaves[0]) * leaves[1]
    assert alike(card.swiglu(gate, up), expected)
    gradients = torch.autograd.grad(expected, leaves, grad)
    for mine, theirs in zip(card.swiglu_back(grad, gate, up), gradients, strict=True):
        assert alike(mine, theirs)


@DTYPES
@pytest.mark.parametrize("heads", [1, 3])
def test_the_rotation_is_its_formula_and_turns_back(heads: int, dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    angles = torch.rand(11, 8).repeat(1, 2)
    cos, sin = angles.cos().to(dtype), signed(angles.sin()).to(dtype)
    x = torch.randn(11, heads, 16).to(dtype)
    turned = card.rotate(x, cos, sin, 1.0)
    assert alike(turned, rotated(x, cos, sin))
    assert alike(turned, Rotary.apply(x, cos, sin))
    assert alike(card.rotate(turned, cos, sin, -1.0), x)


@DTYPES
@pytest.mark.parametrize("vocabulary", [50, 9000])
def test_the_loss_is_cross_entropy_and_its_gradient_takes_the_logits_place(
    vocabulary: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(3)
    logits = (3 * torch.randn(6, vocabulary)).to(dtype)
    targets = torch.randint(0, vocabulary, (6,))
    targets[2] = NO_TARGET
    leaf = logits.float().requires_grad_()
    expected = cross_entropy(leaf, targets, reduction="none")
    (gradient,) = torch.autograd.grad(expected.sum(), leaf)
    before = logits.clone()
    assert alike(card.cross_entropy_(logits, targets, gradient=False), expected)
    assert torch.equal(logits, before)
    assert alike(card.cross_entropy_(logits, targets, gradient=True), expected)
    assert alike(logits, gradient.to(dtype))
    assert not logits[2].any()
