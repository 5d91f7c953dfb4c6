"""What a process sends when it ends: all at once, so that one that hangs holds up no other."""

import subprocess
import sys

import pytest

from deploy.local.program import clean_environment

END_SECONDS = 120  # for Python itself to end on a busy machine
TRIES = 3  # such a machine may take longer to begin with the other one, but not every time

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
    said = [met()]
    while b"True\n" not in said and len(said) < TRIES:
        said.append(met())
    assert said[-1] == b"True\n"


def met() -> bytes:
    return subprocess.run(
        [sys.executable, "-c", TWO],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        timeout=END_SECONDS,
        check=True,
    ).stdout
