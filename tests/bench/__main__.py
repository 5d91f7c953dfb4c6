"""Measure against the baselines in one run: ``just bench [--quick] [append] [reads] ...``."""

import asyncio
import importlib
import os
import sys
import time
from typing import Annotated, Literal, get_args

from cyclopts import App, Parameter
from rich.console import Console

from tests.bench.figures import QUICK, Figure, Size, table

Name = Literal[
    "append",
    "reads",
    "submit",
    "tracing",
    "stream",
    "webhooks",
    "cold",
    "growth",
    "jobs",
    "capacity",
    "finetune",
]
ALL: tuple[Name, ...] = get_args(Name)

app = App(name="just bench", help=__doc__, version_flags=[])


async def measure(names: tuple[Name, ...], size: Size) -> list[Figure]:
    figures: list[Figure] = []
    for name in names:
        print(f"measuring {name}", file=sys.stderr, flush=True)
        figures += await importlib.import_module(f"tests.bench.{name}").bench(size)
    return figures


@app.default
def bench(
    *names: Annotated[Name, Parameter(help="Which of them; all unless named.")],
    quick: Annotated[bool, Parameter(help="One round, with a quarter of the work.")] = False,
) -> None:
    """Print ours, the baseline, the ratio and the goal of every figure."""
    began, busy = time.monotonic(), os.getloadavg()[0]
    figures = asyncio.run(measure(names or ALL, QUICK if quick else Size()))
    console = Console(width=120)
    console.print(table(figures))
    console.print(
        f"\n{os.cpu_count()} cores, {busy:.1f} processes waiting for them before the run; "
        f"{time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    app()
