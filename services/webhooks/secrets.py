"""Secrets of endpoints, as Standard Webhooks 1.0.0 has them."""

import base64
from datetime import timedelta

SECRET_BYTES = 32  # the specification asks for 24 to 64; this is as much as SHA-256 has use for
PREFIX = "whsec_"
OVERLAP = timedelta(hours=24)
"""For so long after a rotation the old secret signs as well, and its owner has time to change it
wherever it is kept."""


def shown(secret: bytes) -> str:
    """What the owner is given, and every library of the specification takes."""
    return PREFIX + base64.b64encode(secret).decode()
