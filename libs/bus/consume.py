"""Durable consumers of JetStream: one subscriber per message type, acknowledged by outcome.

A handler that returns has had its effect: ack. One that raises is tried again after a delay that
grows; after the last try the message is buried with its error, so that nothing blocks and nothing
is lost. A message that can't be decoded is buried at once. What is buried, an operator can have
handled again: `libs.eventlog.dead_letters`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import msgspec
import nats.errors
import nats.js.errors
import structlog
from faststream import AckPolicy
from faststream.nats import JStream, NatsBroker, NatsMessage, PullSub
from faststream.nats.subscriber.usecases import PullStreamSubscriber
from nats.js import JetStreamContext
from nats.js.api import AckPolicy as ServerAck
from nats.js.api import ConsumerConfig, DeliverPolicy
from opentelemetry.trace import SpanKind

from libs.bus.broker import JETSTREAM_PATIENCE, inbox_prefix
from libs.bus.streams import NotChanged, events_of
from libs.contracts.base import Envelope, Event
from libs.contracts.events import type_of
from libs.eventlog.dead_letters import DeadLetters
from libs.eventlog.record import AlreadyHandled
from libs.observability.durations import OUTCOME, timed
from libs.observability.metrics import HANDLED
from libs.observability.spans import Attributes, current_span, span
from libs.observability.trace import continued

logger = structlog.get_logger()

RETRY_DELAYS = (0.2, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)  # seconds, by delivery; the last one repeats
MAX_DELIVERIES = 30  # about 25 minutes of an outage, then an operator looks at it
ACK_WAIT = 10.0  # seconds until the message of a process that died is delivered to another
ALIVE_SHARE = 0.3  # of the wait; a handler that takes longer says so, and keeps its message
MAX_SIGNS = 1_200  # an hour, longer than reading the largest result takes
WORKERS = 16  # handlers of one type at once in one process
AGAIN = "tried again"
DECLARED = (
    *("ack_policy", "deliver_policy", "filter_subject"),
    *("ack_wait", "max_deliver", "max_ack_pending"),
)
"""The settings that `subscribe` gives a consumer; the others are left as they are."""
UNCHANGEABLE = 10012  # JetStream's error code for a consumer that can't become what is asked for
PULL_TIMEOUT = 1.0  # seconds a pull waits; a pull that NATS forgot in a restart is asked again then

E = TypeVar("E", bound=Event)
decode_envelope = msgspec.json.Decoder(Envelope).decode


async def _say_alive(raw: Any, every: float) -> None:
    for _ in range(MAX_SIGNS):
        await asyncio.sleep(every)
        with suppress(nats.errors.Error, OSError):
            await raw.in_progress()


async def _as_it_is(message: NatsMessage) -> NatsMessage:
    return message


def durable_name(service: str, what: str) -> str:
    """A consumer's name on the server and in the inbox, e.g. ``billing-job-completed-v1``."""
    return f"{service}-{what.replace('.', '-').replace('_', '-')}"


def subscribe(
    broker: NatsBroker,
    *,
    service: str,
    stream: str,
    subject: str,
    durable: str,
    handle: Callable[[bytes], Awaitable[None]],
    letters: DeadLetters,
    workers: int = WORKERS,
    delays: Sequence[float] = RETRY_DELAYS,
    max_deliveries: int = MAX_DELIVERIES,
    ack_wait: float = ACK_WAIT,
) -> None:
    """Call ``handle`` with the payload of every message on ``subject``, at least once."""
    letters.handlers[durable] = handle
    subscriber: Any = broker.subscriber(
        subject,
        stream=JStream(stream, declare=False),
        durable=durable,
        pull_sub=PullSub(batch_size=workers, timeout=PULL_TIMEOUT),
        max_workers=workers,
        inbox_prefix=f"{inbox_prefix(service)}.".encode(),
        ack_policy=AckPolicy.MANUAL,
        decoder=_as_it_is,
        config=ConsumerConfig(
            durable_name=durable,
            filter_subject=subject,
            ack_policy=ServerAck.EXPLICIT,
            deliver_policy=DeliverPolicy.ALL,
            ack_wait=ack_wait,
            max_deliver=-1,
            max_ack_pending=1_000,
        ),
    )

    attributes: Attributes = {
        "messaging.system": "nats",
        "messaging.operation.type": "process",
        "messaging.consumer.group.name": durable,
    }

    async def deliver(message: NatsMessage) -> None:
        raw = message.raw_message
        alive = asyncio.create_task(_say_alive(raw, ack_wait * ALIVE_SHARE))
        with (
            continued(message.headers.get("traceparent")),
            span(f"process {durable}", SpanKind.CONSUMER, attributes) as processing,
            timed(HANDLED, {**attributes, OUTCOME: "broken off"}) as timing,
        ):
            try:
                await handle(message.body)
                outcome = "handled"
            except AlreadyHandled:
                outcome = "handled before"
            except Exception as error:
                processing.fail(error)
                outcome = await _give_back(message, error, durable, letters, delays, max_deliveries)
            finally:
                alive.cancel()
            timing.attributes[OUTCOME] = outcome
            processing.describe({OUTCOME: outcome})
            if outcome != AGAIN:
                await raw.ack()

    subscriber(deliver)


async def _give_back(
    message: NatsMessage,
    error: Exception,
    durable: str,
    letters: DeadLetters,
    delays: Sequence[float],
    max_deliveries: int,
) -> str:
    """Have it delivered again, later; or bury it, for it to be acknowledged."""
    raw = message.raw_message
    tries = raw.metadata.num_delivered
    hopeless = isinstance(error, msgspec.DecodeError | UnicodeDecodeError)
    logger.warning(
        "message not handled", consumer=durable, tries=tries, error=repr(error), exc_info=error
    )
    if not hopeless and tries < max_deliveries:
        await raw.nak(delay=delays[min(tries, len(delays)) - 1])
        return AGAIN
    await letters.bury(
        consumer=durable,
        subject=raw.subject,
        payload=message.body,
        error=repr(error),
        tries=tries,
    )
    return "buried"


def consume(
    broker: NatsBroker,
    service: str,
    event_class: type[E],
    handler: Callable[[Envelope, E], Awaitable[None]],
    *,
    letters: DeadLetters,
) -> None:
    """Handle every event of one type, in the trace of the request that caused it."""
    decode = msgspec.json.Decoder(event_class).decode

    async def handle(payload: bytes) -> None:
        envelope = decode_envelope(payload)
        with continued(envelope.traceparent, job_id=str(envelope.job_id)):
            current_span().set(job_id=str(envelope.job_id), event_id=str(envelope.event_id))
            await handler(envelope, decode(envelope.data))

    subscribe(
        broker,
        service=service,
        stream="EVENTS",
        subject=events_of(event_class),
        durable=durable_name(service, type_of(event_class)),
        handle=handle,
        letters=letters,
    )


async def update_consumers(broker: NatsBroker) -> None:
    """Bring the durable consumers that an older release has made to what ``broker`` has
    subscribed to. What they have delivered, and what waits for an answer, they still know.

    Subscribing only creates what is missing. To be called once, as a process starts: of two
    releases side by side, neither then undoes what the other one does. Raises NotChanged.
    """
    jetstream = (await broker.connect()).jetstream(timeout=JETSTREAM_PATIENCE)
    for one in broker.subscribers:
        if isinstance(one, PullStreamSubscriber):
            assert one.stream.name is not None
            await _update(jetstream, one.stream.name, one.config)


async def forget_ended(broker: NatsBroker) -> None:
    """Let go of the tasks that pulled messages until something failed.

    FastStream begins them anew, and keeps the former ones, each with its error's frames. nats-py
    fails so regularly: a pull that ends just as its time is up raises asyncio's TimeoutError
    instead of its own, once in some minutes of silence for each consumer.
    """
    for one in broker.subscribers:
        if isinstance(one, PullStreamSubscriber):
            ended = {task for task in one.tasks if task.done()}
            await asyncio.sleep(0)  # one that has just ended is begun anew only while it is there
            one.tasks[:] = [task for task in one.tasks if task not in ended]


async def _update(jetstream: JetStreamContext, stream: str, declared: ConsumerConfig) -> None:
    assert declared.durable_name is not None
    try:
        there = (await jetstream.consumer_info(stream, declared.durable_name)).config
    except nats.js.errors.NotFoundError:
        return
    wanted = {name: getattr(declared, name) for name in DECLARED}
    former = {
        name: getattr(there, name) for name in DECLARED if getattr(there, name) != wanted[name]
    }
    if not former:
        return
    try:
        await jetstream.add_consumer(stream, there.evolve(**wanted))
    except nats.js.errors.APIError as error:
        if error.err_code != UNCHANGEABLE:
            raise
        raise NotChanged(
            f"NATS can't change the consumer {declared.durable_name}: {error.description}."
            f" It has {former}. Stop the service, `nats consumer rm {stream}"
            f" {declared.durable_name}`, and start it: the new consumer is given what is in the"
            " stream, and what was handled before has no effect again."
        ) from error
    logger.info("consumer updated", consumer=declared.durable_name, former=former)
