"""Whether a run's program has begun, on machines that only share the run's folder.

The API of Kubernetes tells what it is told late, or not at all: a run may begin, and have to make
room, between two looks at it. These files stay.
"""

from pathlib import Path

AGAIN = ".again"


def claim(once: Path, node: str) -> bool:
    """Whether this is the first program to begin on this node; if not, that is noted as well."""
    first = once.with_name(f"{once.name}-{node}")
    try:
        first.touch(exist_ok=False)
    except FileExistsError:
        first.with_name(first.name + AGAIN).touch()
        return False
    return True


def has_begun(once: Path) -> bool:
    return any(once.parent.glob(f"{once.name}-*"))


def was_to_begin_again(once: Path) -> bool:
    return any(once.parent.glob(f"{once.name}-*{AGAIN}"))
