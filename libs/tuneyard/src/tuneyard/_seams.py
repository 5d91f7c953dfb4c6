"""Time and randomness, so that a test can move the one and fix the other."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from uuid import uuid4


@dataclass(frozen=True)
class Seams:
    """``sleep`` None: the client's own way of waiting, which blocks or doesn't. ``monotonic`` in
    seconds; ``random`` from 0 to 1; ``new_key`` makes idempotency keys."""

    sleep: Callable[[float], None] | None = None
    now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)
    monotonic: Callable[[], float] = time.monotonic
    random: Callable[[], float] = random.random
    new_key: Callable[[], str] = lambda: str(uuid4())
