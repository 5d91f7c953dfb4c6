-- An operator may have a dead letter handled again, by the consumer that could not.

-- How often the message was tried in all: deliveries before it was buried, and retries since.
ALTER TABLE log.dead_letter ADD COLUMN tries integer NOT NULL DEFAULT 1;
-- Above 0: an operator wants it handled again. An attempt takes one before it begins, so that a
-- message which kills its process is not tried for ever.
ALTER TABLE log.dead_letter ADD COLUMN attempts_left integer NOT NULL DEFAULT 0;
CREATE INDEX dead_letter_wanted ON log.dead_letter (consumer, id) WHERE attempts_left > 0;

-- A consumer's name begins with its service's, which is its role's: a service sees, keeps and
-- removes its own dead letters only.
ALTER TABLE log.dead_letter ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_consumers ON log.dead_letter
    USING (starts_with(consumer, current_user || '-'));
GRANT UPDATE, DELETE ON log.dead_letter
    TO gateway, billing, scheduler, artifact, webhooks, telemetry;
