"""The benchmark runs, in a tiny form: that it measures is proved here, how fast we are is not."""

import shutil
from pathlib import Path

from libs.eventlog.connection import create_pool
from tests.bench import stream, training
from tests.bench.append import GOALS, measure
from tests.bench.figures import Size, table
from tests.bench.ingest import taken_in
from tests.bench.servers import platform
from tests.support.stack import Database
from tests.support.training import SMALL


async def test_the_append_benchmark_compares_every_figure_with_pgbench(database: Database) -> None:
    figures = await measure(database, Size(rounds=1, share=0.02))

    assert len(figures) == 2 * len(GOALS)
    assert all(figure.ours > 0 and figure.ratio for figure in figures)
    assert table(figures).row_count == len(figures)


def test_the_training_benchmark_measures_a_toy_in_every_way(
    tiny_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    plan = training.Plan(SMALL, rows=6, length=64, held_out=8)
    figures = training.measure(tmp_path, plan)

    grown = [f for f in figures if f.name.startswith(("deeper", "twice as wide"))]
    assert len(grown) == 6
    assert all(figure.met for figure in grown)
    pruned = [f for f in figures if f not in grown]
    assert len(pruned) == 5 * len(training.KEPT) + 4 + 3
    assert all(figure.ours > 1 for figure in pruned)


async def test_the_stream_benchmark_counts_every_point_of_every_client() -> None:
    async with (
        platform(("relay", "telemetry", "gateway")) as running,
        create_pool(running.stack.admin_dsn(), size=2) as admin,
    ):
        watched, _ = await stream.live(running, admin, clients=20, number=20)
        told, bare = await stream.ingest(running, admin, groups=1)
        whole, untold = await taken_in(running, admin, messages=10)
    assert watched.faults == 0
    assert watched.worst_ms >= watched.p99_ms >= watched.p50_ms > 0
    assert min(told, bare, whole, untold) > 0
