"""A database as years of work leave it: the rows of a few real jobs, copied as often as wanted.

Every copy has ids, an account and a time of its own, so indexes are as large and as scattered as
they would be; hashes are those of the originals, so such a log does not verify.
"""

from msgspec import Struct

from libs.eventlog.connection import Connection

YEARS = 3  # over which the copies are spread

# Whole jobs of the originals, with the account and the time of each copy.
COPIES_SQL = """
CREATE TEMP TABLE owner AS
SELECT n, gen_random_uuid() AS id FROM generate_series(0, {accounts} - 1) AS n;
CREATE TEMP TABLE copy AS
SELECT c.n, j.id AS old, gen_random_uuid() AS id, owner.id AS account_id,
       gen_random_uuid() AS model_id, now() - j.created_at
           - (c.n + 1) * interval '{years} years' / {jobs} AS shift
FROM generate_series(0, {jobs} - 1) AS c (n)
JOIN (SELECT *, row_number() OVER (ORDER BY id) - 1 AS place FROM log.job) j
    ON j.place = c.n % (SELECT count(*) FROM log.job)
JOIN owner ON owner.n = c.n % {accounts};
CREATE INDEX ON copy (old);
ANALYZE copy;
"""

EVENTS_SQL = """
INSERT INTO log.event
    (event_id, stream, version, job_id, account_id, type, data, meta, hash, recorded_at)
SELECT gen_random_uuid(), split_part(e.stream, ':', 1) || ':' || c.id, e.version, c.id,
       c.account_id, e.type, e.data, e.meta, e.hash, e.recorded_at + c.shift
FROM copy c JOIN log.event e ON e.job_id = c.old ORDER BY c.n DESC, e.position;
INSERT INTO log.job
    (id, account_id, surface, status, version, created_at, state, output_model_id)
SELECT c.id, c.account_id, j.surface, j.status, j.version, j.created_at + c.shift,
       convert_to(replace(convert_from(j.state, 'UTF8'), c.old::text, c.id::text), 'UTF8'),
       c.model_id
FROM copy c JOIN log.job j ON j.id = c.old;
INSERT INTO log.idempotency
    (account_id, scope, key, request_sha256, job_id, generation, created_at, expires_at)
SELECT c.account_id, i.scope, gen_random_uuid()::text, i.request_sha256, c.id, i.generation,
       i.created_at + c.shift, i.expires_at
FROM copy c JOIN log.idempotency i ON i.job_id = c.old;
INSERT INTO log.inbox (consumer, event_id, handled_at)
SELECT i.consumer, gen_random_uuid(), i.handled_at + c.shift
FROM copy c JOIN log.event e ON e.job_id = c.old JOIN log.inbox i ON i.event_id = e.event_id;
"""

MONEY_SQL = """
CREATE TEMP TABLE entered AS
SELECT gen_random_uuid() AS id, e.id AS old, e.account_id AS old_account, c.id AS job_id,
       c.account_id, c.shift
FROM copy c JOIN billing.entry e ON e.job_id = c.old;
INSERT INTO billing.entry (id, kind, account_id, job_id, memo, created_at, balance_after_cents)
SELECT n.id, e.kind, n.account_id, n.job_id, e.memo, e.created_at + n.shift, e.balance_after_cents
FROM entered n JOIN billing.entry e ON e.id = n.old;
INSERT INTO billing.posting (entry_id, ledger_account, amount_cents)
SELECT n.id, replace(p.ledger_account, n.old_account::text, n.account_id::text), p.amount_cents
FROM entered n JOIN billing.posting p ON p.entry_id = n.old;
INSERT INTO billing.payment (job_id, account_id, status, amount_cents, reserved_at, due_at)
SELECT c.id, c.account_id, p.status, p.amount_cents, p.reserved_at + c.shift, p.due_at
FROM copy c JOIN billing.payment p ON p.job_id = c.old;
INSERT INTO billing.balance (ledger_account, amount_cents)
SELECT kind || owner.id, 1000000 FROM owner, (VALUES ('available:'), ('reserved:')) AS k (kind);
"""

REST_SQL = """
INSERT INTO gateway.account (id, name, plan, created_at)
SELECT id, 'copied', 'free', now() - interval '{years} years' FROM owner;
INSERT INTO gateway.api_key (id, account_id, name, prefix, hash, scopes, created_at)
SELECT gen_random_uuid(), id, 'copied', 'copied', sha256(id::text::bytea), '{{read}}', now()
FROM owner;
INSERT INTO scheduler.turn (account_id, served_at)
SELECT id, now() - interval '1 day' FROM owner;
INSERT INTO artifact.retention (job_id, look_at)
SELECT id, 'infinity' FROM copy ON CONFLICT (job_id) DO UPDATE SET look_at = 'infinity';
INSERT INTO telemetry.metric
SELECT c.id, m.step, m.phase, m.epoch, m.ts + c.shift, m.cycle, m.loss, m.lr, m.throughput,
       m.vram_gb, m.grad_norm
FROM copy c JOIN telemetry.metric m ON m.job_id = c.old;
INSERT INTO telemetry.log_line
SELECT c.id, l.seq, l.epoch, l.ts + c.shift, l.stream, l.line
FROM copy c JOIN telemetry.log_line l ON l.job_id = c.old;
INSERT INTO telemetry.message (account_id, place, job_id, kind, event_id, payload)
SELECT c.account_id, row_number() OVER (PARTITION BY c.account_id ORDER BY c.n DESC, m.place),
       c.id, m.kind, CASE WHEN m.event_id IS NOT NULL THEN gen_random_uuid() END, m.payload
FROM copy c JOIN telemetry.message m ON m.job_id = c.old;
INSERT INTO telemetry.sequence (account_id, last)
SELECT account_id, max(place) FROM telemetry.message WHERE account_id IN (SELECT id FROM owner)
GROUP BY account_id;
INSERT INTO webhooks.notification
    (event_id, job_id, account_id, event_type, occurred_at, payload)
SELECT gen_random_uuid(), c.id, c.account_id, n.event_type, n.occurred_at + c.shift, n.payload
FROM copy c JOIN webhooks.notification n ON n.job_id = c.old;
"""

SIZES_SQL = """
SELECT schemaname || '.' || relname AS name, pg_table_size(relid) AS rows,
       pg_indexes_size(relid) AS indexes
FROM pg_stat_user_tables WHERE pg_total_relation_size(relid) > 0 ORDER BY 1
"""


class TableSize(Struct, frozen=True, kw_only=True):
    """Bytes of a table and of its indexes."""

    name: str
    rows: int
    indexes: int


async def grow(admin: Connection, *, jobs: int, accounts: int) -> None:
    """Copy the jobs that are there until there are ``jobs`` more, of ``accounts`` other accounts.

    ``admin`` is a connection of the owner's with a patient ``command_timeout``.
    """
    names = {"jobs": jobs, "accounts": accounts, "years": YEARS}
    await admin.execute("SET synchronous_commit = off")
    for sql in (COPIES_SQL, EVENTS_SQL, MONEY_SQL, REST_SQL):
        await admin.execute(sql.format(**names))
    await admin.execute("DROP TABLE entered, copy, owner")
    await admin.execute("VACUUM (ANALYZE)")
    await admin.execute("CHECKPOINT")


async def sizes(admin: Connection) -> dict[str, TableSize]:
    rows = await admin.fetch(SIZES_SQL)
    return {row["name"]: TableSize(**row) for row in rows}
