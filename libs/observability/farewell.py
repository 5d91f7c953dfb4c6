"""What is sent when a process ends, without letting it wait for whoever does not answer.

OpenTelemetry's own farewell tries an unreachable collector for ten seconds, and a supervisor kills
what has not ended after five.
"""

import atexit
from collections.abc import Callable
from threading import Event, Thread

PATIENCE = 1.0  # seconds; a collector that is there needs a tenth of that

_farewells: list[Callable[[], None]] = []


def at_the_end(shut_down: Callable[[], object]) -> None:
    """Have this called, in a thread, when the process ends, which waits for it a second."""
    leaving, gone = Event(), Event()

    def wait() -> None:
        leaving.wait()
        shut_down()
        gone.set()

    # Begun now: when the interpreter ends, no thread can be.
    Thread(target=wait, name="farewell", daemon=True).start()

    def leave() -> None:
        leaving.set()
        gone.wait(PATIENCE)

    _farewells.append(leave)
    atexit.register(leave)


def say_farewell() -> None:
    """For a process that ends without Python's own end."""
    for leave in _farewells:
        leave()
