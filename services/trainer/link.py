"""What a trainer can say: questions to the platform, and messages that are sent until they stand.

Patience is the rule: NATS, the scheduler and artifact may restart under a running job.
"""

from typing import TypeVar

import aiohttp
import msgspec
import nats.errors
import stamina
from faststream.nats import NatsBroker
from msgspec import Struct
from nats.js import JetStreamContext
from opentelemetry.trace import SpanKind

from libs.bus.rpc import ask
from libs.bus.streams import report_subject
from libs.contracts.rpc import Rpc
from libs.contracts.trainer import AnyReport
from libs.observability.spans import span
from libs.observability.trace import current_traceparent

PUBLISH_PATIENCE = 540.0  # seconds; within the streams' duplicate window, so a repeat is dropped
PUBACK_TIMEOUT = 2.0
CONVENTIONAL = {"messaging.system": "nats", "messaging.operation.type": "send"}

Q = TypeVar("Q", bound=Struct)
A = TypeVar("A")


class Link:
    """NATS, and HTTP for presigned URLs. ``jetstream`` is of the broker's own connection."""

    def __init__(
        self, broker: NatsBroker, jetstream: JetStreamContext, http: aiohttp.ClientSession
    ) -> None:
        self.http = http
        self._broker = broker
        self._jetstream = jetstream

    async def ask(self, rpc: Rpc[Q, A], request: Q) -> A:
        """One answer, or `libs.bus.rpc.Unanswered` after some seconds."""
        return await ask(self._broker, rpc, request)

    async def report(self, report: AnyReport) -> None:
        """Returns when JetStream holds the report; may take as long as NATS is away."""
        name = f"report {type(report).__name__.lower()}"
        with span(name, SpanKind.PRODUCER, CONVENTIONAL):
            await self.publish(report_subject(report), report, str(report.report_id))

    async def publish(self, subject: str, message: Struct, message_id: str) -> None:
        """Publish until acknowledged. Raises a NATS error after ``PUBLISH_PATIENCE`` seconds."""
        headers = {"Nats-Msg-Id": message_id}
        if traceparent := current_traceparent():
            headers["traceparent"] = traceparent
        payload = msgspec.json.encode(message)
        async for attempt in stamina.retry_context(
            on=nats.errors.Error,
            attempts=None,
            timeout=PUBLISH_PATIENCE,
            wait_initial=0.1,
            wait_max=2.0,
            wait_jitter=0.1,
        ):
            with attempt:
                await self._jetstream.publish(
                    subject, payload, timeout=PUBACK_TIMEOUT, headers=headers
                )
