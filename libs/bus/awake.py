"""Whether a question may be an old one: a process that was frozen finds what was sent to it
meanwhile, long after whoever asked has gone to another replica.

Handled then, it would undo what was changed since. No clock of two machines is compared: the event
loop knows how long it did not turn.
"""

import asyncio
from weakref import WeakKeyDictionary

TICK = 0.5  # seconds between two looks
CATCH_UP = 0.5
"""Seconds after a stall in which what had been sent before is read and refused."""


class Awake:
    """Of one event loop, which did not turn for longer than ``patience`` seconds at its stalls."""

    def __init__(self, loop: asyncio.AbstractEventLoop, patience: float) -> None:
        self._loop = loop
        self._patience = patience
        self._doubtful_until = 0.0
        self._look()

    def may_be_late(self) -> bool:
        """Whether what is handled now may have been sent before a stall."""
        self._notice()
        return self._loop.time() < self._doubtful_until

    def _look(self) -> None:
        self._loop.call_later(TICK, self._tick)
        self._seen = self._loop.time()

    def _tick(self) -> None:
        self._notice()
        self._look()

    def _notice(self) -> None:
        now = self._loop.time()
        if now - self._seen > self._patience:
            self._doubtful_until = now + CATCH_UP


_known: WeakKeyDictionary[asyncio.AbstractEventLoop, Awake] = WeakKeyDictionary()


def awake(patience: float) -> Awake:
    """Of the running loop, watched from the first call on."""
    loop = asyncio.get_running_loop()
    if loop not in _known:
        _known[loop] = Awake(loop, patience)
    return _known[loop]
