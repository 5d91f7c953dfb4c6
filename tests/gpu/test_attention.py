"""Packed documents on the card: blind to one another, and the same gradients each time."""

from pathlib import Path

import pytest
import torch

from services.trainer.attention import Bounds, Tiling, attend_packed, layout
from services.trainer.batches import logits, make_batch
from services.trainer.export import plain_logits
from services.trainer.loading import load_base
from tests.gpu import CARD
from tests.unit.test_trainer_packing import CPU, documents, plain_model

LENGTHS = [(5, 9, 30, 31, 17, 2), (64,), (33, 200, 7), (1, 1, 900)]


def inputs(tokens: int, heads: int, key_heads: int, size: int) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(tokens, n, size) for n in (heads, key_heads, key_heads)]


def attended(
    parts: list[torch.Tensor],
    lengths: tuple[int, ...],
    device: torch.device,
    dtype: torch.dtype,
    window: int | None = None,
) -> tuple[torch.Tensor, ...]:
    """(the result, and the gradients of the inputs), on the CPU in fp64."""
    leaves = [part.to(device, dtype).requires_grad_() for part in parts]
    packed = layout(list(lengths), device, dtype)
    out = attend_packed(*leaves, packed, 0.2, window)
    weights = torch.linspace(-1, 1, out.numel(), device=device).view(out.shape).to(dtype)
    found = torch.autograd.grad(out, leaves, weights)
    return tuple(x.detach().cpu().double() for x in (out, *found))


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)], ids=["fp32", "bf16"]
)
def test_attention_is_that_of_the_cpu_and_the_same_twice(
    lengths: tuple[int, ...], size: int, dtype: torch.dtype, tolerance: float, as_in_training: None
) -> None:
    kind = Bounds if dtype == torch.bfloat16 and CARD.type == "cuda" else Tiling
    assert isinstance(layout(list(lengths), CARD, dtype), kind)
    parts = [p.to(dtype).float() for p in inputs(sum(lengths), 4, 2, size)]
    expected = attended(parts, lengths, CPU, torch.float32)
    found = attended(parts, lengths, CARD, dtype)
    again = attended(parts, lengths, CARD, dtype)
    for mine, second, theirs in zip(found, again, expected, strict=True):
        assert (mine - theirs).norm() / theirs.norm() < tolerance
        assert torch.equal(mine, second)


def test_a_window_cuts_as_a_mask_of_it_would(as_in_training: None) -> None:
    parts = [p.to(torch.bfloat16) for p in inputs(300, 4, 2, 64)]
    out = attended(parts, (100, 200), CARD, torch.bfloat16, window=40)[0]
    for start, length in ((0, 100), (100, 200)):
        q, k, v = (p[start : start + length].transpose(0, 1).float() for p in parts)
        k, v = (x.repeat_interleave(2, 0) for x in (k, v))
        far = torch.ones(length, length).tril().triu(-39) == 0
        scores = (0.2 * q @ k.mT).masked_fill(far, float("-inf"))
        expected = (scores.softmax(-1) @ v).transpose(0, 1).double()
        mine = out[start : start + length]
        assert (mine - expected).norm() / expected.norm() < 2e-2


@pytest.mark.parametrize("lengths", LENGTHS[:3])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.15)], ids=["fp32", "bf16"]
)
def test_packed_logits_equal_those_of_each_document_alone(
    tiny_model: Path, lengths: tuple[int, ...], dtype: torch.dtype, tolerance: float
) -> None:
    rows = documents(*lengths)
    with torch.no_grad():
        batch = make_batch(rows, CARD, dtype)
        together = logits(load_base(tiny_model, CARD, dtype), batch)[: batch.labels].float()
    alone = plain_logits(plain_model(tiny_model, dtype), rows, CPU)
    torch.testing.assert_close(together.cpu(), alone, atol=tolerance, rtol=tolerance)
