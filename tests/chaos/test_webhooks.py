"""Webhooks at full size: fifty endpoints, most of them bad in their own way, and kills."""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import quantiles

from tests.support.receiver import Endpoint, always
from tests.support.stack import Database, Nats, Servers
from tests.support.webhook_crowd import (
    KINDS,
    Member,
    Place,
    assert_all_arrived,
    crowd,
    failing_days_pass,
    survive,
    webhook_place,
)

EVENTS = 10_000
KILLS = {
    0.1: "webhooks",
    0.25: "nats",
    0.4: "webhooks",
    0.55: "nats",
    0.7: "webhooks",
}
"""What is killed when so much of everything has arrived."""

PATIENCE = 1_800.0  # seconds for half a million deliveries; an idle machine takes some minutes
PACED, EVERY = 200, 0.05  # events, seconds between them
HANGING = 10
SLOWER = 10  # times the 99th percentile alone; if they held it up, it would be hundreds


async def test_ten_thousand_events_reach_all_of_fifty_endpoints_that_ever_accept(
    servers: Servers, nats_server: Nats, fresh_database: Database, tmp_path: Path
) -> None:
    began = time.monotonic()
    async with (
        asyncio.timeout(PATIENCE),
        webhook_place(servers, nats_server, fresh_database, tmp_path, timeout=5.0) as place,
    ):
        members = await crowd(place, {kind: count for kind, (count, _) in KINDS.items()})
        ids = await survive(place, members, EVENTS, KILLS)
        arrived = time.monotonic()
        await failing_days_pass(place, members)
        await assert_all_arrived(place, members, ids)
    requests = sum(member.endpoint.count for member in members)
    accepted = sum(member.endpoint.accepted.total() for member in members)
    needed = sum(len(member.endpoint.accepted) for member in members)
    print(
        f"\n{needed} deliveries in {arrived - began:.0f} s ({needed / (arrived - began):.0f}/s),"
        f" {requests} requests, {accepted - needed} accepted more than once"
    )


async def test_a_healthy_endpoint_is_told_as_soon_while_ten_others_hang(
    servers: Servers, nats_server: Nats, fresh_database: Database, tmp_path: Path
) -> None:
    async with (
        asyncio.timeout(180),
        webhook_place(servers, nats_server, fresh_database, tmp_path, timeout=15.0) as place,
    ):
        healthy = (await place.join("/healthy", "healthy", always())).endpoint
        await place.start("relay")
        await place.start("webhooks")
        await _all_accepted(healthy.accepted, await place.append(1))
        alone = await _paced(place, healthy)
        for n in range(HANGING):
            await place.join(f"/hangs/{n}", "always hangs", always(ends="never"))
        together = await _paced(place, healthy)
    for name, took in (("alone", alone), ("while ten hang", together)):
        print(
            f"\nfrom append to arrival, {name}: p50 {quantiles(took, n=100)[49] * 1_000:.0f} ms,"
            f" p99 {quantiles(took, n=100)[98] * 1_000:.0f} ms"
        )
    assert quantiles(together, n=100)[98] < SLOWER * quantiles(alone, n=100)[98]


async def _paced(place: Place, healthy: Endpoint) -> list[float]:
    """Seconds from before an append to its arrival, of many events one after another."""
    loop, appended = asyncio.get_running_loop(), dict[str, float]()
    for _ in range(PACED):
        at = loop.time()
        (id_,) = await place.append(1)
        appended[id_] = at
        await place.nudge()
        await asyncio.sleep(EVERY)
    await _all_accepted(healthy.accepted, list(appended))
    return [healthy.arrived[id_] - at for id_, at in appended.items()]


async def test_two_replicas_send_once_each_and_one_that_is_killed_loses_nothing(
    servers: Servers, nats_server: Nats, fresh_database: Database, tmp_path: Path
) -> None:
    async with (
        asyncio.timeout(300),
        webhook_place(servers, nats_server, fresh_database, tmp_path, timeout=5.0) as place,
    ):
        members = await crowd(place, {"healthy": 10})
        for name in ("relay", "webhooks-1", "webhooks-2"):
            await place.start(name)
        first = await place.append(500)
        for member in members:
            await _all_accepted(member.endpoint.accepted, first)
        assert sum(member.endpoint.count for member in members) == 500 * len(members)

        second = asyncio.create_task(place.append(500))
        while sum(member.endpoint.count for member in members) < 700 * len(members):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        place.processes["webhooks-2"].kill()
        await place.processes["webhooks-2"].wait()
        ids = await second
        await _in_the_end(place, members, ids)


async def _all_accepted(accepted: Mapping[str, int], ids: list[str]) -> None:
    while not all(id_ in accepted for id_ in ids):  # noqa: ASYNC110
        await asyncio.sleep(0.05)


async def _in_the_end(place: Place, members: list[Member], ids: list[str]) -> None:
    """With time moved behind what the dead one had claimed, once nothing comes by itself."""
    requests = -1
    while not all(id_ in member.endpoint.accepted for member in members for id_ in ids):
        count = sum(member.endpoint.count for member in members)
        if count == requests:
            await place.skip(members)
        requests = count
        await asyncio.sleep(2)
