"""Tells a webhook of the platform from any other: Standard Webhooks 1.0.0.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec

from tuneyard.errors import TuneyardError, WebhookVerificationError
from tuneyard.types.jobs import Job
from tuneyard.types.streaming import WebhookEvent

# The specification's own: what is older may be sent again by whoever listened.
TOLERANCE = timedelta(minutes=5)
PREFIX = "whsec_"
VERSION = "v1"


class _Payload(msgspec.Struct):
    type: str
    timestamp: datetime
    data: msgspec.Raw


_decode = msgspec.json.Decoder(_Payload).decode
_decode_data: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any])
_decode_job = msgspec.json.Decoder(Job).decode


def unwrap(
    body: bytes | str,
    headers: Mapping[str, str],
    secret: str,
    *,
    tolerance: timedelta = TOLERANCE,
    now: datetime | None = None,
) -> WebhookEvent:
    """The event, if it was signed with this secret within ``tolerance``.

    ``body`` as it came, before anything parsed it; names of ``headers`` in any case. ``now`` is
    UTC's by default. Raises WebhookVerificationError, which is to be answered with a 4xx; and
    TuneyardError for a secret that is none.
    """
    content = body.encode() if isinstance(body, str) else body
    key = _key(secret)
    given = {name.lower(): value for name, value in headers.items()}
    try:
        event_id, sent, signatures = (
            given[f"webhook-{name}"] for name in ("id", "timestamp", "signature")
        )
    except KeyError as missing:
        raise WebhookVerificationError(f"the header {missing} is missing") from None
    expected = hmac.digest(key, _signed(event_id, sent, content), hashlib.sha256)
    # Every one of them is looked at, so the time taken says nothing of which was right.
    good = [hmac.compare_digest(expected, one) for one in _signatures(signatures)]
    if not any(good):
        raise WebhookVerificationError("no signature is by this secret")
    _check_time(sent, now or datetime.now(timezone.utc), tolerance)
    return _event(event_id, content)


def sign(body: bytes, secret: str, *, event_id: str, at: datetime) -> dict[str, str]:
    """The headers that `unwrap` looks for: for tests of your own server. ``at`` needs a time zone.
    Raises TuneyardError for a secret that is none."""
    sent = str(int(at.timestamp()))
    signature = hmac.digest(_key(secret), _signed(event_id, sent, body), hashlib.sha256)
    return {
        "webhook-id": event_id,
        "webhook-timestamp": sent,
        "webhook-signature": f"{VERSION},{base64.b64encode(signature).decode()}",
    }


def _signed(event_id: str, sent: str, body: bytes) -> bytes:
    return f"{event_id}.{sent}.".encode() + body


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise TuneyardError(f"the secret of a webhook is {PREFIX!r} and base64")
    return key


def _signatures(header: str) -> list[bytes]:
    """Those of the version that we know; there may be several, of a secret that was rotated."""
    found = []
    for one in header.split():
        version, _, text = one.partition(",")
        if version == VERSION:
            try:
                found.append(base64.b64decode(text, validate=True))
            except (binascii.Error, ValueError):
                continue
    return found


def _check_time(sent: str, now: datetime, tolerance: timedelta) -> None:
    seconds = int(sent) if sent.isascii() and sent.isdigit() and len(sent) <= 15 else None
    if seconds is None:
        raise WebhookVerificationError("webhook-timestamp is no time in seconds")
    off = seconds - now.timestamp()
    if abs(off) > tolerance.total_seconds():
        side = "ahead" if off > 0 else "old"
        raise WebhookVerificationError(f"it is {abs(off):.0f} seconds {side}")


def _event(event_id: str, content: bytes) -> WebhookEvent:
    try:
        payload = _decode(content)
        job = _decode_job(payload.data) if payload.type.startswith("job.") else None
        return WebhookEvent(
            id=event_id,
            type=payload.type,
            timestamp=payload.timestamp,
            job=job,
            data=_decode_data.decode(payload.data),
        )
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WebhookVerificationError(f"it is signed, but can't be read: {error}") from error
