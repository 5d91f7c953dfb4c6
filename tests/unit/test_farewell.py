"""What a process sends when it ends: all at once, so that one that hangs holds up no other."""

import subprocess
import sys

import pytest

from deploy.local.program import clean_environment

END_SECONDS = 120  # for Python itself to end on a busy machine

# Python's end calls the last one first: it waits for the other to begin, for less than the process
# waits for either.
TWO = """
from threading import Event
from libs.observability.farewell import PATIENCE, at_the_end
other = Event()
at_the_end(other.set)
at_the_end(lambda: print(other.wait(PATIENCE * 0.8), flush=True))
"""


@pytest.mark.alone  # they are given a second
def test_all_farewells_are_said_at_once() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", TWO],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        timeout=END_SECONDS,
        check=True,
    )
    assert ended.stdout == b"True\n"
