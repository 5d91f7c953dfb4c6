"""A checkpoint holds what was there when it was asked for, whatever training does meanwhile."""

from pathlib import Path

import torch
from torch import Tensor

from services.trainer.checkpoint import (
    Checkpoints,
    Identity,
    Progress,
    optimizer_tensors,
    read,
)

IDENTITY = Identity(params=None, dataset_sha256="", model_sha256="", dtype="float32")


def saved(root: Path, step: int) -> dict[str, Tensor]:
    tensors, progress = read(root / f"step-{step}", IDENTITY)
    assert progress.step == step
    return tensors


def test_steps_taken_while_a_checkpoint_is_copied_are_not_in_it(tmp_path: Path) -> None:
    """Large enough that an unguarded copy would still be under way when the step is taken."""
    torch.manual_seed(1)
    params = {"w": torch.nn.Parameter(torch.randn(8 << 20)), "b": torch.nn.Parameter(torch.ones(3))}
    optimizer = torch.optim.AdamW(params.values(), lr=0.1, fused=True)
    checkpoints = Checkpoints(tmp_path, lambda step: None, fresh=True)
    expected: dict[int, dict[str, Tensor]] = {}
    for step in range(1, 4):
        for param in params.values():
            param.grad = torch.randn_like(param)
        optimizer.step()
        tensors = optimizer_tensors(params, optimizer)
        expected[step] = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        checkpoints.save(tensors, Progress(identity=IDENTITY, step=step), optimizer)
    optimizer.step()
    checkpoints.close()
    for step in (2, 3):  # the first is no longer kept
        found = saved(tmp_path, step)
        assert found.keys() == expected[step].keys()
        assert all(torch.equal(found[name], expected[step][name]) for name in found)
    assert not optimizer._optimizer_step_pre_hooks, "a step waits once"


def test_the_same_memory_is_copied_into_each_time(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, lambda step: None, fresh=True)
    strided = torch.arange(6.0).view(2, 3).t()
    checkpoints.save({"a": strided}, Progress(identity=IDENTITY, step=1))
    first = checkpoints.staging["a"].data_ptr()
    checkpoints.save({"a": strided + 1}, Progress(identity=IDENTITY, step=2))
    assert checkpoints.staging["a"].data_ptr() == first
    checkpoints.save({"a": torch.zeros(5)}, Progress(identity=IDENTITY, step=3))
    checkpoints.close()
    assert torch.equal(saved(tmp_path, 2)["a"], strided + 1)
    assert torch.equal(saved(tmp_path, 3)["a"], torch.zeros(5))
