"""What a model was when its training began: kept, so that it can be asked again."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class Beginning:
    """The first values of everything that learns, on the CPU, in the precision that the network
    computes in. ``network`` is what learns."""

    def __init__(self, network: Any, learnt: Mapping[str, Tensor]) -> None:
        self.network = network
        self._learnt = learnt
        self._first = {name: t.detach().to("cpu", copy=True) for name, t in learnt.items()}

    def put_back(self) -> None:
        """The network is what it was, for good."""
        put(self._first, self._learnt)

    @contextmanager
    def again(self) -> Iterator[Any]:
        """Within it, the network is what it was; it is what the context gives."""
        now = {name: t.detach().to("cpu", copy=True) for name, t in self._learnt.items()}
        put(self._first, self._learnt)
        try:
            yield self.network
        finally:
            put(now, self._learnt)


@torch.no_grad()
def put(values: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> None:
    """Copies each value to where its name says."""
    for name, value in values.items():
        into[name].copy_(value)
