"""One rate limit over all replicas: each gateway tells the others what accounts have taken of it.

By core NATS, beside the requests and never in their way; decision 0027 says how far an account can
overshoot. A message is its sender's 16 bytes, and then, per account, 16 bytes of its id and 8 of
nanoseconds, little-endian. Another form would be another subject: replicas of two versions run side
by side.
"""

import asyncio
import heapq
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import nats.errors
import structlog
from faststream.nats import NatsBroker

from services.gateway.access.rate_limit import RateLimiter

TOOK = "limits.took"
"""What accounts have taken since the sender's last message: added up."""

SPENT = "limits.spent"
"""What accounts have spent as the sender knows it, who was alone until now."""

ASK = "limits.ask"
"""What have accounts spent? One of those who are together answers."""

TELL_EVERY = 0.02
"""Seconds. So long nobody else knows of a request, and a gateway answers some thirty meanwhile;
fifty messages a second, and as many from each other replica, are under 1 % of a processor."""

PATIENCE = 1.0
"""Seconds until a message that has not come back is given up. What is told later than that would
refuse an account for what it took long ago."""

MOST_TOLD = 20_000
"""Accounts in a message: 480 KB, half of what NATS carries at most. Only an answer comes near it;
beyond are those that have spent least."""

ENTRY = struct.Struct("<16sQ")

SENDER_BYTES = 16
MOST_NANOSECONDS = 2**64 - 1

logger = structlog.get_logger()


def packed(sender: bytes, amounts: Mapping[int, int]) -> bytes:
    told = (
        amounts.items()
        if len(amounts) <= MOST_TOLD
        else heapq.nlargest(MOST_TOLD, amounts.items(), key=lambda entry: entry[1])
    )
    return sender + b"".join(
        ENTRY.pack(account.to_bytes(16, "little"), min(amount, MOST_NANOSECONDS))
        for account, amount in told
    )


def unpacked(message: bytes) -> Iterator[tuple[int, int]]:
    """Nanoseconds by account. Raises ValueError for what no gateway sends."""
    entries = memoryview(message)[SENDER_BYTES:]
    if len(message) < SENDER_BYTES or len(entries) % ENTRY.size:
        raise ValueError(f"a message of {len(message)} bytes is none about limits")
    return (
        (int.from_bytes(account, "little"), spent) for account, spent in ENTRY.iter_unpack(entries)
    )


class SharedLimits:
    """Keeps ``limiter`` together with those of the other replicas. ``me`` is 16 random bytes.

    Whoever hears its own messages is together with whoever else does; while it does not, it limits
    alone, and nobody is told afterwards what was taken meanwhile, but only what is spent.
    """

    def __init__(self, limiter: RateLimiter, broker: NatsBroker, me: bytes) -> None:
        self._limiter = limiter
        self._broker = broker
        self._me = me
        self._came_back = asyncio.Event()
        self._listens = self._alone = False

    async def be_together(self) -> None:
        """Share until a message does not come back. To be called again and again."""
        client = await self._broker.connect()
        if not self._listens:
            await client.subscribe(TOOK, cb=self._hear_took)
            await client.subscribe(SPENT, cb=self._hear_spent)
            self._listens = True
        if not await self._told(client, {}):
            if not self._alone:
                logger.warning("rate limits hold for this gateway alone while NATS is away")
            self._alone = True
            self._limiter.untold()
            return
        await self._meet(client)
        if self._alone:
            logger.info("rate limits are shared again")
        self._alone = False
        answering = await client.subscribe(ASK, queue="gateway", cb=self._answer)
        try:
            await self._tell(client)
        finally:
            await answering.unsubscribe()

    async def _tell(self, client: Any) -> None:
        """Tell what is taken, for as long as it comes back."""
        while True:
            await self._limiter.anything_untold.wait()
            await asyncio.sleep(TELL_EVERY)
            if not await self._told(client, self._limiter.untold()):
                return

    async def _told(self, client: Any, took: Mapping[int, int]) -> bool:
        """Whether what is told has come back. One message at a time is under way: when NATS
        stalls, the next one waits, and then holds what was taken meanwhile."""
        self._came_back.clear()
        try:
            if not client.is_connected:  # it would keep the message until it is
                return False
            await client.publish(TOOK, packed(self._me, took))
            async with asyncio.timeout(PATIENCE):
                await self._came_back.wait()
        except (TimeoutError, nats.errors.Error):
            return False
        return True

    async def _meet(self, client: Any) -> None:
        """Tell the others what is spent here, and ask one of them what is spent there. Whoever
        asks answers nobody, itself least of all."""
        self._limiter.untold()  # it is spent, too
        try:
            if spent := self._limiter.spent():
                await client.publish(SPENT, packed(self._me, spent))
            answer = await client.request(ASK, timeout=PATIENCE)
            self._limiter.spend_up_to(unpacked(answer.data))
        except nats.errors.NoRespondersError:
            pass  # the first one, or the only one
        except (TimeoutError, nats.errors.Error, ValueError) as error:
            logger.warning("no other gateway says what is spent", error=repr(error))

    async def _answer(self, message: Any) -> None:
        await message.respond(packed(self._me, self._limiter.spent()))

    async def _hear_took(self, message: Any) -> None:
        if message.data[:SENDER_BYTES] == self._me:
            self._came_back.set()
        else:
            self._limiter.take_elsewhere(unpacked(message.data))

    async def _hear_spent(self, message: Any) -> None:
        if message.data[:SENDER_BYTES] != self._me:
            self._limiter.spend_up_to(unpacked(message.data))
