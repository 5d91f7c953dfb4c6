"""The relay: takes committed events out of the outbox and publishes them on JetStream.

One relay works at a time, under an advisory lock that dies with its session, and PostgreSQL ends
the session of a relay that it does not hear of (docs/decisions/0026). Rows are deleted after the
PubAck; a relay that dies in between publishes again, and JetStream drops the repetition by
``Nats-Msg-Id``. Order: positions ascend within one drain; a transaction that commits late is
published late, never skipped.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Annotated

import asyncpg
import msgspec
import nats.errors
import nats.js.errors
import structlog
import uvloop
from faststream.nats import NatsBroker
from msgspec import Meta, Struct
from nats.js import JetStreamContext
from nats.js.api import PubAck
from opentelemetry.trace import SpanKind

from libs.bus import gauges
from libs.bus.broker import make_broker
from libs.bus.counting import CURRENCY_SQL, count
from libs.bus.probe import probed
from libs.bus.rpc import answer_pings
from libs.bus.service import every, watched
from libs.bus.streams import NUDGE, declare_streams, event_subject
from libs.bus.trim import LATE, TRIM_EVERY, hold, oldest_report, trim
from libs.contracts.base import Envelope
from libs.eventlog.connection import BROKEN_OFF, Connection, connect, create_pool
from libs.eventlog.read import decode_meta
from libs.observability.export import observe
from libs.observability.farewell import say_farewell
from libs.observability.logs import configure_logs
from libs.observability.metrics import OBSERVATION_FAILED, RELAY_LEADS
from libs.observability.spans import begun
from libs.settings import SettingsError, decode_settings

RELAY_LOCK = 7_205_760  # an arbitrary constant: whoever holds it is the relay
DRAIN = 512  # rows a round; more in flight gains nothing with sync_interval: always (measured)
POLL = 0.3  # seconds; the safety net under the nudge, and how often PostgreSQL hears of the leader
SILENCE = 1.2  # seconds; a leader that PostgreSQL has not heard of for so long leads no more
LOCK_RETRY = 0.25  # seconds until a standby asks again; with the silence, under two
PUBACK_TIMEOUT = 10.0
RESTART_PAUSE = 0.5

# Each event is looked up by its place. A plain join lets the planner merge the outbox, which it
# takes for as long as it was when statistics were gathered, with the whole log: measured, each look
# at a log of 2,300 events read 1,166 of them.
TAKE_SQL = """
SELECT o.position, e.event_id, e.stream, e.version, e.type, e.job_id, e.account_id, e.data, e.meta,
    now() - e.recorded_at AS age
FROM (SELECT position FROM log.outbox ORDER BY position LIMIT $1) o
CROSS JOIN LATERAL (SELECT * FROM log.event e WHERE e.position = o.position OFFSET 0) e
ORDER BY o.position
"""
DROP_SQL = "DELETE FROM log.outbox WHERE position = ANY($1::bigint[])"

CONVENTIONAL = {"messaging.system": "nats", "messaging.operation.type": "send"}

logger = structlog.get_logger()


class Settings(Struct, frozen=True, kw_only=True):
    """``stream_replicas`` is on how many servers of a NATS cluster each message is; five is the
    most that JetStream takes."""

    database_url: str
    nats_url: str
    nats_ca: Path | None = None
    log_level: str = "info"
    probe_listen: str | None = None
    stream_replicas: Annotated[int, Meta(ge=1, le=5)] = 1


def envelope_of(row: asyncpg.Record) -> Envelope:
    meta = decode_meta(row["meta"])
    return Envelope(
        event_id=row["event_id"],
        position=row["position"],
        stream=row["stream"],
        version=row["version"],
        type=row["type"],
        job_id=row["job_id"],
        account_id=row["account_id"],
        occurred_at=meta.occurred_at,
        causation_id=meta.causation_id,
        traceparent=meta.traceparent,
        data=msgspec.Raw(row["data"]),
    )


async def drain(
    connection: Connection, jetstream: JetStreamContext, *, observed: bool = False
) -> int:
    """Publish what is in the outbox, at most ``DRAIN`` rows; the number of rows published, which
    are counted if anybody wants metrics.

    The header carries the trace as the event has it, and not the span of publishing: whoever
    consumes it follows from what appended it, and a relay that dies leaves no gap between them.
    """
    rows = await connection.fetch(TAKE_SQL, DRAIN)
    if any(row["age"] > LATE for row in rows):
        await hold(connection)
    acks = []
    for row in rows:
        envelope = envelope_of(row)
        headers = {"Nats-Msg-Id": str(envelope.event_id)}
        if envelope.traceparent:
            headers["traceparent"] = envelope.traceparent
        publishing = begun(
            f"publish {envelope.type}", SpanKind.PRODUCER, CONVENTIONAL, envelope.traceparent
        )
        publishing.set(job_id=str(envelope.job_id))
        ack = await jetstream.publish_async(
            event_subject(envelope.type, envelope.job_id),
            msgspec.json.encode(envelope),
            headers=headers,
        )
        ack.add_done_callback(publishing.end)
        acks.append(ack)
    if acks:
        taken = await _acknowledged(acks, connection)
        await connection.execute(DROP_SQL, [row["position"] for row in rows])
        if observed:
            await _counted(connection, rows, taken)
    return len(rows)


async def _counted(
    connection: Connection, rows: Sequence[asyncpg.Record], taken: Sequence[PubAck]
) -> None:
    """What can't be counted is lost to the metrics; it neither ends the relay nor its lead."""
    try:
        await count(connection, rows, taken)
    except Exception:
        OBSERVATION_FAILED.add(1, {"what": "events"})
        logger.exception("what was published could not be counted")


async def _acknowledged(
    acks: Sequence[asyncio.Future[PubAck]], connection: Connection
) -> list[PubAck]:
    """Wait for them, and let PostgreSQL hear of this leader: a slow NATS is not its death."""
    waiting = asyncio.gather(*acks)
    try:
        async with asyncio.timeout(PUBACK_TIMEOUT):
            while not (await asyncio.wait({waiting}, timeout=POLL))[0]:
                await connection.execute("SELECT 1")
            return await waiting
    finally:
        waiting.cancel()


async def connect_to_lead(database_url: str) -> Connection:
    """A session, and with it its locks, that ends soon after its process falls silent, whether that
    was killed, is frozen, or is on a machine that is gone; also while PostgreSQL sends to it.

    What it will say again and again is prepared by now: a leader that is frozen between a
    statement's preparation and its use isn't idle to PostgreSQL, which would wait for it.
    """
    connection = await connect(database_url, statement_lifetime=0)
    for setting in ("idle_session_timeout", "tcp_user_timeout"):
        await connection.execute(f"SET {setting} = {SILENCE * 1000:.0f}")
    await connection.fetch(TAKE_SQL, 0)
    await connection.execute(DROP_SQL, [])
    await connection.fetch(CURRENCY_SQL, [])
    return connection


async def lead(
    connection: Connection,
    jetstream: JetStreamContext,
    nudged: asyncio.Event,
    trimming: Callable[[], Awaitable[object]],
    *,
    observed: bool = False,
) -> None:
    """Wait for the lock, then drain for ever, ``trimming`` beside it over a connection of its own.
    Raises when PostgreSQL or NATS fails."""
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", RELAY_LOCK):  # noqa: ASYNC110
        await asyncio.sleep(LOCK_RETRY)
    logger.info("relay leads")
    RELAY_LEADS.show((1,))
    async with every(TRIM_EVERY, trimming):
        while True:
            nudged.clear()
            if await drain(connection, jetstream, observed=observed) < DRAIN:
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL):
                        await nudged.wait()


async def relay(
    broker: NatsBroker, database_url: str, *, stream_replicas: int = 1, observed: bool = False
) -> None:
    """Lead, or stand by; after any failure begin again with a fresh connection."""
    nudged = asyncio.Event()

    async def nudge(_: object) -> None:
        nudged.set()

    client = await broker.connect()
    await client.subscribe(NUDGE, cb=nudge)
    declared = False
    while True:
        RELAY_LEADS.show((0,))
        connection: Connection | None = None
        try:
            jetstream = client.jetstream(publish_async_max_pending=2 * DRAIN)
            await declare_streams(jetstream, replicas=stream_replicas, update=not declared)
            declared = True
            connection = await connect_to_lead(database_url)
            trimming = partial(trim, database_url, partial(oldest_report, client))
            await lead(connection, jetstream, nudged, trimming, observed=observed)
        except (
            *BROKEN_OFF,
            asyncpg.PostgresError,
            nats.errors.Error,
            nats.js.errors.Error,
        ) as error:
            logger.warning("relay begins again", error=repr(error))
        finally:
            if connection is not None:
                connection.terminate()
        await asyncio.sleep(RESTART_PAUSE)  # meanwhile another may lead


def leave() -> None:
    say_farewell()
    os._exit(0)


@asynccontextmanager
async def gauges_shown(
    observed: bool, database_url: str, jetstream: JetStreamContext
) -> AsyncIterator[None]:
    """Look at PostgreSQL and NATS for all services, over a connection beside the relay's own.

    It is opened by the look that needs it: a PostgreSQL that has no second one to give keeps
    nobody from leading.
    """
    pool = create_pool(database_url, size=1)
    try:
        async with (
            watched(
                observed, "postgres", partial(gauges.look_at_postgres, pool), *gauges.OF_POSTGRES
            ),
            watched(observed, "nats", partial(gauges.look_at_nats, jetstream), *gauges.OF_NATS),
        ):
            yield
    finally:
        pool.terminate()


async def main() -> None:
    settings = decode_settings(Settings, os.environ)
    configure_logs("relay", settings.log_level)
    observed = observe("relay", os.environ)
    # As a container's first process it would not be ended by a signal that it has not asked for.
    # It may leave in the middle of anything: who comes next publishes again.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leave)
    broker = make_broker(settings.nats_url, settings.nats_ca)
    await broker.start()
    await answer_pings(broker, "relay")
    client = await broker.connect()
    async with (
        probed(settings.probe_listen, client),
        gauges_shown(observed, settings.database_url, client.jetstream()),
    ):
        await relay(
            broker,
            settings.database_url,
            stream_replicas=settings.stream_replicas,
            observed=observed,
        )


if __name__ == "__main__":
    try:
        uvloop.run(main())
    except SettingsError as error:
        sys.exit(str(error))
