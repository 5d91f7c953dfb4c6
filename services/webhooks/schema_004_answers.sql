-- What was answered under an idempotency key, to be answered again for a day, secrets included.

CREATE TABLE webhooks.answer (
    account_id      uuid NOT NULL,
    idempotency_key text NOT NULL,
    request_sha256  text NOT NULL,
    answer          bytea NOT NULL,
    created_at      timestamptz NOT NULL,
    PRIMARY KEY (account_id, idempotency_key)
);
CREATE INDEX answer_oldest ON webhooks.answer (created_at);
GRANT SELECT, INSERT, UPDATE, DELETE ON webhooks.answer TO webhooks;

-- A key stands for an answer, which a change of the endpoint does not change.
ALTER TABLE webhooks.endpoint DROP COLUMN idempotency_key, DROP COLUMN request_sha256;

-- What was given up is looked for among all that was delivered.
CREATE INDEX delivery_failed ON webhooks.delivery (endpoint_id, created_at DESC, id DESC)
    WHERE status = 'failed';
