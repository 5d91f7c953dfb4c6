"""What a training step lowers, whatever it is that learns: summed over rows, and what to divide by.

A step divides by the whole step's weight, so that micro-batches do not weigh by their number.
"""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from services.trainer.batches import make_batch, summed_loss
from services.trainer.documents import Document
from services.trainer.packing import Packable

Row = TypeVar("Row", bound=Packable, contravariant=True)


class Objective(Protocol[Row]):
    """A loss over rows of one kind. ``of_tokens``: it is the cross entropy of one token, whose
    exponential is the perplexity."""

    of_tokens: bool

    def weight(self, rows: Sequence[Row]) -> int:
        """What the summed loss of these rows is divided by."""

    def summed(
        self, network: Any, rows: Sequence[Row], device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        """The loss in nats, summed, fp32; with gradients where they are wanted."""


class NextToken:
    """Cross entropy of each label token."""

    of_tokens = True

    def weight(self, rows: Sequence[Document]) -> int:
        return sum(row.label_count for row in rows)

    def summed(
        self, network: Any, rows: Sequence[Document], device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        return summed_loss(network, make_batch(list(rows), device, dtype))
