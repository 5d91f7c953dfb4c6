"""A table of completed jobs: each of them once, whatever dies in between."""

import asyncio
import sqlite3
import sys

from libs.contracts.scheduler import JobCompleted
from libs.subscriber import Subscriber


async def main(url: str, file: str) -> None:
    table = sqlite3.connect(file)
    table.execute("CREATE TABLE IF NOT EXISTS completed (event_id PRIMARY KEY, job_id, at, tokens)")
    async with Subscriber(url, types=[JobCompleted]) as events:
        async for event in events:
            job, done = event.envelope, event.data
            if isinstance(done, JobCompleted):  # else it is newer than this program
                row = (str(job.event_id), str(job.job_id), job.occurred_at.isoformat())
                with table:  # a transaction; an event that comes again has its row already
                    table.execute(
                        "INSERT OR IGNORE INTO completed VALUES (?, ?, ?, ?)",
                        (*row, done.tokens_processed),
                    )
            await event.ack()


asyncio.run(main(*sys.argv[1:]))
