-- Endpoints, what is on its way to them, and what came of every attempt.

CREATE TABLE webhooks.endpoint (
    id              uuid PRIMARY KEY,
    account_id      uuid NOT NULL,
    url             text NOT NULL,
    description     text,
    event_types     text[],               -- null: all, also those that come later
    enabled         boolean NOT NULL,
    disabled_reason text,                 -- why it was switched off by itself: gone, failing
    disabled_at     timestamptz,
    secret          bytea NOT NULL,
    previous_secret bytea,                -- signs as well, until then
    previous_until  timestamptz,
    failing_since   timestamptz,          -- the first failure after the last success
    held_until      timestamptz,          -- it asked for a pause
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    idempotency_key text,
    request_sha256  text NOT NULL
);
CREATE INDEX endpoint_newest ON webhooks.endpoint (account_id, created_at DESC, id DESC);

-- The bytes that every attempt sends. Null only in what was recorded before there was delivery.
ALTER TABLE webhooks.notification ADD COLUMN payload bytea;
CREATE INDEX notification_since ON webhooks.notification (account_id, occurred_at);

-- A claim moves next_at behind the longest attempt: if its process dies, the attempt comes again.
-- ``step`` is the place in the schedule, ``attempts`` counts all that were made.
CREATE TABLE webhooks.delivery (
    id           uuid PRIMARY KEY,
    endpoint_id  uuid NOT NULL REFERENCES webhooks.endpoint ON DELETE CASCADE,
    event_id     uuid NOT NULL,
    event_type   text NOT NULL,
    job_id       uuid,                    -- null: a ping
    status       text NOT NULL,           -- pending, delivered, failed
    step         integer NOT NULL,
    attempts     integer NOT NULL,
    next_at      timestamptz,             -- null once it is not pending
    delivered_at timestamptz,
    created_at   timestamptz NOT NULL,
    payload      bytea,                   -- a ping's own; null: the notification's
    UNIQUE (endpoint_id, event_id)
);
CREATE INDEX delivery_newest ON webhooks.delivery (endpoint_id, created_at DESC, id DESC);
CREATE INDEX delivery_due ON webhooks.delivery (endpoint_id, next_at) WHERE status = 'pending';

CREATE TABLE webhooks.attempt (
    delivery_id uuid NOT NULL REFERENCES webhooks.delivery ON DELETE CASCADE,
    number      integer NOT NULL,
    started_at  timestamptz NOT NULL,
    latency_ms  integer NOT NULL,
    status_code integer,                  -- null: no answer came, and error says why
    error       text,
    response    text,                     -- the first KB
    PRIMARY KEY (delivery_id, number)
);

GRANT SELECT, INSERT, UPDATE, DELETE
    ON webhooks.endpoint, webhooks.delivery, webhooks.attempt TO webhooks;
GRANT UPDATE, DELETE ON webhooks.notification TO webhooks;
