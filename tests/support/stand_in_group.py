"""A program for `services.trainer.group` that needs no torch, and so starts quickly.

    python -m tests.support.stand_in_group SPEC

The data set's text says how it is to go: ``deaf`` (stays, and ignores SIGTERM), ``die`` (its second
process is killed). Each process says in the folder of the run that it is there.
"""

import os
import signal
import sys
import time
from pathlib import Path

import msgspec

from libs.contracts.training import TrainSpec


def main() -> None:
    spec = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=TrainSpec)
    script = Path(spec.dataset_path or "").read_text()
    if script == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    out = Path(spec.out_dir)
    out.mkdir(exist_ok=True)
    rank = os.environ["RANK"]
    (out / f"rank-{rank}").write_text(f"{os.environ['WORLD_SIZE']} {spec.threads}")
    if script == "die" and rank == "1":
        print("the ground opened", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # every test ends it before


def alone(spec: TrainSpec) -> None:
    """What a fork server runs instead."""
    Path(spec.out_dir).with_suffix(".alone").touch()


if __name__ == "__main__":
    main()
