"""Messages that could not be handled: kept with their error, and handled again by their consumer
when an operator says so.

A retry does not go over NATS. The operator marks the row; the consumer's own process finds it and
calls the very function that handles the consumer's messages. Nobody else is given the message, it
is never in two places, and the inbox makes its effect happen once if a process dies in between.
"""

from collections.abc import Awaitable, Callable

import structlog
from msgspec import Struct, field

from libs.eventlog.connection import Connection, Pool
from libs.eventlog.record import AlreadyHandled
from libs.observability.metrics import DEAD_LETTERS

RETRY_EVERY = 2.0  # seconds until a process looks again; somebody waits for the answer
ATTEMPTS = 3  # processes that may die of one retry before it rests
ROUND = 100  # letters that are looked up at once
RETRY_LOCK = 7_205_761  # an arbitrary constant: with a letter's number, the lock of who tries it

WANTED_SQL = """
SELECT id FROM log.dead_letter
WHERE attempts_left > 0 AND consumer = ANY($1) AND id > $2 ORDER BY id LIMIT $3
"""
BEGIN_SQL = """
UPDATE log.dead_letter SET attempts_left = attempts_left - 1, tries = tries + 1
WHERE id = $1 AND attempts_left > 0 RETURNING consumer, payload
"""

COUNT_SQL = """
SELECT consumer, count(*) AS letters FROM log.dead_letter GROUP BY consumer
"""

Handle = Callable[[bytes], Awaitable[None]]

logger = structlog.get_logger()


class DeadLetters(Struct, kw_only=True):
    """The dead letters of one process. ``handlers`` are its consumers, by their durable names."""

    pool: Pool
    handlers: dict[str, Handle] = field(default_factory=dict)

    async def bury(
        self, *, consumer: str, subject: str, payload: bytes, error: str, tries: int
    ) -> None:
        """Keep a message that can't be handled, after so many ``tries``, for an operator."""
        await self.pool.execute(
            "INSERT INTO log.dead_letter (consumer, subject, payload, error, tries)"
            " VALUES ($1, $2, $3, $4, $5)",
            consumer,
            subject,
            payload,
            error,
            tries,
        )

    async def count(self) -> None:
        """Show how many there are of each consumer of this process, those with none as well."""
        rows = await self.pool.fetch(COUNT_SQL)
        there = {row["consumer"]: row["letters"] for row in rows}
        DEAD_LETTERS.show(*((there.get(one, 0), one) for one in self.handlers))

    async def retry(self) -> None:
        """Handle again, oldest first, what an operator wants handled again: one that succeeds is
        gone, one that fails stays with its new error."""
        last = 0
        while wanted := await self.pool.fetch(WANTED_SQL, list(self.handlers), last, ROUND):
            for row in wanted:
                last = row["id"]
                async with self.pool.acquire() as connection:
                    await self._try_alone(connection, last)

    async def _try_alone(self, connection: Connection, letter: int) -> None:
        """The lock is the session's and not a transaction's: an open transaction would hold up
        whoever reads the log in order, and this lock dies with its process as well."""
        lock = (RETRY_LOCK, letter % 2**31)
        if not await connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", *lock):
            return  # another replica is at it
        try:
            await self._try(connection, letter)
        finally:
            if not connection.is_closed():
                await connection.execute("SELECT pg_advisory_unlock($1, $2)", *lock)

    async def _try(self, connection: Connection, letter: int) -> None:
        row = await connection.fetchrow(BEGIN_SQL, letter)
        if row is None:
            return  # handled, or dropped, since it was looked up
        try:
            await self.handlers[row["consumer"]](row["payload"])
        except AlreadyHandled:
            pass
        except Exception as error:
            logger.warning(
                "dead letter not handled", id=letter, consumer=row["consumer"], exc_info=True
            )
            await connection.execute(
                "UPDATE log.dead_letter SET attempts_left = 0, error = $2,"
                " failed_at = clock_timestamp() WHERE id = $1",
                letter,
                repr(error),
            )
            return
        await connection.execute("DELETE FROM log.dead_letter WHERE id = $1", letter)
        logger.info("dead letter handled", id=letter, consumer=row["consumer"])
