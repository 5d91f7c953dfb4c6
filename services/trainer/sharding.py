"""Of several processes that are one run, each keeps the optimizer's part of some of the weights.

Where every weight learns, its fp32 master and two moments are most of what a run holds: 12 bytes
beside the 2 that the network computes with. Each weight is stepped by one process, its owner, and
sent to the others (Rajbhandari et al., "ZeRO", 1910.02054, stage 1). Gradients are everybody's.
Without owners all of this is the identity.
"""

import heapq
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

from services.trainer import parallel

Owners = Mapping[str, int]
"""The process that steps each weight; empty: every process steps all of them."""


def divide(weights: Mapping[str, Tensor], count: int) -> Owners:
    """About as much for each of ``count`` processes; every process comes to the same."""
    if count == 1:
        return {}
    loads = [(0, process) for process in range(count)]
    owners = {}
    for name in sorted(weights, key=lambda n: (-weights[n].numel(), n)):
        load, process = heapq.heappop(loads)
        owners[name] = process
        heapq.heappush(loads, (load + weights[name].numel(), process))
    return owners


def is_mine(name: str, owners: Owners) -> bool:
    return not owners or owners[name] == parallel.rank()


def of_mine(values: Mapping[str, Tensor], owners: Owners) -> dict[str, Tensor]:
    return {name: value for name, value in values.items() if is_mine(name, owners)}


def master(name: str, weight: Tensor, owners: Owners) -> Parameter:
    """The fp32 weight that the optimizer changes; of another's, only a shape to hang the gradient
    on."""
    if is_mine(name, owners):
        return Parameter(weight.detach().to(torch.float32, copy=True))
    nothing = torch.zeros((), dtype=torch.float32, device=weight.device)
    return Parameter(nothing.expand(weight.shape))


@torch.no_grad()
def spread(weights: Mapping[str, Tensor], owners: Owners) -> None:
    """Everybody gets every weight from its owner."""
    for name, owner in owners.items():
        dist.broadcast(weights[name].detach(), src=owner)


def collect(
    tensors: dict[str, Tensor], parts: Mapping[str, Parameter], prefix: str, owners: Owners
) -> None:
    """The first process gets ``tensors[prefix + name]`` of each weight from its owner, in main
    memory: they may be more than its device has room for. All must call it."""
    for name, owner in owners.items():
        if owner == 0:
            continue
        key, part = prefix + name, parts[name]
        if parallel.rank() == owner:
            dist.send(tensors[key].detach().to(part.device, part.dtype).contiguous(), dst=0)
        elif parallel.is_first():
            into = torch.empty(part.shape, dtype=part.dtype, device=part.device)
            dist.recv(into, src=owner)
            tensors[key] = into.cpu()
