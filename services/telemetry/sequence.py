"""The one sequence of an account: what is told gets its place in the transaction that stores it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from uuid import UUID

import msgspec
import nats.errors
from faststream.exceptions import FastStreamException
from faststream.nats import NatsBroker
from msgspec import Struct

from libs.bus.streams import live_subject
from libs.contracts.telemetry_rpc import MessageKind, NewMessages, StreamMessage
from libs.eventlog.connection import Connection

MAX_HINT = 512 * 1024
"""Bytes of messages in one hint. NATS carries 1 MiB, and whoever needs more asks for it."""

# In the order of the accounts, so that two writers never wait for each other.
PLACES_SQL = """
INSERT INTO telemetry.sequence AS known (account_id, last)
SELECT * FROM unnest($1::uuid[], $2::bigint[]) AS more (account_id, last) ORDER BY account_id
ON CONFLICT (account_id) DO UPDATE SET last = known.last + excluded.last
RETURNING account_id, last
"""

ADD_SQL = """
INSERT INTO telemetry.message (account_id, place, job_id, kind, event_id, payload)
SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::text[], $5::uuid[], $6::bytea[])
"""


class Told(Struct, frozen=True, kw_only=True):
    """A message before it has its place. ``event_id`` is that of the log, of a change of state."""

    account_id: UUID
    job_id: UUID
    kind: MessageKind
    payload: bytes
    event_id: UUID | None = None


Placed = dict[UUID, list[StreamMessage]]
"""New messages by their account, in order."""


async def add(connection: Connection, told: Sequence[Told]) -> Placed:
    """Give the messages the next places of their accounts, in the caller's transaction, which holds
    up every other writer of these accounts until its end."""
    if not told:
        return {}
    counts = Counter(one.account_id for one in told)
    rows = await connection.fetch(PLACES_SQL, list(counts), list(counts.values()))
    following = {row["account_id"]: row["last"] - counts[row["account_id"]] + 1 for row in rows}
    placed: Placed = {account_id: [] for account_id in counts}
    records = []
    for one in told:
        mine = placed[one.account_id]
        place = following[one.account_id] + len(mine)
        mine.append(
            StreamMessage(
                place=place, job_id=one.job_id, kind=one.kind, payload=msgspec.Raw(one.payload)
            )
        )
        records.append((one.account_id, place, one.job_id, one.kind, one.event_id, one.payload))
    await connection.execute(ADD_SQL, *map(list, zip(*records, strict=True)))
    return placed


async def publish(broker: NatsBroker, placed: Placed) -> None:
    """Tell gateways what was committed. No promise: they find out by themselves as well."""
    with suppress(nats.errors.Error, FastStreamException):
        client = await broker.connect()
        for account_id, messages in placed.items():
            await client.publish(live_subject(account_id), hint_of(messages))


def hint_of(messages: Sequence[StreamMessage]) -> bytes:
    fitting = tuple(_first_that_fit(messages))
    return msgspec.json.encode(NewMessages(messages=fitting, last=messages[-1].place))


def _first_that_fit(messages: Iterable[StreamMessage]) -> Iterable[StreamMessage]:
    size = 0
    for message in messages:
        size += len(memoryview(message.payload))
        if size > MAX_HINT:
            return
        yield message
