-- What the sender looks for: the earliest of each endpoint, and pings, which wait for no one.

DROP INDEX webhooks.delivery_due;
CREATE INDEX delivery_due ON webhooks.delivery (endpoint_id, next_at)
    WHERE status = 'pending' AND payload IS NULL;
CREATE INDEX ping_due ON webhooks.delivery (next_at)
    WHERE status = 'pending' AND payload IS NOT NULL;

-- What retention looks for.
CREATE INDEX delivery_oldest ON webhooks.delivery (created_at);
CREATE INDEX notification_oldest ON webhooks.notification (occurred_at);

-- Every delivery is changed twice and more; a queue must not wait for a fifth of it to be dead.
ALTER TABLE webhooks.delivery
    SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
