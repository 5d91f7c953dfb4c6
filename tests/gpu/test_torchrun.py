"""torchrun on the card. NCCL gives a card to one process only, so here one process is the group."""

import subprocess
import sys
from pathlib import Path

import msgspec
from msgspec.structs import replace

from tests.gpu import CARD
from tests.support.training import curve, spec, status, train


def test_one_process_under_torchrun_is_the_run_without_it(
    tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    alone, grouped = (
        replace(spec(tiny_model, dataset, tmp_path / where, steps=6), device=CARD.type)
        for where in ("alone", "grouped")
    )
    assert train(alone) == 0
    (tmp_path / "spec.json").write_bytes(msgspec.json.encode(grouped))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "-m", "services.trainer.train", str(tmp_path / "spec.json")],
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert status(tmp_path / "grouped").outcome == "finished"
    assert curve(tmp_path / "grouped") == curve(tmp_path / "alone")


NCCL = """
import os, torch, torch.distributed as dist
from services.trainer import parallel, sharding
torch.cuda.set_device(0)
dist.init_process_group("nccl", rank=0, world_size=1, store=dist.HashStore())
flag = torch.tensor(1, device="cuda")
dist.all_reduce(flag, dist.ReduceOp.MAX)
parallel._all_reduce([torch.ones(3, device="cuda"), torch.ones(2, 2, device="cuda")])
weight = torch.ones(4, device="cuda", dtype=torch.bfloat16)
sharding.spread({"w": weight}, {"w": 0})
parallel.leave()
print("met", int(flag), float(weight.sum()))
"""


def test_nccl_takes_what_a_group_sends() -> None:
    done = subprocess.run([sys.executable, "-c", NCCL], capture_output=True, text=True, timeout=120)
    assert "met 1 4.0" in done.stdout, done.stderr
