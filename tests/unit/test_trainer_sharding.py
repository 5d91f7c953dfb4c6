"""Which of several processes steps which weight."""

import torch

from services.trainer.sharding import divide, is_mine, master, of_mine


def test_the_work_is_divided_about_evenly_and_every_weight_has_one_owner() -> None:
    weights = {f"w{n}": torch.empty(size, 8) for n, size in enumerate((900, 400, 300, 200, 90, 8))}
    owners = divide(weights, 2)
    assert owners.keys() == weights.keys()
    loads = [sum(weights[n].numel() for n in weights if owners[n] == p) for p in (0, 1)]
    assert max(loads) < 1.1 * min(loads)
    assert divide(dict(reversed(weights.items())), 2) == owners  # whatever their order


def test_one_process_owns_everything() -> None:
    weights = {"a": torch.empty(3)}
    owners = divide(weights, 1)
    assert owners == {}
    assert is_mine("a", owners)
    assert of_mine(weights, owners) == weights


def test_anothers_master_takes_a_gradient_and_no_memory() -> None:
    weight = torch.randn(64, 32, dtype=torch.bfloat16)
    mine, anothers = master("a", weight, {"a": 0}), master("b", weight, {"b": 1})
    assert torch.equal(mine, weight.float())
    assert anothers.untyped_storage().nbytes() == 4
    anothers.grad = torch.ones(64, 32)
    assert torch.nn.utils.clip_grad_norm_([anothers], 1.0) > 1
