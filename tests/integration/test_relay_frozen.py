"""A relay that was frozen for longer than PostgreSQL waits for a leader, whatever it was doing."""

import asyncio
import time
from uuid import uuid4

from faststream.nats import NatsBroker

from libs.bus.relay import SILENCE
from libs.eventlog.append import append_in
from libs.eventlog.connection import connect
from tests.support.jobs import first_append, submission
from tests.support.stack import Database
from tests.support.streams import relaying
from tests.support.waiting import eventually

TIMES = 8


async def test_it_leads_again_whatever_its_session_ends_with(
    operator: NatsBroker, fresh_database: Database
) -> None:
    connection = await connect(fresh_database.admin_dsn)

    async def waiting() -> int:
        return int(await connection.fetchval("SELECT count(*) FROM log.outbox"))

    async with relaying(operator, fresh_database):
        for n in range(TIMES):
            append, _ = first_append(uuid4(), uuid4(), submission())
            await append_in(connection, append)
            await eventually(waiting, lambda left: left == 0)
            await asyncio.sleep(0.05 * n)
            time.sleep(SILENCE + 0.3)  # noqa: ASYNC251
    await connection.close()
