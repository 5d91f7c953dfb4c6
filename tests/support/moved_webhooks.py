"""The webhooks service as it is, under a clock that a test moves and with less patience.

``python -m tests.support.moved_webhooks``; the file in ``TEST_CLOCK`` holds how far ahead of the
wall the clock is, in seconds, and ``TEST_TIMEOUT`` how long a request may take.
"""

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import uvloop
from msgspec import Struct

from services.webhooks.__main__ import main

LOOK_EVERY = 0.05  # seconds; a request asks for the time several times


class MovedClock(Struct):
    """``ahead`` is what the file said last."""

    file: Path
    ahead: timedelta = timedelta()
    look_at: float = 0.0

    def now(self) -> datetime:
        if time.monotonic() >= self.look_at:
            self.ahead = timedelta(seconds=float(self.file.read_text() or 0))
            self.look_at = time.monotonic() + LOOK_EVERY
        return datetime.now(UTC) + self.ahead

    def move(self, time_: timedelta) -> None:
        """Atomically: a reader finds the old or the new time."""
        self.ahead += time_
        new = self.file.with_suffix(".new")
        new.write_text(str(self.ahead.total_seconds()))
        new.replace(self.file)


if __name__ == "__main__":
    clock = MovedClock(file=Path(os.environ["TEST_CLOCK"]))
    uvloop.run(main(clock.now, float(os.environ["TEST_TIMEOUT"])))
