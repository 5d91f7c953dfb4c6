"""A job's live screen, drawn by rich: lines are painted over, nothing is ever cleared."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from math import ceil
from threading import Lock
from typing import TYPE_CHECKING

from tuneyard.cli.curve import curve
from tuneyard.cli.story import Story
from tuneyard.cli.text import lasting, plain
from tuneyard.types import StreamEvent

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PER_SECOND = 4  # often enough for a clock, and nothing that a slow line can't carry
MOST_COLUMNS = 100  # a wider curve shows nothing more
CURVE_LINES = (8, 14)
FIXED_LINES = 5  # the head, the bar, the notice, and a line of air
TAIL_LINES = 8
COLOURS = {
    "queued": "yellow",
    "running": "cyan",
    "completed": "green",
    "failed": "red",
    "cancelled": "magenta",
}


def away(seconds: float) -> str:
    return f"the platform does not answer; trying again in {ceil(seconds)} s"


class Screen:
    """``take`` what the stream says; ``away`` says for how many seconds nothing is tried."""

    def __init__(self, console: "Console", now: Callable[[], datetime], job_id: str) -> None:
        self.story = Story()
        self._console, self._now, self._job_id = console, now, job_id
        # The painter is another thread than the reader.
        self._lock = Lock()
        self._notice = ""
        self._drawn: tuple[int, int, int, str] = (0, 0, 0, "")

    @contextmanager
    def live(self) -> Iterator[None]:
        from rich.live import Live

        with Live(
            console=self._console,
            get_renderable=self.frame,
            refresh_per_second=PER_SECOND,
            vertical_overflow="crop",
            redirect_stdout=False,
            redirect_stderr=False,
        ):
            yield

    def take(self, event: StreamEvent) -> None:
        with self._lock:
            self.story.take(event)

    def away(self, seconds: float) -> None:
        self._notice = away(seconds)

    def back(self) -> None:
        self._notice = ""

    def frame(self) -> "RenderableType":
        from rich.console import Group
        from rich.text import Text

        width, height = min(self._console.width, MOST_COLUMNS), self._console.height
        with self._lock:
            parts: list[RenderableType] = [self._head(), self._bar(width)]
            least, most = CURVE_LINES
            room = height - FIXED_LINES - TAIL_LINES
            if room >= least:
                parts.append(Text(self._curve(width, min(room, most)), no_wrap=True))
            room = min(TAIL_LINES, max(0, height - FIXED_LINES))
            for line in list(self.story.lines)[-room:] if room else []:
                shown = Text(plain(line.text), style="dim", no_wrap=True, overflow="ellipsis")
                parts.append(shown)
        if self._notice:
            parts.append(Text(self._notice, style="bold yellow"))
        return Group(*parts)

    def _head(self) -> "RenderableType":
        from rich.text import Text

        job, latest = self.story.job, self.story.latest
        status = job.status if job else "waiting for the platform"
        head = Text(no_wrap=True, overflow="ellipsis")
        head.append(status, style=f"bold {COLOURS.get(status, 'yellow')}")
        if job is not None:
            if job.status == "running" and latest is not None:
                head.append(f" ({latest.phase})")
            head.append(f"  {job.type} of {job.base_model.slug}")
            if job.label:
                head.append(f"  {plain(job.label)}")
            if job.retries:
                head.append(f"  taken up again {job.retries} times")
        head.append(f"  {self._job_id}", style="dim")
        return head

    def _bar(self, width: int) -> "RenderableType":
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        job, latest = self.story.job, self.story.latest
        total = job.steps_total if job else 0
        done = total if job and job.status == "completed" else self.story.step()
        said = f"step {done}/{total}" if total else "step 0"
        if latest is not None:
            said += f"  loss {latest.loss:.4g}  {latest.throughput:,.0f} tok/s"
        left = self.story.remaining(self._now())
        if left is not None:
            said += f"  ETA {lasting(left.total_seconds())}"
        made = Table.grid(padding=(0, 1))
        made.add_row(
            ProgressBar(total=max(1, total), completed=done, width=max(10, width // 3)), Text(said)
        )
        return made

    def _curve(self, width: int, height: int) -> str:
        """Drawn anew when there is something new to draw."""
        points = len(self.story.points)
        latest = self.story.step()
        if self._drawn[:3] != (points + latest, width, height):
            trained = self.story.losses(evaluated=False)
            drawn = curve(trained, self.story.losses(evaluated=True), width=width, height=height)
            self._drawn = (points + latest, width, height, drawn)
        return self._drawn[3]
