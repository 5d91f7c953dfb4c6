-- An endpoint that its owner has removed has no account any more. What it leaves behind, a month of
-- deliveries and their attempts, is deleted in batches: no request waits for as much as that.

ALTER TABLE webhooks.endpoint ALTER COLUMN account_id DROP NOT NULL;
CREATE INDEX endpoint_removed ON webhooks.endpoint (id) WHERE account_id IS NULL;
