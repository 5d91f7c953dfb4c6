"""``tuneyard``, or ``python -m tuneyard``: the one place with the real clock and terminal."""

import os
import sys
import time
from datetime import datetime, timezone

from tuneyard.cli.context import World
from tuneyard.cli.entry import run


def main() -> None:
    world = World(
        environ=os.environ,
        stdin=sys.stdin,
        stdout=sys.stdout,
        stderr=sys.stderr,
        now=lambda: datetime.now(timezone.utc),
        monotonic=time.monotonic,
        sleep=time.sleep,
    )
    sys.exit(run(sys.argv[1:], world))


if __name__ == "__main__":
    main()
