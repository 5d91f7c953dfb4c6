"""What a trainer and the agents of other machines tell each other, in a folder that all see.

Each agent has a folder named after its address: ``here.json``, which it writes, and ``call.json``,
which the trainer writes. Every file is replaced whole. Both carry a count that goes on while its
writer lives; whoever reads it goes by his own clock, so nobody's clocks need agree.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

BEAT_SECONDS = 1.0
# Also what a shared file system may keep from a reader: NFS caches a folder for up to 60 s, a file
# that is opened anew for none; and a pause of the machine must end no run of hours.
LOST_SECONDS = 30.0

T = TypeVar("T", bound=Struct)


class Call(Struct, frozen=True, kw_only=True):
    """Join a launch: as node ``rank`` of ``nodes``, meeting at ``endpoint``."""

    beat: int
    launch: str
    rank: int
    nodes: int
    endpoint: str
    spec: str
    processes: int | None


class Here(Struct, frozen=True, kw_only=True):
    """An agent that lives. ``launch`` is what it has joined last; ``status`` how that ended."""

    beat: int
    launch: str | None = None
    status: int | None = None

    @property
    def is_free(self) -> bool:
        return self.launch is None or self.status is not None


class Pulse:
    """Whether somebody's count goes on. What stands there at first may be a dead one's."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._since = monotonic()
        self._last: tuple[str, int] | None = None
        self._moves = False

    def look(self, who: str, count: int) -> "Pulse":
        if self._last is not None and self._last != (who, count):
            self._since = self._monotonic()
            self._moves = True
        self._last = (who, count)
        return self

    @property
    def is_lost(self) -> bool:
        """Nothing has moved for long."""
        return self._monotonic() - self._since > LOST_SECONDS

    @property
    def beats(self) -> bool:
        return self._moves and not self.is_lost


def calls_of(work_dir: Path) -> Path:
    return work_dir / "nodes"


def rendezvous(call: Call) -> list[str]:
    """torchrun's options. Ranks are given, as whoever tells must be where the trainer is."""
    return [
        *("--nnodes", str(call.nodes), "--node-rank", str(call.rank)),
        *("--rdzv-backend", "static", "--rdzv-id", call.launch),
        *("--rdzv-endpoint", call.endpoint),
    ]


def read(path: Path, kind: type[T]) -> T | None:
    """None where there is no such file, or one of another version."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
