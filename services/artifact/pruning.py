"""Old checkpoints of a running job go while it runs: they are what would fill a store first.

Each new checkpoint is answerable for exactly one older one, so that handling it once, again, or in
any order comes to the same. One more than the kept ones stays: who has just chosen the oldest to
begin with, and whose job is not in the log yet, finds it there.
"""

import structlog

from libs.contracts.base import Envelope
from libs.contracts.events import decode_job_event
from libs.contracts.scheduler import JobCheckpointed
from libs.jobstate.checkpoints import KEPT
from services.artifact.retention import Keeper, begun_with

FELL_OUT_SQL = """
SELECT data FROM log.event
WHERE stream = $1 AND version < $2 AND type = 'job.checkpointed.v1'
ORDER BY version DESC OFFSET $3 LIMIT 1
"""

logger = structlog.get_logger()


async def prune(keeper: Keeper, envelope: Envelope, event: JobCheckpointed) -> None:
    """Delete the checkpoint that fell out of the kept ones with the one before this, unless a job
    that has not ended begins with it; then it goes with the leftovers."""
    data = await keeper.pool.fetchval(FELL_OUT_SQL, envelope.stream, envelope.version, KEPT)
    if data is None:
        return
    old = decode_job_event(data)
    assert isinstance(old, JobCheckpointed)
    key = old.checkpoint.key
    if key in await begun_with(keeper.pool, envelope.account_id):
        return
    await keeper.store.delete(key)
    logger.info("checkpoint pruned", step=old.checkpoint.step, newest=event.checkpoint.step)
