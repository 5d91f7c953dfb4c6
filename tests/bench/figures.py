"""What a benchmark says: one figure beside its baseline and its goal, and the table of all."""

from collections.abc import Sequence
from statistics import median

from msgspec import Struct
from rich.table import Table


class Figure(Struct, frozen=True, kw_only=True):
    """``ratio`` says how many times better than the baseline ours is; None where there is none.

    ``met`` is None for a figure without a goal.
    """

    name: str
    ours: float
    unit: str
    baseline: float | None = None
    baseline_name: str = ""
    ratio: float | None = None
    goal: str = ""
    met: bool | None = None


class Size(Struct, frozen=True, kw_only=True):
    """How long to measure: interleaved rounds, and the part of the full work done in each."""

    rounds: int = 3
    share: float = 1.0

    def of(self, amount: int) -> int:
        return max(1, round(amount * self.share))


QUICK = Size(rounds=1, share=0.25)


Rounds = Sequence[tuple[float, float]]
"""(ours, baseline) a round. The two ran beside each other, so the median of the rounds' ratios is
what a busy machine disturbs least."""


def faster(
    name: str, unit: str, rounds: Rounds, *, than: str, at_least: float | None = None
) -> Figure:
    """Rates: the ratio is ours over the baseline's."""
    ratio = median(ours / theirs for ours, theirs in rounds)
    return Figure(
        name=name,
        unit=unit,
        ours=median(ours for ours, _ in rounds),
        baseline=median(theirs for _, theirs in rounds),
        baseline_name=than,
        ratio=ratio,
        goal="" if at_least is None else f">= {at_least:g}x",
        met=None if at_least is None else ratio >= at_least,
    )


def sooner(
    name: str,
    unit: str,
    rounds: Rounds,
    *,
    than: str,
    below: float | None = None,
    at_least: float | None = None,
) -> Figure:
    """Durations: the ratio is the baseline's over ours; the goal is a limit to ours, or to it."""
    value = median(ours for ours, _ in rounds)
    ratio = median(theirs / ours for ours, theirs in rounds)
    goal, met = "", None
    if below is not None:
        goal, met = f"< {below:g} {unit}", value < below
    elif at_least is not None:
        goal, met = f">= {at_least:g}x", ratio >= at_least
    return Figure(
        name=name,
        unit=unit,
        ours=value,
        baseline=median(theirs for _, theirs in rounds),
        baseline_name=than,
        ratio=ratio,
        goal=goal,
        met=met,
    )


def absolute(
    name: str,
    unit: str,
    rounds: Sequence[float],
    *,
    below: float | None = None,
    at_least: float | None = None,
) -> Figure:
    """A figure without a baseline: the median of the rounds, against a limit or against nothing."""
    value = median(rounds)
    goal, met = "", None
    if below is not None:
        goal, met = f"< {below:g} {unit}", value < below
    elif at_least is not None:
        goal, met = f">= {at_least:g}", value >= at_least
    return Figure(name=name, unit=unit, ours=value, goal=goal, met=met)


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that ``percent`` % of ``values`` do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def table(figures: Sequence[Figure]) -> Table:
    shown = Table(box=None, pad_edge=False)
    for heading in ("figure", "ours", "baseline", "ratio", "goal", "met"):
        shown.add_column(heading, justify="left" if heading == "figure" else "right")
    for figure in figures:
        shown.add_row(
            figure.name,
            f"{_number(figure.ours)} {figure.unit}",
            "" if figure.baseline is None else f"{figure.baseline_name} {_number(figure.baseline)}",
            "" if figure.ratio is None else f"{figure.ratio:.2f}x",
            figure.goal,
            {True: "yes", False: "NO", None: ""}[figure.met],
        )
    return shown


def _number(value: float) -> str:
    if 0 < value < 0.005:
        return f"{value:.1e}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
