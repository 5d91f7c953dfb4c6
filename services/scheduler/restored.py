"""The scheduler's part after a restore: every attempt that the restored database remembers ends."""

from collections.abc import Awaitable, Callable
from functools import partial
from uuid import UUID

from libs.contracts.base import ObjectKey
from libs.contracts.events import JobEvent
from libs.jobstate.state import JobState, decode_state
from services.scheduler import model
from services.scheduler.handlers import Scheduler, change

REASON = "the platform was restored from a backup"

# In steps: an installation may have more unfinished jobs than fit into memory.
UNFINISHED_SQL = """
SELECT id, state FROM log.job
WHERE status IN ('queued', 'running') AND id > $1 ORDER BY id LIMIT 500
"""


async def queue_again(
    scheduler: Scheduler, is_there: Callable[[ObjectKey], Awaitable[bool]]
) -> int:
    """Queue every job again that was with a trainer, and forget checkpoints that are not in the
    object store; how many jobs that changed. No scheduler may be running."""
    changed, last = 0, UUID(int=0)
    while rows := await scheduler.pool.fetch(UNFINISHED_SQL, last):
        for row in rows:
            last, state = row["id"], decode_state(row["state"])
            kept = [one.checkpoint.key for one in state.checkpoints]
            lost = tuple([key for key in kept if not await is_there(key)])
            after = await change(scheduler, last, partial(_decide, lost_checkpoints=lost), None)
            changed += after.version > state.version
    return changed


def _decide(state: JobState, *, lost_checkpoints: tuple[ObjectKey, ...]) -> list[JobEvent]:
    return model.decide_restored(state, REASON, lost_checkpoints=lost_checkpoints)
