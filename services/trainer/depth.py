"""A model's depth: which blocks it has, in which order, and how it gets more."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module, ModuleList, Parameter

from libs.contracts.training import TrainParams
from services.trainer.loading import ModelError

# What a configuration says of each block by itself, in lists as long as the model is deep.
PER_BLOCK = ("layer_types", "mlp_layer_types", "no_rope_layers")

# The projections by which a block adds to the stream that runs past it.
OUTPUTS = ("o_proj", "down_proj")

# A model never gets deeper than this many times its base; further cycles train what is there. Four
# is the most that was found to pay (Du et al., "Stacking Your Transformers", 2405.15319).
MAX_DEPTH_FACTOR = 4


Unit = Literal["blocks", "neurons"]
"""What a model grows by: blocks, or neurons in every MLP."""


class Blocks(NamedTuple):
    """The blocks that a model came with, and its configuration's lists about them."""

    modules: tuple[Module, ...]
    lists: dict[str, list[Any]]


class Gain(NamedTuple):
    """A weight that a model has gained: what the network computes with, and the value that an
    optimizer begins with, of the same shape, which may have more digits."""

    name: str
    weight: Parameter
    start: Tensor


class Tower:
    """A model that gets deeper. The n-th block to come (``grown[n]``, when it is there) stands
    behind block ``places[n]`` of the base, whose copy it is."""

    unit: ClassVar[Unit] = "blocks"

    def __init__(self, model: Any, places: list[int], per_cycle: int = 1) -> None:
        self.model = model
        self.base_params = sum(param.numel() for param in model.parameters())
        self.base = blocks_of(model)
        self.places = places
        self.per_cycle = per_cycle
        self.grown: list[Module] = []

    def size_after(self, cycle: int) -> int:
        """How many blocks have come when ``cycle`` cycles are over."""
        return min(cycle * self.per_cycle, len(self.places))

    def gain(self, size: int, master: Callable[[Parameter], Tensor]) -> Iterator[Gain]:
        """Lets the model have ``size`` new blocks, silent ones; yields what is new of them."""
        for number in range(len(self.grown), size):
            block = silent_copy(self.model, self.base.modules[self.places[number]])
            self.grown.append(block)
            for name, weight in block.named_parameters():
                yield Gain(f"{number}.{name}", weight, weight)
        self.stack()

    def stack(self) -> None:
        """Puts every block into its place, the new among the old."""
        order = []
        for number, module in enumerate(self.base.modules):
            order.append((module, number))
            order += [
                (new, place)
                for new, place in zip(self.grown, self.places, strict=False)
                if place == number
            ]
        arrange(self.model, self.base, order)

    @contextmanager
    def without_grown(self) -> Iterator[None]:
        """Within it, nothing that has grown is there."""
        keep(self.model, self.base, range(len(self.base.modules)))
        yield
        self.stack()

    def as_saved(self) -> nullcontext[None]:
        """Within it, the model is a plain one. It always is."""
        return nullcontext()

    def shape(self) -> str:
        return f"{len(self.base.modules) + len(self.grown)} blocks"


def growth_places(depth: int, p: TrainParams) -> list[int]:
    """Behind which of the base's ``depth`` blocks each new one stands, in the order of coming.

    All of them together are evenly spaced, and so are those of one cycle. The upper come first:
    while there is nothing new below them, gradients need not go further down.
    """
    count = min(p.cycles * p.layers_per_cycle, (MAX_DEPTH_FACTOR - 1) * depth)
    even = [math.ceil((n + 1) * depth / count) - 1 for n in range(count)]
    cycles = math.ceil(count / p.layers_per_cycle)
    return [place for cycle in range(cycles) for place in even[::-1][cycle::cycles]]


def blocks_of(model: Any) -> Blocks:
    """Raises `ModelError` for a model that is not a stack of blocks as Llama's."""
    decoder = model.get_decoder()
    modules = getattr(decoder, "layers", None)
    if not isinstance(modules, ModuleList):
        raise unsupported(model)
    lists = {
        name: list(values)
        for name in PER_BLOCK
        if isinstance(values := getattr(decoder.config, name, None), list | tuple)
        and len(values) == len(modules)
    }
    return Blocks(tuple(modules), lists)


def arrange(model: Any, blocks: Blocks, order: Iterable[tuple[Module, int]]) -> None:
    """Makes these the model's blocks; each comes with the number of the block that it is or whose
    copy it is. The configuration follows."""
    decoder = model.get_decoder()
    modules, origins = zip(*order, strict=True)
    decoder.layers = ModuleList(modules)
    for place, module in enumerate(modules):
        for part in module.modules():
            if hasattr(part, "layer_idx"):
                part.layer_idx = place
    decoder.config.num_hidden_layers = len(modules)
    for name, values in blocks.lists.items():
        setattr(decoder.config, name, [values[origin] for origin in origins])


def keep(model: Any, blocks: Blocks, numbers: Iterable[int]) -> None:
    """Leaves the model only these of its blocks."""
    arrange(model, blocks, [(blocks.modules[number], number) for number in numbers])


@torch.no_grad()
def silent_copy(model: Any, block: Module) -> Module:
    """A copy that adds nothing yet: its output projections are zero (Wu et al., "LLaMA Pro",
    2401.02415). Raises `ModelError` where there are no such projections."""
    new = copy.deepcopy(block)
    silenced = set()
    for name, param in new.named_parameters():
        for output in OUTPUTS:
            if output in name.split("."):
                param.zero_()
                silenced.add(output)
    if len(silenced) < len(OUTPUTS):
        raise unsupported(model)
    return new


def unsupported(model: Any) -> ModelError:
    return ModelError(
        f"{type(model).__name__} is no stack of blocks with o_proj and down_proj; its depth can't "
        "be changed here, so choose a model of the Llama, Mistral, Qwen or Gemma families"
    )
