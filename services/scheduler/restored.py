"""The scheduler's part after a restore: every attempt that the restored database remembers ends."""

from collections.abc import Awaitable, Callable
from uuid import UUID

from services.scheduler import model
from services.scheduler.handlers import Scheduler, change

REASON = "the platform was restored from a backup"

# In steps, since the log of an installation may have more unfinished jobs than fit into memory.
UNFINISHED_SQL = """
SELECT id, convert_from(state, 'UTF8')::json #>> '{checkpoint,key}' AS checkpoint
FROM log.job WHERE status IN ('queued', 'running') AND id > $1 ORDER BY id LIMIT 1000
"""


async def queue_again(scheduler: Scheduler, is_there: Callable[[str], Awaitable[bool]]) -> int:
    """Queue every job again that was with a trainer, and say of those whose last checkpoint isn't
    in the object store that they begin anew; how many. No scheduler may be running."""
    queued, last = 0, UUID(int=0)
    while rows := await scheduler.pool.fetch(UNFINISHED_SQL, last):
        for row in rows:
            last, key = row["id"], row["checkpoint"]
            lost = key is not None and not await is_there(key)
            before = await scheduler.pool.fetchval("SELECT version FROM log.job WHERE id=$1", last)
            state = await change(
                scheduler,
                last,
                lambda state, lost=lost: model.decide_restored(  # type: ignore[misc]
                    state, REASON, checkpoint_lost=lost
                ),
                None,
            )
            queued += state.version > before
    return queued
