"""How far behind a process's event loop is: what a request meets before anybody looks at it."""

import asyncio

from libs.observability.metrics import LOOP_LAG

INTERVAL = 0.5  # seconds; often enough to meet what blocks, and no work


def watch_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Measure for as long as the loop runs."""
    due = loop.time() + INTERVAL

    def back() -> None:
        nonlocal due
        LOOP_LAG.record(max(loop.time() - due, 0.0))
        due = loop.time() + INTERVAL
        loop.call_at(due, back)

    loop.call_at(due, back)
