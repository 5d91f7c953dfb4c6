"""Runs a module as a program that ends when its parent does, even when that is killed with -9.

    python -m services.trainer.tied PID MODULE ARGUMENTS...

PID is the parent's. The kernel sends the signal (`prctl(2)`, PR_SET_PDEATHSIG: Linux only), so
that nothing in the program itself can hold it up.
"""

import ctypes
import os
import runpy
import signal
import sys

ORPHANED = 75  # the exit status of a process whose parent is gone; nobody reads it
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def tie(parent: int) -> None:
    """From here on this process dies with its parent. Raises SystemExit if that is gone already,
    and OSError where there is no such thing."""
    if not hasattr(libc := ctypes.CDLL(None, use_errno=True), "prctl"):
        raise OSError("several processes as one run need Linux; use TUNEYARD_LAUNCHER=subprocess")
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        sys.exit(ORPHANED)


def main() -> None:
    _, parent, module, *arguments = sys.argv
    tie(int(parent))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
