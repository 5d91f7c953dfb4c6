"""The streams that are open here: a channel an account, and each client's own way along it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from uuid import UUID

from faststream.nats import NatsBroker
from msgspec import Struct

from libs.bus.rpc import Unanswered, ask
from libs.contracts.telemetry_rpc import (
    MESSAGES,
    OPEN_STREAM,
    GetMessages,
    MessageKind,
    OpenStream,
    StreamEnds,
)
from libs.observability.metrics import STREAMS_OPEN
from services.gateway.http.errors import ApiError, unavailable
from services.gateway.streams.channel import Channel, Frame, frame_of

MAX_STREAMS = 1_000
"""Open streams of an account in one gateway: far more than people have windows, and each holds a
connection, some tasks and up to a page of messages."""

HEARTBEAT = 15.0
"""Seconds: proxies close what is silent for a minute, some for half. As often is looked whether the
key still counts."""

PIECE = 64 * 1024  # bytes that a client is sent at once; what it has not read is held for it
PAUSE = 1.0  # seconds until a page is asked for again when telemetry did not answer
RETRY_MS = 2_000  # a gateway that restarts is back within seconds
OPENING = 10.0
"""Seconds. Telemetry may wait for a job's last lines before it answers, and a replica that is just
starting may keep a question for itself."""

BEAT = b": heartbeat\n\n"


class Wanted(Struct, frozen=True, kw_only=True):
    """Which messages a client wants: those of one job, or of all of the account."""

    account_id: UUID
    job_id: UUID | None
    kinds: tuple[MessageKind, ...]

    def has(self, frame: Frame) -> bool:
        return frame.kind in self.kinds and self.job_id in (None, frame.job_id)


Allowed = Callable[[], Awaitable[bool]]
"""Whether whoever opened a stream may still read it."""


class Streams:
    """``heartbeat`` is in seconds, ``most`` streams of an account may be open."""

    def __init__(
        self, broker: NatsBroker, *, heartbeat: float = HEARTBEAT, most: int = MAX_STREAMS
    ) -> None:
        self._broker = broker
        self._most = most
        self._heartbeat = heartbeat
        self._channels: dict[UUID, Channel] = {}
        self._following: dict[UUID, asyncio.Task[None]] = {}
        self._closing = False

    @property
    def open(self) -> int:
        """How many streams are open."""
        return sum(channel.listeners for channel in self._channels.values())

    @property
    def channels(self) -> int:
        """How many accounts are followed."""
        return len(self._channels)

    def channel_of(self, account_id: UUID) -> Channel | None:
        """The channel of an account that somebody follows."""
        return self._channels.get(account_id)

    def close(self) -> None:
        """End every stream, and those that come: their clients go on at another gateway."""
        self._closing = True
        for channel in self._channels.values():
            channel.wake()

    async def ends(self, wanted: Wanted) -> StreamEnds:
        """Where what is wanted ends at the moment. Raises Unanswered."""
        question = OpenStream(account_id=wanted.account_id, job_id=wanted.job_id)
        return await ask(self._broker, OPEN_STREAM, question, deadline=OPENING)

    @asynccontextmanager
    async def joined(self, account_id: UUID) -> AsyncIterator[Channel]:
        """The account's channel, which is followed for as long as anybody has it. Raises ApiError
        429 for one stream too many, and 503."""
        channel = self._channels.get(account_id)
        if channel is None:
            channel = self._channels[account_id] = Channel(self._broker, account_id)
            self._following[account_id] = asyncio.create_task(channel.run())
        if channel.listeners >= self._most:
            raise ApiError(
                "too_many_streams",
                f"The account has {self._most} streams open here; close some, or follow all jobs"
                " with one: GET /v1/stream.",
                headers={"Retry-After": str(RETRY_MS // 1_000)},
            )
        channel.listeners += 1
        STREAMS_OPEN.add(1)
        try:
            try:
                async with asyncio.timeout(OPENING):
                    await channel.ready.wait()
            except TimeoutError:
                raise unavailable("Telemetry") from None
            yield channel
        finally:
            channel.listeners -= 1
            STREAMS_OPEN.add(-1)
            if not channel.listeners:
                del self._channels[account_id]
                following = self._following.pop(account_id)
                following.cancel()
                await asyncio.wait({following})

    async def pieces(
        self, channel: Channel, wanted: Wanted, after: int, allowed: Allowed
    ) -> AsyncIterator[bytes]:
        """What is sent to a client that has seen everything up to ``after``: frames, and heartbeats
        between them. A job's ends with its ``done``, anybody's when they may no longer read."""
        loop = asyncio.get_running_loop()
        beat = loop.time() + self._heartbeat
        while not self._closing:
            if loop.time() >= beat:
                if not await allowed():
                    return
                yield BEAT
                beat = loop.time() + self._heartbeat
            frames, seen = await self._following_frames(channel, wanted, after)
            if frames:
                yield b"".join(frame.data for frame in frames)
                if wanted.job_id is not None and frames[-1].kind == "done":
                    return
            if seen > after:
                after = seen
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout_at(beat):
                    await channel.changes()

    async def _following_frames(
        self, channel: Channel, wanted: Wanted, after: int
    ) -> tuple[list[Frame], int]:
        """The next frames, and up to where that is all; from a page when the channel has let go of
        them."""
        if after >= channel.base:
            return _piece(channel.after(after), wanted, max(after, channel.last), PIECE)
        question = GetMessages(
            account_id=wanted.account_id, job_id=wanted.job_id, kinds=wanted.kinds, after=after
        )
        try:
            page = await ask(self._broker, MESSAGES, question)
        except Unanswered:
            await asyncio.sleep(PAUSE)
            return [], after
        return _piece(list(map(frame_of, page.messages)), wanted, page.last, None)


def _piece(
    frames: Sequence[Frame], wanted: Wanted, last: int, most: int | None
) -> tuple[list[Frame], int]:
    """At ``most`` so many bytes of what is wanted, and up to where that is all. Behind a job's
    ``done`` nothing is shown: what a lost attempt said late is of no use to anybody."""
    found: list[Frame] = []
    size = 0
    for frame in filter(wanted.has, frames):
        size += len(frame.data)
        if found and most is not None and size > most:
            return found, found[-1].place
        found.append(frame)
        if frame.kind == "done" and wanted.job_id is not None:
            return found, frame.place
    return found, last
