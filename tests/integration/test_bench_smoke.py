"""The benchmark runs, in a tiny form: that it measures is proved here, how fast we are is not."""

import shutil
from pathlib import Path

from libs.eventlog.connection import create_pool
from tests.bench import jobs, stream, training
from tests.bench.append import GOALS, measure
from tests.bench.figures import Size, table
from tests.bench.ingest import taken_in
from tests.bench.servers import platform
from tests.bench.through import Load
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


async def test_a_small_load_goes_through_the_whole_platform_and_leaves_everything_right() -> None:
    load = Load(rate=10.0, seconds=3.0, accounts=4, trainers=8)
    told, waits = await jobs.run(load)  # it raises when a state is wrong
    assert told.arrived.accepted == told.ended.finished == len(waits.to_lease) == load.jobs
    assert told.ended.lost == 0
    assert all(
        completed > leased > 0
        for leased, completed in zip(waits.to_lease, waits.to_completed, strict=True)
    )
    assert {"gateway", "scheduler", "postgres"} <= told.gauges.keys()
    assert all(gauge.memory[-1] > 0 for gauge in told.gauges.values())
    assert table(jobs.figures(load, told, waits)).row_count > len(told.gauges)
