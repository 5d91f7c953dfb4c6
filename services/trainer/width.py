"""A model's width: how many neurons its MLPs have. All of them have equally many, as a plain
configuration has one number for it."""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Linear, Module, Parameter

from services.trainer.depth import blocks_of
from services.trainer.loading import ModelError

# Matrix kernels work in tiles, and a width that fills them loses nothing; the second is for toys.
MULTIPLE, TOY_MULTIPLE = 256, 32
TOY_WIDTH = 8 * MULTIPLE  # below it, 256 would be too coarse a step

# An MLP's projections: a neuron is a row of the first two and a column of the last.
INPUTS = ("gate_proj", "up_proj")
PROJECTIONS = (*INPUTS, "down_proj")


class Mlps(NamedTuple):
    """The MLPs that a model came with: in each of ``blocks`` one by the name ``name``."""

    blocks: tuple[Module, ...]
    name: str
    modules: tuple[Any, ...]
    width: int

    def put(self, modules: Sequence[Any]) -> None:
        """Makes these the blocks' MLPs."""
        for block, module in zip(self.blocks, modules, strict=True):
            setattr(block, self.name, module)


def mlps_of(model: Any) -> Mlps:
    """Raises `ModelError` for a model whose MLPs are not as Llama's, or of different widths."""
    blocks = blocks_of(model).modules
    found = [
        (name, child)
        for block in blocks
        for name, child in block.named_children()
        if all(isinstance(getattr(child, part, None), Linear) for part in PROJECTIONS)
    ]
    names = {name for name, _ in found}
    modules: tuple[Any, ...] = tuple(child for _, child in found)
    widths = {module.down_proj.in_features for module in modules}
    others = [
        param
        for module in modules
        for param, _ in module.named_parameters()
        if param.split(".")[0] not in PROJECTIONS
    ]
    if len(found) != len(blocks) or len(names) != 1 or len(widths) != 1 or others:
        raise ModelError(
            f"{type(model).__name__} has not in every block one MLP of gate_proj, up_proj and "
            "down_proj, all equally wide; its width can't be changed here, so use the strategy "
            "depth, or choose a model of the Llama, Mistral, Qwen or Gemma families"
        )
    return Mlps(blocks, names.pop(), modules, widths.pop())


def multiple_for(width: int) -> int:
    """What widths are to be multiples of, for a model that is now so wide."""
    return TOY_MULTIPLE if width < TOY_WIDTH else MULTIPLE


def say_width(model: Any, width: int) -> None:
    """Lets the configuration say it, in a list of layers' widths, too, if it has one."""
    config = model.get_decoder().config
    said = config.intermediate_size
    config.intermediate_size = [width] * len(said) if isinstance(said, list | tuple) else width


@torch.no_grad()
def mlp_of(like: Any, weights: dict[str, Tensor]) -> Any:
    """A frozen MLP as ``like``, in its precision, with these weights by their names: those of
    `INPUTS` [neurons, hidden], that of down_proj [hidden, neurons], biases [neurons] and
    [hidden]."""
    new: Any = copy.deepcopy(like, {id(getattr(like, name)): None for name in PROJECTIONS})
    for name in PROJECTIONS:
        linear = Linear(1, 1, bias=False, device="meta")
        for kind in ("weight", "bias"):
            value = weights.get(f"{name}.{kind}")
            if value is not None:
                value = value.to(getattr(like, name).weight.dtype, copy=True).contiguous()
                setattr(linear, kind, Parameter(value, requires_grad=False))
        linear.out_features, linear.in_features = linear.weight.shape
        setattr(new, name, linear)
    if hasattr(new, "intermediate_size"):
        new.intermediate_size = new.down_proj.in_features
    return new


def biases_of(mlp: Any) -> dict[str, Parameter]:
    """The biases that it has, by their projections."""
    biases = {name: getattr(mlp, name).bias for name in PROJECTIONS}
    return {name: bias for name, bias in biases.items() if bias is not None}
