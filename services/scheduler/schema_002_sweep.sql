-- When lapsed leases were last looked for, by whichever scheduler: only when nobody did for a while
-- were heartbeats lost with us, and not with their trainers.

CREATE TABLE scheduler.sweep (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    swept_at timestamptz NOT NULL
);
GRANT SELECT, INSERT, UPDATE ON scheduler.sweep TO scheduler;
