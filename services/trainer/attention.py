"""Attention over packed documents, none of which sees another, registered with transformers.

A batch is flat, [1, tokens], without padding. Where there is flash attention it takes the
documents' bounds. Elsewhere the documents are gathered into tiles about as wide as they are long:
short documents then cost what short documents cost.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "tuneyard_packed"

# Up to this width plain bf16 matrix products beat the CPU's flash kernel, whose backward pass is
# not vectorised in bf16 (measured: 1.5 ms against 15 ms for 32 tiles of 64; even at 1,024).
MAX_MATMUL_WIDTH = 768

# Older cards, and fp32 on any, have no flash attention.
FLASH_CAPABILITY = (8, 0)

# A document goes into a tile of the first width that holds it. Few widths, and few numbers of
# tiles: kernels keep code for every shape that they meet.
WIDTHS = (64, 128, 192, 256, 384, 512, 768)
TILES_STEP = 2


class Tiles(NamedTuple):
    """Tiles of one width. ``slots`` [tiles*width]: the token in each place. ``mask`` [tiles, 1,
    width, width]: 0 within a document and its past, else -inf.
    """

    slots: Tensor
    mask: Tensor
    width: int


@dataclass(eq=False)
class Tiling:
    """The layout of tiles: ``places`` [tokens] says where in all groups' slots each token is.

    No tuple: a compiled block hands it through unseen, and would be compiled anew for every number
    of groups if it could count them.
    """

    groups: list[Tiles]
    slots: Tensor
    places: Tensor


@dataclass(eq=False)
class Bounds:
    """The layout of flash attention: ``ends`` [documents + 1] int32, cumulative; ``longest`` in
    tokens."""

    ends: Tensor
    longest: int


Layout = Tiling | Bounds


def layout(lengths: list[int], device: torch.device, dtype: torch.dtype) -> Layout:
    """How documents of ``lengths`` tokens, one after another, attend."""
    if has_flash(device, dtype):
        ends = np.cumsum([0, *lengths]).astype(np.int32)
        return Bounds(torch.from_numpy(ends).to(device, non_blocking=True), max(lengths))
    starts = np.cumsum([0, *lengths])
    by_width: dict[int, list[tuple[int, int]]] = {}
    for start, length in zip(starts.tolist(), lengths, strict=False):
        width = next((w for w in WIDTHS if w >= length), length)
        by_width.setdefault(width, []).append((start, length))
    groups = [tiles(documents, width, dtype) for width, documents in sorted(by_width.items())]
    slots = torch.cat([group.slots for group in groups])
    places = torch.zeros(int(starts[-1]), dtype=torch.int64)
    taken = (slots >= 0).nonzero()[:, 0]
    places[slots[taken]] = taken
    there = [Tiles(g.slots.to(device), g.mask.to(device), g.width) for g in groups]
    return Tiling(there, slots.clamp_(min=0).to(device), places.to(device))


def has_flash(device: torch.device, dtype: torch.dtype) -> bool:
    if device.type != "cuda" or dtype == torch.float32:
        return False
    return torch.cuda.get_device_capability(device) >= FLASH_CAPABILITY


def tiles(documents: list[tuple[int, int]], width: int, dtype: torch.dtype) -> Tiles:
    """Puts documents (start, length) into tiles, each into the first that has room."""
    room: list[int] = []
    slots: list[NDArray[np.int64]] = []
    owner: list[NDArray[np.int64]] = []
    for number, (start, length) in enumerate(sorted(documents, key=lambda d: -d[1])):
        tile = next((t for t, free in enumerate(room) if free >= length), len(room))
        if tile == len(room):
            room.append(width)
            slots.append(np.full(width, -1, dtype=np.int64))
            owner.append(np.full(width, -1, dtype=np.int64))
        offset = width - room[tile]
        slots[tile][offset : offset + length] = np.arange(start, start + length)
        owner[tile][offset : offset + length] = number
        room[tile] -= length
    for _ in range(-len(room) % TILES_STEP):
        slots.append(np.full(width, -1, dtype=np.int64))
        owner.append(np.full(width, -1, dtype=np.int64))
    own = np.stack(owner)
    same = (own[:, :, None] == own[:, None, :]) & (own[:, :, None] >= 0)
    # An empty place sees itself alone: its softmax is defined, and no gradient leaves it.
    allowed = (same & np.tri(width, dtype=np.bool_)) | np.eye(width, dtype=np.bool_)
    mask = torch.zeros(len(own), 1, width, width, dtype=dtype)
    mask.masked_fill_(torch.from_numpy(~allowed)[:, None], float("-inf"))
    return Tiles(torch.from_numpy(np.concatenate(slots)), mask, width)


class Rearrange(torch.autograd.Function):
    """``x[index]``, whose gradient is ``grad[inverse]``: a gather both ways, never a scatter."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.inverse = inverse
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0].index_select(0, ctx.inverse), None, None


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    packed: Layout,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """``query`` [1, heads, tokens, size], ``key`` and ``value`` with as many or fewer heads.

    Gives [1, tokens, heads, size]. Raises ValueError for what it does not compute.
    """
    if softcap is not None or s_aux is not None:
        raise ValueError("attention with a soft cap or sinks is not supported by this trainer")
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    return attend_packed(q, k, v, packed, scaling, sliding_window)[None], None


def attend_packed(
    q: Tensor, k: Tensor, v: Tensor, packed: Layout, scaling: float, window: int | None
) -> Tensor:
    """q [tokens, heads, size] -> the same shape. Raises ValueError for a window that cuts."""
    if isinstance(packed, Bounds):
        flash: Tensor = Flash.apply(q, k, v, packed, scaling, window)
        return flash
    longest = packed.groups[-1].width
    if window is not None and longest > window:
        raise ValueError(f"seq_len must be at most the model's window of {window} here")
    return tiled(q, k, v, packed, scaling)


class Flash(torch.autograd.Function):
    """Flash attention (Dao, 2307.08691) within documents: torch's kernel, whose gradients are the
    same each time where deterministic algorithms are asked for.

    Not by `torch.nn.attention.varlen`: that prefers cuDNN's kernel, whose gradients are not, and of
    key heads that several query heads share it does not know in torch 2.11.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, b: Bounds, scaling: float, window: int | None
    ) -> Tensor:
        bounds = (b.ends, b.ends, b.longest, b.longest)
        ctx.cut = {
            "scale": scaling,
            "window_size_left": -1 if window is None else window - 1,
            "window_size_right": 0,
        }
        ctx.causal = window is None
        out: Tensor
        out, sums, *random, _ = torch.ops.aten._flash_attention_forward(
            q, k, v, *bounds, 0.0, ctx.causal, False, **ctx.cut
        )
        ctx.save_for_backward(q, k, v, out, sums, *random)
        ctx.bounds = bounds
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, sums, *random = ctx.saved_tensors
        found = torch.ops.aten._flash_attention_backward(
            grads[0].contiguous(),
            q,
            k,
            v,
            out,
            sums,
            *ctx.bounds,
            0.0,
            ctx.causal,
            *random,
            **ctx.cut,
        )
        return *found, None, None, None


def tiled(q: Tensor, k: Tensor, v: Tensor, layout: Tiling, scaling: float) -> Tensor:
    """q [tokens, heads, size] -> the same shape."""
    q, k, v = (Rearrange.apply(x, layout.slots, layout.places) for x in (q, k, v))
    sizes = [len(group.slots) for group in layout.groups]
    parts = zip(*(torch.split(x, sizes) for x in (q, k, v)), strict=True)
    out = torch.cat(
        [
            attend(group, *part, scaling=scaling)
            for group, part in zip(layout.groups, parts, strict=True)
        ]
    )
    flat: Tensor = Rearrange.apply(out, layout.places, layout.slots)
    return flat


def attend(t: Tiles, q: Tensor, k: Tensor, v: Tensor, *, scaling: float) -> Tensor:
    """Within tiles of one width: q [places, heads, size] -> the same shape."""
    heads, size = q.shape[1:]
    groups = k.shape[1]
    n, width, per = t.mask.shape[0], t.width, heads // groups
    if q.dtype == torch.bfloat16 and width <= MAX_MATMUL_WIDTH:
        # Query heads that share a key head are stacked: one wider product instead of several.
        q = q.view(n, width, groups, per, size).permute(0, 2, 3, 1, 4)
        q = q.reshape(n * groups, per * width, size)
        k, v = (
            x.view(n, width, groups, size).transpose(1, 2).reshape(n * groups, width, size)
            for x in (k, v)
        )
        mask = t.mask[:, :, None].expand(n, groups, per, width, width)
        mask = mask.reshape(n * groups, per * width, width)
        scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=scaling)
        out = torch.bmm(scores.softmax(-1), v).view(n, groups, per, width, size)
        return out.permute(0, 3, 1, 2, 4).reshape(n * width, heads, size)
    q, k, v = (x.view(n, width, -1, size).transpose(1, 2) for x in (q, k, v))
    out = scaled_dot_product_attention(q, k, v, attn_mask=t.mask, scale=scaling, enable_gqa=per > 1)
    return out.transpose(1, 2).reshape(n * width, heads, size)


AttentionInterface.register(NAME, packed_attention)
