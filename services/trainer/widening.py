"""A model that gets wider: each neuron of its MLPs is duplicated once.

After Chen et al., "Net2Net" (1511.05641): a copy has the original's gate and up rows, and the two
share its down column, so that together they say what the original said.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import Module, ModuleList, Parameter

from services.trainer.depth import Gain, Unit
from services.trainer.width import INPUTS, biases_of, mlp_of, mlps_of, multiple_for, say_width


class Parts(Module):
    """An MLP in parts side by side whose outputs add up: the one that the model came with, and
    those that grew, which can learn without it."""

    def __init__(self, first: Module) -> None:
        super().__init__()
        self.parts = ModuleList([first])

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden] -> the same shape."""
        out: Tensor = self.parts[0](x)
        for part in self.parts[1:]:
            out = out + part(x)
        return out


class Widening:
    """A model whose MLPs get wider over ``cycles``, to twice their width in the end.

    Original and copy share a down column by halves where only the copy learns: the one moves and
    the other does not. Where both learn (``all_learn``) halves would stay copies for ever: they say
    the same and hear the same, so they get the same gradients. Shares of 1 to 3 hardly help, as
    AdamW's step knows no scale (measured, 60 steps: apart by a tenth of the way they have gone).
    There, each element of the column goes to one of the two as a whole, by lot: in sum they say
    what the original said, but from the first step on they hear of different outputs, and go ways
    as different as those of any two neurons (apart by 1.4 times the way).
    """

    unit: ClassVar[Unit] = "neurons"

    def __init__(self, model: Any, cycles: int, *, all_learn: bool = False, seed: int = 0) -> None:
        self.model = model
        self.base_params = sum(param.numel() for param in model.parameters())
        self.base = mlps_of(model)
        self.sizes = growth_sizes(self.base.width, cycles)
        self.size = 0
        self.lot = Generator().manual_seed(seed) if all_learn else None
        self.mlps = [Parts(module) for module in self.base.modules]
        self.base.put(self.mlps)

    def size_after(self, cycle: int) -> int:
        """How many neurons each MLP has gained when ``cycle`` cycles are over."""
        return self.sizes[min(cycle, len(self.sizes)) - 1]

    def gain(self, size: int, master: Callable[[Parameter], Tensor]) -> Iterator[Gain]:
        """Lets every MLP have ``size`` new neurons, copies; yields what is new of them.

        ``master`` gives the fp32 weight behind one of the network's, or that one itself: both are
        shared out. What grows in one cycle is weights by themselves, also when several cycles grow
        at once: an optimizer counts their steps.
        """
        while self.size < size:
            first, self.size = self.size, next(s for s in self.sizes if s > self.size)
            for layer, mlp in enumerate(self.mlps):
                part, starts = self.copies(mlp.parts[0], first, self.size, master)
                mlp.parts.append(part)
                for name, weight in part.named_parameters():
                    yield Gain(f"{layer}.{first}.{name}", weight, starts[name])
        say_width(self.model, self.base.width + self.size)

    def copies(
        self, mlp: Any, first: int, last: int, master: Callable[[Parameter], Tensor]
    ) -> tuple[Any, dict[str, Tensor]]:
        """(an MLP of copies of these neurons, the values of its weights). The bias of down_proj
        stays where it is: once is enough."""
        starts = {
            f"{name}.weight": master(getattr(mlp, name).weight)[first:last] for name in INPUTS
        }
        for name, bias in biases_of(mlp).items():
            if name in INPUTS:
                starts[f"{name}.bias"] = master(bias)[first:last]
        starts["down_proj.weight"] = self.share(mlp.down_proj.weight, first, last, master)
        return mlp_of(mlp, starts), starts

    @torch.no_grad()
    def share(
        self, weight: Parameter, first: int, last: int, master: Callable[[Parameter], Tensor]
    ) -> Tensor:
        """Takes from these of down_proj's columns what the copies get; gives it."""
        column = master(weight)[:, first:last]
        if self.lot is None:
            given = column / 2
        else:
            chosen = torch.rand(column.shape, generator=self.lot) < 0.5
            given = column * chosen.to(column.device)
        column -= given  # exact: what is left is the other half, the element, or zero
        weight[:, first:last] = column
        return given

    @contextmanager
    def without_grown(self) -> Iterator[None]:
        """Within it, the model is what it was before. Only where originals do not learn."""
        shared = [mlp.down_proj.weight.data[:, : self.size] for mlp in self.base.modules]
        for columns in shared:
            columns *= 2
        self.base.put(self.base.modules)
        yield
        self.base.put(self.mlps)
        for columns in shared:
            columns /= 2

    @contextmanager
    def as_saved(self) -> Iterator[None]:
        """Within it, the model is a plain one: each MLP in one piece."""
        self.base.put([joined(mlp) for mlp in self.mlps])
        yield
        self.base.put(self.mlps)

    def shape(self) -> str:
        return f"{self.base.width + self.size} neurons in every MLP"


def growth_sizes(width: int, cycles: int) -> list[int]:
    """How many neurons MLPs so wide have gained after each of the cycles: in the end as many as
    they had, and before that as evenly as widths of a multiple allow. Cycles too many for that
    only train."""
    step = multiple_for(width)
    even = [-(-width * (cycles + cycle) // (cycles * step)) * step for cycle in range(1, cycles)]
    return [min(wide, 2 * width) - width for wide in even] + [width]


def joined(mlp: Parts) -> Any:
    """One MLP of all the parts' neurons."""
    parts: list[Any] = list(mlp.parts)
    first = parts[0]
    weights = {
        f"{name}.weight": torch.cat([getattr(part, name).weight.detach() for part in parts])
        for name in INPUTS
    }
    weights["down_proj.weight"] = torch.cat([part.down_proj.weight.detach() for part in parts], 1)
    for name in biases_of(first):
        own = [getattr(part, name).bias.detach() for part in (parts if name in INPUTS else [first])]
        weights[f"{name}.bias"] = torch.cat(own)
    return mlp_of(first, weights)
