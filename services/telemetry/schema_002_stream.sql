-- What an account's live streams show, in one order: one row a message, never changed.

-- The place of the account's last message. Whoever adds some holds this row until the commit, so
-- places have no holes and nobody sees a place before all that are lower.
CREATE TABLE telemetry.sequence (
    account_id uuid PRIMARY KEY,
    last       bigint NOT NULL
);

CREATE TABLE telemetry.message (
    account_id uuid NOT NULL,
    place      bigint NOT NULL,
    job_id     uuid NOT NULL,
    kind       text NOT NULL,             -- state, metrics, log, done
    event_id   uuid,                      -- of a state, and of the done that repeats it
    payload    bytea NOT NULL,            -- JSON in UTF-8, as it is sent
    PRIMARY KEY (account_id, place)
);
CREATE INDEX message_of_job ON telemetry.message (job_id, place);
CREATE UNIQUE INDEX message_of_event ON telemetry.message (event_id, kind)
    WHERE event_id IS NOT NULL;

-- What was told before there were streams, job by job. Changes of state are added when a stream is
-- opened: they follow from the log, which SQL can't fold.
WITH point AS (
    SELECT *, (row_number() OVER (PARTITION BY job_id ORDER BY step, ts, phase) - 1) / 500 AS part
    FROM telemetry.metric
), line AS (
    SELECT *, (row_number() OVER (PARTITION BY job_id ORDER BY seq) - 1) / 10 AS part
    FROM telemetry.log_line
), told AS (
    SELECT job_id, 'metrics' AS kind, part, json_build_object(
        'job_id', job_id,
        'points', json_agg(json_build_object(
            'ts', to_char(ts AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'step', step,
            'cycle', cycle, 'phase', phase, 'loss', loss, 'lr', lr, 'throughput', throughput,
            'vram_gb', vram_gb, 'grad_norm', grad_norm) ORDER BY step, ts, phase))::text AS payload
    FROM point GROUP BY job_id, part
    UNION ALL
    SELECT job_id, 'log', part, json_build_object(
        'job_id', job_id,
        'lines', json_agg(json_build_object(
            'seq', seq, 'ts', to_char(ts AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            'stream', stream, 'text', line) ORDER BY seq))::text
    FROM line GROUP BY job_id, part
)
INSERT INTO telemetry.message (account_id, place, job_id, kind, payload)
SELECT job.account_id,
       row_number() OVER (PARTITION BY job.account_id
                          ORDER BY job.created_at, told.job_id, told.kind DESC, told.part),
       told.job_id, told.kind, convert_to(told.payload, 'UTF8')
FROM told JOIN log.job job ON job.id = told.job_id;

INSERT INTO telemetry.sequence (account_id, last)
SELECT account_id, max(place) FROM telemetry.message GROUP BY account_id;

GRANT SELECT, INSERT, UPDATE ON telemetry.sequence TO telemetry;
GRANT SELECT, INSERT ON telemetry.message TO telemetry;
