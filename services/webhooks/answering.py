"""What the questions about endpoints are answered with, and how one is answered only once."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar
from uuid import UUID
from weakref import WeakValueDictionary

import msgspec
from msgspec import Struct, field

from libs.contracts.rpc import Rpc
from libs.contracts.webhooks_rpc import EndpointKeyTaken
from libs.eventlog.connection import Connection, Pool

KEY_LIFE = timedelta(hours=24)  # as the public contract promises
TURN = 5.0  # seconds to wait for one; whoever asked has given up by then

LOCK_SQL = "SELECT pg_advisory_xact_lock(hashtextextended('webhooks:' || $1::uuid, 0))"

EARLIER_SQL = """
SELECT request_sha256, answer FROM webhooks.answer
WHERE (account_id, idempotency_key) = ($1, $2) AND created_at >= $3
"""

REMEMBER_SQL = """
INSERT INTO webhooks.answer (account_id, idempotency_key, request_sha256, answer, created_at)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (account_id, idempotency_key) DO UPDATE
SET request_sha256 = excluded.request_sha256, answer = excluded.answer,
    created_at = excluded.created_at
"""


class Answering(Struct, frozen=True, kw_only=True):
    """``now`` is UTC, ``new_id`` gives random UUIDs, ``new_secret`` ``SECRET_BYTES`` random bytes.
    ``wake`` tells the sender that something may be due; calling it for nothing does no harm.
    ``turns`` are the accounts whose questions are being answered here."""

    pool: Pool
    now: Callable[[], datetime]
    new_id: Callable[[], UUID]
    new_secret: Callable[[], bytes]
    wake: Callable[[], None]
    allow_loopback: bool
    turns: MutableMapping[UUID, asyncio.Lock] = field(default_factory=WeakValueDictionary)


class Keyed(Protocol):
    @property
    def account_id(self) -> UUID: ...
    @property
    def idempotency_key(self) -> str: ...
    @property
    def request_sha256(self) -> str: ...


A = TypeVar("A", bound=Struct)


async def once(
    answering: Answering,
    asked: Keyed,
    rpc: Rpc[Any, Any],
    act: Callable[[Connection], Awaitable[A]],
) -> A | EndpointKeyTaken:
    """The answer of ``act``, whose effects and answer are stored together; or the earlier answer.

    Questions of one account take turns, so that the same one at once is answered once, and none
    slips past a limit. They wait for each other before they have a connection, so that nobody else
    waits for them. A refusal (it has no ``replayed``) is not remembered. Raises TimeoutError.
    """
    turn = answering.turns.setdefault(asked.account_id, asyncio.Lock())
    async with asyncio.timeout(TURN):
        await turn.acquire()
    try:
        return await _once(answering, asked, rpc, act)
    finally:
        turn.release()


async def _once(
    answering: Answering,
    asked: Keyed,
    rpc: Rpc[Any, Any],
    act: Callable[[Connection], Awaitable[A]],
) -> A | EndpointKeyTaken:
    now = answering.now()
    async with answering.pool.acquire() as connection, connection.transaction():
        await connection.execute(LOCK_SQL, asked.account_id)
        earlier = await connection.fetchrow(
            EARLIER_SQL, asked.account_id, asked.idempotency_key, now - KEY_LIFE
        )
        if earlier is not None:
            if earlier["request_sha256"] != asked.request_sha256:
                return EndpointKeyTaken()
            known: A = rpc.decode_answer.decode(earlier["answer"])
            return msgspec.structs.replace(known, replayed=True)
        answer = await act(connection)
        if "replayed" in answer.__struct_fields__:
            await connection.execute(
                REMEMBER_SQL,
                asked.account_id,
                asked.idempotency_key,
                asked.request_sha256,
                msgspec.json.encode(answer),
                now,
            )
    return answer


async def forget_answers(answering: Answering) -> None:
    """Remove the answers that are not given again: some hold secrets."""
    await answering.pool.execute(
        "DELETE FROM webhooks.answer WHERE created_at < $1", answering.now() - KEY_LIFE
    )
