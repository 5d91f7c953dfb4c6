"""The crowd of ``just chaos``, a little one: kills, bad receivers, and nothing is lost."""

import asyncio
from pathlib import Path

from tests.support.stack import Database, Nats, Servers
from tests.support.webhook_crowd import (
    KINDS,
    assert_all_arrived,
    crowd,
    failing_days_pass,
    survive,
    webhook_place,
)

EVENTS = 100
PATIENCE = 300.0  # seconds; some forty are needed


async def test_every_event_arrives_wherever_it_is_ever_accepted_through_kills(
    servers: Servers, nats_server: Nats, fresh_database: Database, tmp_path: Path
) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        webhook_place(servers, nats_server, fresh_database, tmp_path, timeout=3.0) as place,
    ):
        members = await crowd(place, dict.fromkeys(KINDS, 1))
        ids = await survive(place, members, EVENTS, {0.2: "webhooks", 0.4: "nats"})
        await failing_days_pass(place, members)
        await assert_all_arrived(place, members, ids)
