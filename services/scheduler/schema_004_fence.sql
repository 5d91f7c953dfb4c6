-- Under which no fencing epoch is given any more: an installation that was restored from a backup does
-- not know which ones it gave after the moment it was taken back to.

CREATE TABLE scheduler.fence (
    alone boolean PRIMARY KEY DEFAULT true CHECK (alone),
    floor integer NOT NULL CHECK (floor >= 0)
);
INSERT INTO scheduler.fence (floor) VALUES (0);

GRANT SELECT ON scheduler.fence TO scheduler;
