-- Which lease a trainer was given last: only of that one it may not know. The release before knows
-- nothing of it, and takes each for the newest, as it always has.

ALTER TABLE scheduler.lease ADD COLUMN newest boolean NOT NULL DEFAULT true;
