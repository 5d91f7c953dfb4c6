"""Once-only effects for consumers whose effect is not an append."""

from libs.eventlog.connection import Connection
from libs.eventlog.record import AlreadyHandled, Inbox


async def enter(connection: Connection, message: Inbox) -> None:
    """Mark a message as handled in the caller's transaction. Raises AlreadyHandled."""
    status = await connection.execute(
        "INSERT INTO log.inbox (consumer, event_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        message.consumer,
        message.event_id,
    )
    if status == "INSERT 0 0":
        raise AlreadyHandled(str(message))
