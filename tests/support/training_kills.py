"""A training process that is killed at random moments, again and again, until its job is done."""

import random
import time
from collections.abc import Callable
from pathlib import Path

from libs.contracts.training import TrainSpec
from services.trainer import checkpoint
from tests.support.training import ended, start, start_held, steps_done, wait_until

# After the step that was waited for: into the next one, a checkpoint's writing, an evaluation.
MOST_SECONDS_LATER = 0.03
HELD = 2  # steps later at most


def newest_checkpoint(out_dir: Path) -> Path | None:
    """None: a run that was killed so early begins anew."""
    folder = out_dir / "checkpoints"
    found = checkpoint.complete(folder) if folder.exists() else []
    return found[-1] if found else None


def finish_through_kills(
    job: Callable[[Path | None], TrainSpec], kills: int, most_steps: int, dice: random.Random
) -> int:
    """Runs the job to its end, from checkpoint to checkpoint; ``job`` gives its spec to resume from
    one, or to begin. An attempt is killed after up to ``most_steps`` steps, until ``kills`` have
    been. Gives how many were: the job may end before."""
    out_dir = Path(job(None).out_dir)
    for killed in range(kills):
        until = steps_done(out_dir) + dice.randint(1, most_steps)
        process = start_held(job(newest_checkpoint(out_dir)), until + HELD)
        wait_until(lambda: not process.is_alive() or steps_done(out_dir) >= until)  # noqa: B023
        time.sleep(dice.uniform(0, MOST_SECONDS_LATER))
        process.kill()
        process.join()
        if process.exitcode == 0:
            return killed
    assert ended(start(job(newest_checkpoint(out_dir)))) == 0
    return kills
