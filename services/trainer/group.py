"""One machine's processes of a run, under torchrun.

    python -m services.trainer.group SPEC [options] [torchrun's options]

It is torchrun but for three things: a process ends with torchrun, however that ends; torchrun
ends as the process did that failed first, by the same signal; and it may be told to begin only
once. torchrun restarts nothing here: whoever supervises a run resumes it from a checkpoint.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

import torch
from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from services.trainer.once import claim
from services.trainer.parallel import ADDRESS

BEGUN_BEFORE = 73  # the exit status of a run that must not begin a second time


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("spec")
    parser.add_argument("--module", default="services.trainer.train")
    parser.add_argument("--processes", type=int, help="default: one a GPU, or one")
    parser.add_argument("--address", help="of this machine, for gloo")
    parser.add_argument("--output", type=Path, help="takes what is printed on node 0")
    parser.add_argument("--once", type=Path, help="made at the beginning; must not be there")
    own, options = parser.parse_known_args()
    node = os.environ.get("PET_NODE_RANK", "0")  # Kubeflow's way to give torchrun its options
    if own.output and node == "0":
        lead_output(own.output)
    if own.once and not claim(own.once, node):
        print("this attempt has begun before; another one goes on from its checkpoint")
        sys.exit(BEGUN_BEFORE)
    if own.processes or "PET_NPROC_PER_NODE" not in os.environ:
        options += ["--nproc-per-node", str(own.processes or torch.cuda.device_count() or 1)]
    if own.address:
        os.environ[ADDRESS] = own.address
    # As many as the spec says: see train.settle. Unset, torchrun warns about it.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    tied = ["-m", "services.trainer.tied", str(os.getpid()), own.module, own.spec]
    try:
        run.main([*options, *tied])
    except ChildFailedError as error:
        rank, first = error.get_first_failure()
        print(f"process {rank} of the run ended with status {first.exitcode}", file=sys.stderr)
        end_as(first.exitcode)
    except SignalException as error:
        end_as(-error.sigval)


def lead_output(path: Path) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    os.dup2(descriptor, sys.stdout.fileno())
    os.dup2(descriptor, sys.stderr.fileno())
    os.close(descriptor)


def end_as(status: int) -> None:
    """With an exit status, or by the signal that a negative one names."""
    if status < 0:
        sys.stderr.flush()
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


if __name__ == "__main__":
    main()
