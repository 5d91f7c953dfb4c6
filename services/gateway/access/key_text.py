"""The text of an API key: made, recognised, and hashed for storage. Pure.

A key is a prefix, such as ``tuneyard_``, + 43 characters of a secret + 6 of checksum, so that a
mistyped or truncated key, and a leaked one in a public repository, is recognised without a look
into the database. The prefix is the operator's; keys with an earlier one go on being good.
"""

import base64
import hmac
import re
import zlib
from uuid import UUID

KEY_PREFIX = "tuneyard_"  # unless limits.toml names another
PREFIX_PATTERN = "^[a-z][a-z0-9]{0,30}_$"
SECRET_BYTES = 32  # as strong as the hash that it is stored under
CHECKSUM_CHARS = 6  # 32 bits of CRC in base64
KEY_FORM = re.compile(PREFIX_PATTERN[:-1] + r"[A-Za-z0-9_-]{49}")
SHOWN_CHARS = 6  # behind the prefix; enough to tell an account's few keys apart
MARK_BYTES = 4
MARKING = b"tuneyard pepper mark\0"
DERIVATION = b"tuneyard api key secret\0"  # keeps what is derived apart from what is hashed


def _checksum(body: str) -> str:
    crc = zlib.crc32(body.encode()).to_bytes(4, "big")
    return base64.urlsafe_b64encode(crc).decode().rstrip("=")


def key_of(secret: bytes, prefix: str = KEY_PREFIX) -> str:
    """The key that stands for ``SECRET_BYTES`` random bytes."""
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a key is made from {SECRET_BYTES} random bytes, got {len(secret)}")
    body = prefix + base64.urlsafe_b64encode(secret).decode().rstrip("=")
    return body + _checksum(body)


def well_formed(key: str) -> bool:
    """Whether the text can be a key at all: its prefix, length and checksum agree."""
    if not KEY_FORM.fullmatch(key):
        return False
    body, checksum = key[:-CHECKSUM_CHARS], key[-CHECKSUM_CHARS:]
    return hmac.compare_digest(_checksum(body), checksum)


def shown(key: str, prefix: str) -> str:
    """What its owner recognises a key by."""
    return key[: len(prefix) + SHOWN_CHARS]


def hash_of(key: str, pepper: bytes) -> bytes:
    """What is stored of a key. Without the pepper, which no database holds, it can't be tried."""
    return hmac.digest(pepper, key.encode(), "sha256")


def mark_of(pepper: bytes) -> str:
    """What a row says of the pepper that it is hashed with. It tells a few peppers apart, and is
    too short to try peppers on."""
    return hmac.digest(pepper, MARKING, "sha256")[:MARK_BYTES].hex()


def derived_secret(pepper: bytes, key_id: UUID, idempotency_key: str) -> bytes:
    """The secret of a key that was asked for with an Idempotency-Key, so that a repetition of the
    request can be shown it again. Nobody finds it who lacks the pepper or the client's header."""
    return hmac.digest(pepper, DERIVATION + key_id.bytes + idempotency_key.encode(), "sha256")
