"""Several processes as one run, started by torchrun: each computes its share of a step's rows, and
all take the same step.

    torchrun --nproc-per-node 2 -m services.trainer.train spec.json

The process group comes from torchrun's environment: NCCL on CUDA, gloo on CPU. Every process holds
the whole model and optimizer, and reads the same rows in the same order; what differs is the share
of the gradient that it computes. The first alone writes anything. Outside of a group all of this
is the identity.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroupGloo

from services.trainer.packing import Packable

Row = TypeVar("Row", bound=Packable)

# Large enough that a message's latency does not count, small enough to be copied twice.
BUCKET_BYTES = 64 << 20

ADDRESS = "TUNEYARD_NODE_ADDRESS"
"""The variable with this machine's address, for gloo; which else takes what the host's name
resolves to, and that is often loopback."""

GLOO_AT = "gloo_at"


def join(device: str, environment: Mapping[str, str]) -> None:
    """Enters the group that torchrun has described, if it has."""
    if int(environment.get("WORLD_SIZE", "1")) == 1:
        return
    on_cuda = device != "cpu" and torch.cuda.is_available()
    if on_cuda:
        # "cuda" is from here on this process's own card.
        torch.cuda.set_device(int(environment["LOCAL_RANK"]))
    if not on_cuda and (address := environment.get(ADDRESS)):
        listen_at(address)
        dist.init_process_group(GLOO_AT)
    else:
        dist.init_process_group("nccl" if on_cuda else "gloo")


def listen_at(address: str) -> None:
    """Lets gloo be found at this address: torch itself knows interfaces only."""

    gloo: Any = ProcessGroupGloo  # its stub has other names than it has

    def make(store: Any, rank: int, size: int, timeout: timedelta) -> Any:
        options = gloo._Options()
        options._devices = [gloo.create_device(hostname=address)]
        options._timeout = timeout
        return gloo(store, rank, size, options)

    dist.Backend.register_backend(GLOO_AT, make, devices=["cpu"])


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process is the one that tells and writes."""
    return rank() == 0


def share(rows: Sequence[Row], number: int, count: int) -> list[Row]:
    """The rows of process ``number`` of ``count``: about as many tokens as any other's.

    The longest go first, each to whoever has least; every process comes to the same cut.
    """
    if count == 1:
        return list(rows)
    loads = [(0, process) for process in range(count)]
    mine: list[int] = []
    for index in sorted(range(len(rows)), key=lambda i: (-rows[i].size, i)):
        load, process = heapq.heappop(loads)
        if process == number:
            mine.append(index)
        heapq.heappush(loads, (load + rows[index].size, process))
    return [rows[index] for index in sorted(mine)]


def my_share(rows: Sequence[Row]) -> list[Row]:
    return share(rows, rank(), size())


def anyone(mine: bool) -> bool:
    """Whether it is so for any process; all of them must ask."""
    if size() == 1:
        return mine
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    flag = torch.tensor(int(mine), device=device)
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag.item())


def as_first(mine: float) -> float:
    """What the first process says; all of them must ask. For what is decided by: the same sum, on
    another card, may differ in its last bit."""
    if size() == 1:
        return mine
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    said = torch.tensor(mine, dtype=torch.float64, device=device)
    dist.broadcast(said, src=0)
    return float(said.item())


def add_up(params: Iterable[torch.nn.Parameter], total: Tensor) -> None:
    """Every process gets the sum of all gradients, and of ``total``; once a step, in buckets.

    A parameter without a gradient counts as zero: a process may have had no row.
    """
    if size() == 1:
        return
    dist.all_reduce(total)
    bucket: list[Tensor] = []
    filled = 0
    for param in params:
        if param.grad is None:
            param.grad = torch.zeros_like(param)
        bucket.append(param.grad)
        filled += param.grad.nbytes
        if filled >= BUCKET_BYTES:
            _all_reduce(bucket)
            bucket, filled = [], 0
    if bucket:
        _all_reduce(bucket)


def _all_reduce(bucket: list[Tensor]) -> None:
    flat = torch.cat([grad.flatten() for grad in bucket])
    dist.all_reduce(flat)
    parts = torch.split(flat, [grad.numel() for grad in bucket])
    for grad, part in zip(bucket, parts, strict=True):
        grad.copy_(part.view_as(grad))
