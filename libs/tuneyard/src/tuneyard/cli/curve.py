"""A loss curve in characters."""

from collections.abc import Sequence

from tuneyard.cli.story import thinned

MARKS = 2  # a character of braille has two columns
TICKS = 4  # steps that are named below, beside the first


def curve(
    trained: Sequence[tuple[int, float]],
    evaluated: Sequence[tuple[int, float]],
    *,
    width: int,
    height: int,
) -> str:
    """Training's as a line, what is held out as circles; empty without two points of either."""
    import plotext

    if len(trained) < 2 and len(evaluated) < 2:
        return ""
    # The module is the figure: what the last call drew has to go.
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plot_size(width, height)
    if trained:
        steps, losses = zip(*thinned(trained, MARKS * width), strict=True)
        plotext.plot(steps, losses, marker="braille")
    if evaluated:
        steps, losses = zip(*thinned(evaluated, width), strict=True)
        plotext.scatter(steps, losses, marker="o")
    ends = [step for step, _ in (*trained, *evaluated)]
    plotext.xticks(
        sorted({min(ends) + (max(ends) - min(ends)) * n // TICKS for n in range(TICKS + 1)})
    )
    plotext.title("loss" + (" (o: held-out data)" if evaluated else ""))
    drawn: str = plotext.uncolorize(plotext.build())
    return "\n".join(line.rstrip() for line in drawn.splitlines())
