"""How numbers, moments and tables look to people."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from tuneyard.cli.exits import REFUSED, CliError

if TYPE_CHECKING:
    from rich.table import Table

UNITS = ("B", "kB", "MB", "GB", "TB")
SHOWN_NAMES = 40  # of what an answer has; a job has fewer, a list may have more
SHORT = (("", 1), ("K", 10**3), ("M", 10**6), ("B", 10**9), ("T", 10**12))


# What would move a terminal's cursor or worse; it comes from data sets and labels, too.
CONTROLS = {n: f"\\x{n:02x}" for n in (*range(0x20), *range(0x7F, 0xA0)) if chr(n) not in "\n\t"}


def plain(text: str) -> str:
    """Without anything that a terminal obeys."""
    return text.translate(CONTROLS)


def field_of(content: bytes, path: str) -> str:
    """What stands in JSON at ``path``: names, and places in lists, with dots between. Texts are
    bare. Raises CliError where there is nothing."""
    found: Any = msgspec.json.decode(content)
    for name in path.split("."):
        inside = _inside(found)
        if name not in inside:
            there = ", ".join(list(inside)[:SHOWN_NAMES]) or "nothing"
            raise CliError(
                f"The answer has no {path}.",
                hint=f"it was done; where {name!r} is looked for, there is: {plain(there)}",
                code="no_field",
                status=REFUSED,
            )
        found = inside[name]
    return plain(found) if isinstance(found, str) else msgspec.json.encode(found).decode()


def _inside(value: Any) -> dict[str, Any]:
    match value:
        case dict():
            return value
        case list():
            return {str(place): of for place, of in enumerate(value)}
    return {}


def money(cents: int, currency: str) -> str:
    sign = "-" if cents < 0 else ""
    return f"{sign}{abs(cents) // 100:,}.{abs(cents) % 100:02d} {currency.upper()}"


def moment(at: datetime | None) -> str:
    """In the zone of whoever reads it."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M") if at else "-"


def size(count: float) -> str:
    for unit in UNITS:
        if count < 1000 or unit == UNITS[-1]:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def short(count: int) -> str:
    """Three figures: 1.54B."""
    name, unit = next((each for each in reversed(SHORT) if abs(count) >= each[1]), SHORT[0])
    return f"{count / unit:.3g}{name}" if unit > 1 else str(count)


def lasting(seconds: float) -> str:
    """As 1:02:03 or 2:03."""
    whole = str(timedelta(seconds=max(0, round(seconds))))
    return whole[2:] if whole.startswith("0:0") else whole.removeprefix("0:")


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], *, right: str = "") -> "Table":
    """``right``: the heads of the columns of numbers, with spaces between."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for head in heads:
        to = "right" if head in right.split() else "left"
        made.add_column(head, justify=to, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        made.add_row(*(Text("-" if each is None else plain(str(each))) for each in row))
    return made


def pairs(rows: Iterable[tuple[str, object]]) -> "Table":
    """Names and what they are; what is None isn't said."""
    from rich.table import Table
    from rich.text import Text

    made = Table.grid(padding=(0, 2))
    made.add_column(style="dim")
    made.add_column(overflow="fold")
    for name, of in rows:
        if of is not None:
            made.add_row(name, Text(plain(str(of))))
    return made
