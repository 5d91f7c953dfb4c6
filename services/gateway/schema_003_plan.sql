-- Which of billing's readings of the account's subscription its plan follows; 0: none yet.
ALTER TABLE gateway.account ADD COLUMN plan_reading bigint NOT NULL DEFAULT 0;
