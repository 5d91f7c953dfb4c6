"""What the relay counts: every event of every service passes it once, and money with them.

An event is counted when JetStream has taken it for the first time: one that is published again,
by whoever follows a relay that died, is acknowledged as a duplicate. So nothing is counted that was
not committed, and no request or handler waits for a count. What is published into streams that were
made anew, after a restore say, is counted again: they don't know what they had.
"""

from collections import Counter
from collections.abc import Sequence

import asyncpg
import msgspec
from msgspec import Struct
from nats.js.api import PubAck

from libs.eventlog.connection import Connection
from libs.observability.metrics import EVENTS_PUBLISHED, MONEY_MOVED

PAYMENT = "payment:"

# The first event of a payment names its currency, and those after it mean the same.
CURRENCY_SQL = """
SELECT stream, data FROM log.event WHERE stream = ANY ($1::text[]) AND version = 1
"""


class Money(Struct, frozen=True):
    """What payment events have in common, in minor units."""

    amount_cents: int = 0
    released_cents: int = 0
    currency: str | None = None


decode_money = msgspec.json.Decoder(Money).decode


async def count(
    connection: Connection, rows: Sequence[asyncpg.Record], acks: Sequence[PubAck]
) -> None:
    """``rows`` of the outbox were published, each with its acknowledgement."""
    fresh = [row for row, ack in zip(rows, acks, strict=True) if not ack.duplicate]
    for type_, number in Counter(row["type"] for row in fresh).items():
        EVENTS_PUBLISHED.add(number, {"type": type_})
    payments = [row for row in fresh if row["stream"].startswith(PAYMENT)]
    if not payments:
        return
    firsts = await connection.fetch(CURRENCY_SQL, [row["stream"] for row in payments])
    currencies = {row["stream"]: decode_money(row["data"]).currency for row in firsts}
    for row in payments:
        money = decode_money(row["data"])
        _moved(money.amount_cents, _name(row["type"]), currencies[row["stream"]])
        if money.released_cents:
            _moved(money.released_cents, "released", currencies[row["stream"]])


def _name(type_: str) -> str:
    """``payment.captured.v1`` is ``captured``."""
    return type_.split(".")[1]


def _moved(amount: int, event: str, currency: str | None) -> None:
    MONEY_MOVED.add(amount, {"event": event, "currency": currency or "unknown"})
