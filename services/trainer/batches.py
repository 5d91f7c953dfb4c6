"""A few documents as one flat batch, and what the model says to it."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from services.trainer.attention import Layout, layout
from services.trainer.documents import Document
from services.trainer.fusing import is_fused
from services.trainer.kernels import NO_TARGET
from services.trainer.packing import micro_batches

# Tokens that go through the model at once. CPU: the activations of a layer stay near the caches.
# CUDA: enough work for every multiprocessor, with an 8B model's activations still in memory.
MICRO_TOKENS = {"cpu": 4096, "cuda": 16384}


# On CPU, sizes are rounded up to a multiple of this: oneDNN prepares and keeps code for every
# shape that it meets (measured: 15 MB a step and 15 % of the time with sizes as they come).
SIZE_STEP = 64


class Batch(NamedTuple):
    """``input_ids`` and ``positions`` [1, tokens]; positions start anew with each document.

    The model's output is wanted at ``at``, where it should say ``targets``; the first ``labels``
    of them count, the rest (with `NO_TARGET`) fill up a size.
    """

    input_ids: Tensor
    positions: Tensor
    at: Tensor
    targets: Tensor
    labels: int
    packed: Layout


def filler(count: int) -> Document:
    """A document that nothing is learnt from."""
    return Document(0, np.zeros(count, dtype=np.int32), np.zeros(count, dtype=np.bool_))


def missing(count: int, device: torch.device) -> int:
    return -count % SIZE_STEP if device.type == "cpu" else 0


def make_batch(documents: list[Document], device: torch.device, dtype: torch.dtype) -> Batch:
    if gap := missing(sum(len(d.tokens) for d in documents), device):
        documents = [*documents, filler(gap)]
    tokens = np.concatenate([d.tokens for d in documents]).astype(np.int64)
    positions = np.concatenate([np.arange(len(d.tokens)) for d in documents])
    labels = np.concatenate([d.labels for d in documents])
    # A document's first token has no past to be predicted from.
    at = np.flatnonzero(labels & (positions > 0)) - 1
    targets = tokens[at + 1]
    gap = missing(len(at), device)

    def tensor(values: Any) -> Tensor:
        return torch.from_numpy(values).to(device, non_blocking=True)

    return Batch(
        tensor(tokens)[None],
        tensor(positions)[None],
        tensor(np.pad(at, (0, gap))),
        tensor(np.pad(targets, (0, gap), constant_values=NO_TARGET)),
        len(at),
        layout([len(d.tokens) for d in documents], device, dtype),
    )


def logits(model: Any, batch: Batch) -> Tensor:
    """[len(at), vocabulary], computed at the positions ``batch.at`` alone."""
    out: Tensor = model(
        input_ids=batch.input_ids,
        position_ids=batch.positions,
        logits_to_keep=batch.at,
        packed=batch.packed,
        use_cache=False,
    ).logits[0]
    return out


def summed_loss(model: Any, batch: Batch) -> Tensor:
    """Cross entropy in nats, summed over the labels, in fp32."""
    if is_fused(model):
        states = model.base_model(
            input_ids=batch.input_ids,
            position_ids=batch.positions,
            packed=batch.packed,
            use_cache=False,
        ).last_hidden_state[0]
        loss: Tensor = model.head_loss(states.index_select(0, batch.at), batch.targets)
        return loss
    said = logits(model, batch).float()
    return cross_entropy(said, batch.targets, ignore_index=NO_TARGET, reduction="sum")


@torch.no_grad()
def mean_loss(
    model: Any, documents: list[Document], device: torch.device, dtype: torch.dtype
) -> float:
    """Mean cross entropy per label token, in nats, over ``documents``."""
    total = torch.zeros((), dtype=torch.float64, device=device)
    for part in micro_batches(documents, MICRO_TOKENS[device.type]):
        total += summed_loss(model, make_batch(part, device, dtype))
    return total.item() / sum(d.label_count for d in documents)


@torch.no_grad()
def greedy(
    model: Any,
    prompts: list[list[int]],
    count: int,
    stop: int | None,
    device: torch.device,
    dtype: torch.dtype,
) -> list[list[int]]:
    """Continues each prompt by up to ``count`` most likely tokens, until ``stop``.

    All prompts share one packed batch. No cache: this is for a few short samples.
    """
    texts = [list(prompt) for prompt in prompts]
    going = list(range(len(texts)))
    for _ in range(count):
        if not going:
            break
        documents = []
        for i in going:
            last = np.zeros(len(texts[i]) + 1, dtype=np.bool_)
            last[-1] = True
            documents.append(Document(0, np.array([*texts[i], 0], dtype=np.int32), last))
        said = logits(model, make_batch(documents, device, dtype))[: len(going)].argmax(-1)
        for i, token in zip(list(going), said.tolist(), strict=True):
            if token == stop:
                going.remove(i)
            else:
                texts[i].append(token)
    return [text[len(prompt) :] for text, prompt in zip(texts, prompts, strict=True)]
