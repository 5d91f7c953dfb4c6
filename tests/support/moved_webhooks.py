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

TOLERANCE = timedelta(minutes=5)  # the reference library's
SEEN_WITHIN = 30.0  # seconds; a request may have been on its way
LOOK_EVERY = 0.05  # seconds; a request asks for the time several times


class MovedClock(Struct):
    """``ahead`` is what the file said last, ``before`` what it said before it was moved here."""

    file: Path
    ahead: timedelta = timedelta()
    look_at: float = 0.0
    before: timedelta = timedelta()
    moved_at: float = 0.0

    def now(self) -> datetime:
        if time.monotonic() >= self.look_at:
            self.ahead = timedelta(seconds=float(self.file.read_text() or 0))
            self.look_at = time.monotonic() + LOOK_EVERY
        return datetime.now(UTC) + self.ahead

    def move(self, time_: timedelta) -> None:
        """Atomically: a reader finds the old or the new time."""
        self.before, self.moved_at = self.ahead, time.monotonic()
        self.ahead += time_
        new = self.file.with_suffix(".new")
        new.write_text(str(self.ahead.total_seconds()))
        new.replace(self.file)

    def fresh(self, sent: datetime) -> bool:
        """Whether it was sent just now; also by who has not seen yet that time was moved."""
        wall = datetime.now(UTC)
        late = time.monotonic() - self.moved_at < SEEN_WITHIN
        aheads = (self.ahead, self.before) if late else (self.ahead,)
        return any(abs(sent - wall - ahead) < TOLERANCE for ahead in aheads)


if __name__ == "__main__":
    clock = MovedClock(file=Path(os.environ["TEST_CLOCK"]))
    uvloop.run(main(clock.now, float(os.environ["TEST_TIMEOUT"])))
