"""Documents as flat, padding-free batches, in an order that can be resumed. No torch here."""

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np
from msgspec import Struct


class Packable(Protocol):
    """A row that goes through the model as a whole: one document, or several that belong together.
    ``size`` is in tokens."""

    @property
    def size(self) -> int: ...


Row = TypeVar("Row", bound=Packable)


class Position(Struct, frozen=True):
    """How far training has read: ``cursor`` documents of this ``epoch``'s order."""

    epoch: int = 0
    cursor: int = 0


def order(count: int, seed: int, epoch: int) -> list[int]:
    """The order of an epoch: a function of the seed and the epoch alone."""
    indices: list[int] = np.random.default_rng((seed, epoch)).permutation(count).tolist()
    return indices


def training_steps(
    documents: Sequence[Row], budget: int, seed: int, start: Position
) -> Iterator[tuple[list[Row], Position]]:
    """Yields, without end, one step's documents and the position after them.

    A step takes documents in order until the next would exceed ``budget`` tokens, and at least one.
    """
    epoch, cursor = start.epoch, start.cursor
    indices = order(len(documents), seed, epoch)
    step: list[Row] = []
    used = 0
    while True:
        if cursor == len(indices):
            epoch, cursor = epoch + 1, 0
            indices = order(len(documents), seed, epoch)
        document = documents[indices[cursor]]
        if step and used + document.size > budget:
            yield step, Position(epoch, cursor)
            step, used = [], 0
        step.append(document)
        used += document.size
        cursor += 1


def micro_batches(documents: Sequence[Row], max_tokens: int) -> Iterator[list[Row]]:
    """Cuts a list of documents so that each part has at most ``max_tokens``, or one document."""
    part: list[Row] = []
    used = 0
    for document in documents:
        if part and used + document.size > max_tokens:
            yield part
            part, used = [], 0
        part.append(document)
        used += document.size
    if part:
        yield part
