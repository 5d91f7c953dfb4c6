"""A process that is frozen in the middle of something holds nobody up for long."""

from uuid import uuid4

import pytest

from libs.eventlog.connection import connect
from libs.eventlog.inbox import enter
from libs.eventlog.record import AlreadyHandled, Inbox
from tests.support.stack import Database


async def test_what_a_frozen_process_holds_in_a_transaction_is_free_before_others_give_up(
    database: Database,
) -> None:
    """Frozen, here: it says nothing more. The other one is delivered the same message."""
    message = Inbox(consumer="billing-job-completed-v1", event_id=uuid4())
    frozen, other = [await connect(database.dsn("billing")) for _ in range(2)]
    try:
        await frozen.execute("BEGIN")
        await enter(frozen, message)
        await enter(other, message)
        with pytest.raises(AlreadyHandled):
            await enter(other, message)
    finally:
        frozen.terminate()
        await other.close()
