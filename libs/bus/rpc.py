"""Questions over NATS request-reply: asked with a deadline, answered by one of the replicas."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import nats.errors
import structlog
from faststream.nats import NatsBroker, NatsMessage
from msgspec import Struct
from opentelemetry.trace import SpanKind

from libs.bus.awake import awake
from libs.contracts.rpc import Ping, Pong, Rpc, ping_of
from libs.observability.durations import OUTCOME, timed
from libs.observability.metrics import ANSWERS, QUESTIONS
from libs.observability.spans import Attributes, span
from libs.observability.trace import continued, current_traceparent

logger = structlog.get_logger()

DEADLINE = 5.0  # seconds over all tries; a service that restarts is back within it
TRY_TIMEOUT = 2.0
RETRY_PAUSE = 0.1
FAILED = b"!"
"""An answer that is no JSON: the handler raised, or the question may be an old one. The caller may
try again."""

Q = TypeVar("Q", bound=Struct)
A = TypeVar("A")


def conventional(rpc: Rpc[Q, A]) -> Attributes:
    """What OpenTelemetry's conventions call a question."""
    return {"rpc.system.name": "nats", "rpc.method": rpc.subject}


class Unanswered(Exception):
    """Nobody answered in time, or the service failed. Safe to repeat: every request is."""


def answer(broker: NatsBroker, rpc: Rpc[Q, A], handler: Callable[[Q], Awaitable[A]]) -> Any:
    """Answer ``rpc`` with ``handler``, sharing the work with other replicas of the service.

    A question that waited while this process was frozen is not handled: whoever asked has asked
    somebody else, and may have wanted something else since. Gives FastStream's subscriber, for
    whoever begins with it after ``broker`` was started.
    """

    async def as_it_is(message: NatsMessage) -> NatsMessage:
        return message

    attributes = conventional(rpc)
    subscriber: Any = broker.subscriber(
        rpc.subject, queue=rpc.service, decoder=as_it_is, max_workers=64
    )

    async def deliver(message: NatsMessage) -> bytes:
        if awake(TRY_TIMEOUT).may_be_late():
            logger.info("a question may have waited for too long", subject=rpc.subject)
            return FAILED
        with (
            continued(message.headers.get("traceparent")),
            span(rpc.subject, SpanKind.SERVER, attributes) as answering,
            timed(ANSWERS, {**attributes, OUTCOME: "answered"}) as timing,
        ):
            try:
                return msgspec.json.encode(await handler(rpc.decode_request.decode(message.body)))
            except Exception as error:
                logger.exception("request not answered", subject=rpc.subject)
                answering.fail(error)
                timing.attributes[OUTCOME] = "failed"
                return FAILED

    subscriber(deliver)
    return subscriber


async def answer_pings(broker: NatsBroker, service: str) -> None:
    """Answer the readiness question from now on: ``broker`` was started, so that everything else is
    answered. FastStream starts in no order, and waits for JetStream in between."""

    async def pong(_: Ping) -> Pong:
        return Pong(service=service)

    await answer(broker, ping_of(service), pong).start()


async def ask(
    broker: NatsBroker,
    rpc: Rpc[Q, A],
    request: Q,
    *,
    deadline: float = DEADLINE,
    patience: float = TRY_TIMEOUT,
) -> A:
    """Ask until there is an answer. Raises Unanswered after ``deadline`` seconds.

    ``patience`` is how long one who was asked may take before somebody is asked again.
    """
    attributes = conventional(rpc)
    with (
        span(rpc.subject, SpanKind.CLIENT, attributes) as asking,
        timed(QUESTIONS, {**attributes, OUTCOME: "given up"}) as timing,
    ):
        answer = await _ask(broker, rpc, request, asking, deadline, patience)
        timing.attributes[OUTCOME] = "answered"
        return answer


async def _ask(
    broker: NatsBroker,
    rpc: Rpc[Q, A],
    request: Q,
    asking: span,
    deadline: float,
    patience: float,
) -> A:
    payload = msgspec.json.encode(request)
    traceparent = current_traceparent()
    headers = {"traceparent": traceparent} if traceparent else None
    reason = "no answer"
    task = asyncio.current_task()
    assert task is not None
    try:
        async with asyncio.timeout(deadline):
            told_to_stop = task.cancelling()
            while True:
                try:
                    reply = await broker.request(
                        payload, rpc.subject, headers=headers, timeout=min(patience, deadline)
                    )
                    if task.cancelling() > told_to_stop:
                        # NATS's client waits with asyncio.wait_for, which on Python 3.11 gives an
                        # answer that comes with a cancellation, and forgets the latter (gh-86296).
                        raise asyncio.CancelledError
                    if reply.body != FAILED:
                        return rpc.decode_answer.decode(reply.body)
                    reason = "the service failed"
                except (TimeoutError, nats.errors.Error) as error:
                    reason = repr(error)
                asking.happened("asks again")
                await asyncio.sleep(RETRY_PAUSE)
    except TimeoutError as error:
        raise Unanswered(f"{rpc.subject}: {reason}") from error
