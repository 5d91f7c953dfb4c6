"""The load of whole jobs, in a tiny form: that every state is right in the end is proved here."""

from tests.bench import jobs
from tests.bench.figures import table
from tests.bench.through import Load


async def test_a_small_load_goes_through_the_whole_platform_and_leaves_everything_right() -> None:
    load = Load(rate=10.0, seconds=3.0, accounts=4, trainers=8)
    told, waits = await jobs.run(load)  # it raises when a state is wrong
    assert told.arrived.accepted == told.ended.finished == len(waits.to_lease) == load.jobs
    assert all(
        completed > leased > 0
        for leased, completed in zip(waits.to_lease, waits.to_completed, strict=True)
    )
    assert {"gateway", "scheduler", "postgres"} <= told.gauges.keys()
    assert all(gauge.memory[-1] > 0 for gauge in told.gauges.values())
    assert table(jobs.figures(load, told, waits)).row_count > len(told.gauges)
