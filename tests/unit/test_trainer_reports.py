"""How a run's end is judged: what somebody else wanted, and what it did to itself."""

import signal

import pytest

from services.trainer.reports import was_told_to_end
from services.trainer.tail import RunStatus

STOPPED = RunStatus(outcome="stopped")
FELL = RunStatus(
    outcome="failed", code="internal_error", message="a peer has closed the connection"
)
DIVERGED = RunStatus(outcome="failed", code="training_diverged", message="the loss is no number")


@pytest.mark.parametrize(
    ("status", "exit_status", "told"),
    [
        (STOPPED, 0, True),
        (STOPPED, 1, True),  # torchrun's own, when its processes have stopped well
        (None, -signal.SIGTERM, True),
        (FELL, -signal.SIGTERM, True),  # the others' machine was taken first
        (DIVERGED, -signal.SIGTERM, False),
        (FELL, 1, False),
        (None, -signal.SIGKILL, False),
        (None, 1, False),
    ],
)
def test_a_run_was_told_to_end_if_it_says_so_or_its_signal_does(
    status: RunStatus | None, exit_status: int, told: bool
) -> None:
    assert was_told_to_end(status, exit_status) is told
