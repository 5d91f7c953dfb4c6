"""Brings an account's webhooks to a server on this machine, which no platform could reach."""

import base64
import secrets
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from tuneyard import webhooks
from tuneyard.cli import exits
from tuneyard.cli.context import Context
from tuneyard.cli.exits import CliError
from tuneyard.cli.watch import telling
from tuneyard.errors import TuneyardError
from tuneyard.types import Notice, StateEvent

if TYPE_CHECKING:
    import httpx

SECRET_BYTES = 32  # as the platform's own; Standard Webhooks asks for 24 to 64
PATIENCE = 15.0  # seconds for an answer, as the platform has it


class Delivery(Struct, frozen=True, kw_only=True):
    """``status`` is null where no answer came, and ``error`` says why. ``after`` goes on behind
    it."""

    event_id: str
    type: str
    job_id: str
    status: int | None
    milliseconds: int
    error: str | None
    after: str


def listen(
    context: Context,
    *,
    forward_to: str,
    types: Sequence[str] | None,
    secret: str | None,
    after: str | None,
) -> int:
    """Until Ctrl-C."""
    import httpx

    secret = _checked(secret) if secret else new_secret()
    try:
        host = httpx.URL(forward_to).host
    except httpx.InvalidURL:
        host = ""
    if not host or not forward_to.startswith(("http://", "https://")):
        raise CliError(
            f"{forward_to!r} is no http or https address.",
            hint="as --forward-to http://127.0.0.1:3000/webhooks",
            code="usage",
        )
    context.note(f"signed with {secret}")
    last, connected = after, [f"waiting for events, for {forward_to}; Ctrl-C ends it"]

    def answered(_: httpx.Response) -> None:
        while connected:  # the first time
            context.note(connected.pop())

    try:
        with (
            httpx.Client(event_hooks={"response": [answered]}) as stream,
            context.client(http_client=stream, sleep=telling(context)) as client,
            httpx.Client(timeout=PATIENCE, trust_env=False) as http,
        ):
            events: Any = client.jobs.stream_all(types=["state"], last_event_id=after)
            with closing(events):
                for event in _wanted(events, types):
                    delivery = _deliver(context, http, forward_to, secret, event)
                    last = event.id
                    if context.json:
                        context.write(msgspec.json.encode(delivery))
                    else:
                        context.show(_line(delivery, event.data))
                    context.world.stdout.flush()
    except KeyboardInterrupt:
        behind = f" --after {last}" if last else ""
        context.note(f"\nTo go on: tuneyard webhooks listen --forward-to {forward_to}{behind}")
        return exits.INTERRUPTED
    return exits.OK


def _checked(secret: str) -> str:
    try:
        webhooks.sign(b"", secret, event_id="", at=datetime.fromtimestamp(0, timezone.utc))
    except TuneyardError as error:
        raise CliError(str(error), hint="leave --secret out for a new one", code="usage") from error
    return secret


def new_secret() -> str:
    return webhooks.PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def _wanted(events: Iterator[Any], types: Sequence[str] | None) -> Iterator[StateEvent]:
    for event in events:
        if isinstance(event, StateEvent) and (types is None or event.data.type in types):
            yield event


def _deliver(
    context: Context, http: "httpx.Client", url: str, secret: str, event: StateEvent
) -> Delivery:
    import httpx

    notice, event_id = event.data, f"listen_{event.id}"
    body = msgspec.json.encode(notice)
    headers = webhooks.sign(body, secret, event_id=event_id, at=context.world.now())
    begin, status, error = context.world.monotonic(), None, None
    try:
        answer = http.post(
            url, content=body, headers={"Content-Type": "application/json"} | headers
        )
        status = answer.status_code
    except httpx.HTTPError as failed:
        error = str(failed) or type(failed).__name__
    return Delivery(
        event_id=event_id,
        type=notice.type,
        job_id=notice.data.id,
        status=status,
        milliseconds=round((context.world.monotonic() - begin) * 1000),
        error=error,
        after=event.id,
    )


def _line(delivery: Delivery, notice: Notice) -> str:
    came = delivery.error if delivery.status is None else f"{delivery.status}"
    when = f"{notice.timestamp.astimezone():%H:%M:%S}"
    return f"{when} {delivery.type} {delivery.job_id} -> {came} ({delivery.milliseconds} ms)"
