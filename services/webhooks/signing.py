"""The headers of Standard Webhooks 1.0.0: an id, the time of the attempt, and signatures."""

import base64
import hmac
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID


def signed_headers(
    event_id: UUID, payload: bytes, secrets: Sequence[bytes], now: datetime
) -> dict[str, str]:
    """``secrets`` are all that are valid; a receiver takes the signature of the one it knows."""
    timestamp = str(int(now.timestamp()))
    content = b"%s.%s.%s" % (str(event_id).encode(), timestamp.encode(), payload)
    return {
        "webhook-id": str(event_id),
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(
            "v1," + base64.b64encode(hmac.digest(secret, content, "sha256")).decode()
            for secret in secrets
        ),
    }
