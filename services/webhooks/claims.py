"""Taking what is due: fair between endpoints, by any number of replicas, each delivery by one."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from uuid import UUID

from msgspec import Struct

from libs.eventlog.connection import Pool

AT_ONCE = 8  # requests to one endpoint by one process; a slow one holds no more of it than that
AT_ONCE_FAILING = 2  # while nothing but failures come back: enough to notice the first success
CLAIM = timedelta(seconds=45)
"""An attempt takes 15 s, and its outcome is written within a second. What is not settled by then
has died with its process, and is due again."""

# The first of each endpoint is found by hopping through the index, so the cost is by the endpoints
# that have something to come, however much that is. Whoever has least in flight is first, then who
# has waited longest: a backlog that is older than your event is not before it in the queue. No more
# endpoints are looked into than there is room for, since all that is looked at is locked.
CLAIM_SQL = """
WITH RECURSIVE earliest AS (
    (SELECT endpoint_id, next_at FROM webhooks.delivery
     WHERE status = 'pending' AND payload IS NULL ORDER BY endpoint_id, next_at LIMIT 1)
    UNION ALL
    SELECT following.* FROM earliest CROSS JOIN LATERAL (
        SELECT endpoint_id, next_at FROM webhooks.delivery
        WHERE status = 'pending' AND payload IS NULL AND endpoint_id > earliest.endpoint_id
        ORDER BY endpoint_id, next_at LIMIT 1) AS following
), open AS (
    SELECT e.id, e.failing_since IS NOT NULL AS failing,
        coalesce(busy.n, 0) AS busy,
        CASE WHEN e.failing_since IS NULL THEN $5::int ELSE $6::int END - coalesce(busy.n, 0)
            AS room,
        row_number() OVER (PARTITION BY e.failing_since IS NULL
                           ORDER BY coalesce(busy.n, 0), earliest.next_at) AS rank
    FROM earliest
    JOIN webhooks.endpoint e ON e.id = earliest.endpoint_id
    LEFT JOIN unnest($3::uuid[], $4::int[]) AS busy (id, n) ON busy.id = e.id
    WHERE earliest.next_at <= $1 AND e.enabled AND (e.held_until IS NULL OR e.held_until <= $1)
      AND coalesce(busy.n, 0) < CASE WHEN e.failing_since IS NULL THEN $5::int ELSE $6::int END
), due AS (
    SELECT found.id FROM open CROSS JOIN LATERAL (
        SELECT d.id, d.next_at FROM webhooks.delivery d
        WHERE d.endpoint_id = open.id AND d.status = 'pending' AND d.payload IS NULL
          AND d.next_at <= $1
        ORDER BY d.next_at LIMIT open.room FOR UPDATE SKIP LOCKED) AS found
    WHERE open.rank <= CASE WHEN open.failing THEN $8::int ELSE $7::int END
    ORDER BY open.failing,
        open.busy + row_number() OVER (PARTITION BY open.id ORDER BY found.next_at),
        found.next_at
    LIMIT $7::int
), pings AS (
    SELECT id FROM webhooks.delivery
    WHERE status = 'pending' AND payload IS NOT NULL AND next_at <= $1
    ORDER BY next_at LIMIT $9::int FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE webhooks.delivery SET next_at = $2
    WHERE id = ANY (ARRAY(SELECT id FROM due UNION ALL SELECT id FROM pings))
    RETURNING id, endpoint_id, event_id, payload
)
SELECT claimed.id, claimed.endpoint_id, claimed.event_id, claimed.payload IS NOT NULL AS ping,
    coalesce(claimed.payload, n.payload) AS payload, n.occurred_at, e.url, e.secret,
    CASE WHEN e.previous_until > $1 THEN e.previous_secret END AS previous_secret,
    e.failing_since IS NOT NULL AS failing, n.traceparent
FROM claimed JOIN webhooks.endpoint e ON e.id = claimed.endpoint_id
LEFT JOIN webhooks.notification n ON n.event_id = claimed.event_id
"""


class Claimed(Struct, frozen=True, kw_only=True):
    """A delivery that this process attempts now. ``payload`` is null when it is not kept;
    ``occurred_at`` is when the event did, null of a ping."""

    id: UUID
    endpoint_id: UUID
    event_id: UUID
    ping: bool
    payload: bytes | None
    occurred_at: datetime | None
    url: str
    secret: bytes
    previous_secret: bytes | None
    failing: bool
    traceparent: str | None
    until: datetime

    @property
    def secrets(self) -> tuple[bytes, ...]:
        return (
            (self.secret,) if self.previous_secret is None else (self.secret, self.previous_secret)
        )


class Room(Struct, frozen=True, kw_only=True):
    """How many more there may be: deliveries, endpoints that are failing among them, pings."""

    deliveries: int
    failing_endpoints: int
    pings: int


async def claim(pool: Pool, busy: Mapping[UUID, int], room: Room, now: datetime) -> list[Claimed]:
    """What is due, at most as much of each endpoint as has room; ``busy`` is in flight here."""
    until = now + CLAIM
    rows = await pool.fetch(
        CLAIM_SQL,
        now,
        until,
        list(busy),
        list(busy.values()),
        AT_ONCE,
        AT_ONCE_FAILING,
        room.deliveries,
        room.failing_endpoints,
        room.pings,
    )
    return [Claimed(**row, until=until) for row in rows]
