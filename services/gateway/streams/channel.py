"""What was added to one account's stream lately, held once for all clients that follow it here."""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import takewhile
from typing import Any, get_args
from uuid import UUID

import msgspec
import structlog
from faststream.nats import NatsBroker
from msgspec import Struct

from libs.bus.rpc import Unanswered, ask
from libs.bus.streams import live_subject
from libs.contracts.telemetry_rpc import (
    MESSAGES,
    OPEN_STREAM,
    GetMessages,
    MessageKind,
    NewMessages,
    OpenStream,
    StreamMessage,
)

KEPT_BYTES = 512 * 1024
"""Of the newest messages of an account. Who is further behind reads pages, at a pace of their own,
so that a client that is slow, or came back, costs no more than one that is not."""

KEPT_FRAMES = 500  # each read walks over those that are new to it, and small ones cost too
UNHEARD_BYTES = 8 * 1024 * 1024  # of hints that wait for us; what is dropped beyond is asked for
POLL = 3.0  # seconds; core NATS may lose a hint, and the last one of a job has none behind it
ALL_KINDS: tuple[MessageKind, ...] = get_args(MessageKind)

logger = structlog.get_logger()
decode_hint = msgspec.json.Decoder(NewMessages).decode


class Frame(Struct, frozen=True):
    """A message as clients get it; ``data`` is the same bytes for each of them."""

    place: int
    job_id: UUID
    kind: MessageKind
    data: bytes


def frame_of(message: StreamMessage) -> Frame:
    """As an event of an event stream (WHATWG HTML, 9.2). JSON has no line breaks outside of
    strings, and none in them."""
    head = f"id: {message.place}\nevent: {message.kind}\ndata: ".encode()
    data = b"".join((head, message.payload, b"\n\n"))
    return Frame(message.place, message.job_id, message.kind, data)


class Channel:
    """The newest frames without a hole between them: from behind ``base`` to ``last``.

    Hints bring what is new. One that does not follow, and the poll, make it ask telemetry.
    """

    def __init__(self, broker: NatsBroker, account_id: UUID) -> None:
        self.listeners = 0
        self.base = self.last = 0
        self.ready = asyncio.Event()
        self._broker = broker
        self._account_id = account_id
        self._frames: deque[Frame] = deque()
        self._bytes = 0
        self._behind = asyncio.Event()
        self._changed = asyncio.Event()

    @property
    def kept_bytes(self) -> int:
        return self._bytes

    async def run(self) -> None:
        """Follow the account until cancelled, whatever fails on the way."""
        while True:
            try:
                await self._follow()
            except Exception:
                logger.exception("following broke off; it begins again")
                await asyncio.sleep(POLL)

    async def _follow(self) -> None:
        client = await self._broker.connect()
        subscription = await client.subscribe(
            live_subject(self._account_id), cb=self._hear, pending_bytes_limit=UNHEARD_BYTES
        )
        try:
            while True:
                try:
                    await self._look()
                except Unanswered as error:
                    logger.warning("stream not read", error=str(error))
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL):
                        await self._behind.wait()
        finally:
            with suppress(Exception):  # the connection may be gone, and the subscription with it
                await subscription.unsubscribe()

    def after(self, place: int) -> Sequence[Frame]:
        """All frames behind ``place``, which must not be before ``base``."""
        found = list(takewhile(lambda frame: frame.place > place, reversed(self._frames)))
        return found[::-1]

    async def changes(self) -> None:
        """Return at the next change."""
        await self._changed.wait()

    def wake(self) -> None:
        """Let everybody look who waits for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _hear(self, message: Any) -> None:
        hint = decode_hint(message.data)
        if self.ready.is_set():
            self._take(hint.messages)
        if hint.last > self.last:
            self._behind.set()

    async def _look(self) -> None:
        self._behind.clear()
        if not self.ready.is_set():
            question = OpenStream(account_id=self._account_id, job_id=None)
            self.base = self.last = (await ask(self._broker, OPEN_STREAM, question)).last
            self.ready.set()
        while True:
            before = self.last
            question_of_more = GetMessages(
                account_id=self._account_id, job_id=None, kinds=ALL_KINDS, after=before
            )
            page = await ask(self._broker, MESSAGES, question_of_more)
            self._take(page.messages)
            if self.last < page.last:
                self._forget(page.last)
            if page.last <= before:
                return

    def _take(self, messages: Iterable[StreamMessage]) -> None:
        """Those that follow. What is known comes again, and behind a hole all is asked for."""
        before = self.last
        for message in messages:
            if message.place == self.last + 1:
                self._keep(frame_of(message))
        if self.last > before:
            self.wake()

    def _forget(self, last: int) -> None:
        """What lies between is no longer stored: clients read on from what there is."""
        self._frames.clear()
        self._bytes = 0
        self.base = self.last = last
        self.wake()

    def _keep(self, frame: Frame) -> None:
        self.last = frame.place
        self._frames.append(frame)
        self._bytes += len(frame.data)
        while self._bytes > KEPT_BYTES or len(self._frames) > KEPT_FRAMES:
            gone = self._frames.popleft()
            self._bytes -= len(gone.data)
            self.base = gone.place
