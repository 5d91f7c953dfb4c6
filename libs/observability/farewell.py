"""What is sent when a process ends, without letting it wait for whoever does not answer.

OpenTelemetry's own farewell tries an unreachable collector for ten seconds, and a supervisor kills
what has not ended after five.
"""

import atexit
from collections.abc import Callable
from threading import Event, Thread
from time import monotonic

PATIENCE = 1.0  # seconds; a collector that is there needs a tenth of that

_farewells: list[tuple[Event, Event]] = []  # (to be said, was said)


def at_the_end(shut_down: Callable[[], object]) -> None:
    """Have this called, in a thread, when the process ends, which waits a second for them all."""
    leaving, gone = Event(), Event()

    def wait() -> None:
        leaving.wait()
        shut_down()
        gone.set()

    # Begun now: when the interpreter ends, no thread can be.
    Thread(target=wait, name="farewell", daemon=True).start()

    if not _farewells:
        atexit.register(say_farewell)
    _farewells.append((leaving, gone))


def say_farewell() -> None:
    """Python's own end calls it; a process that ends without that has to."""
    for leaving, _ in _farewells:
        leaving.set()
    until = monotonic() + PATIENCE
    for _, gone in _farewells:
        gone.wait(max(0.0, until - monotonic()))
