-- Of what only grows, so an entry goes to its end and costs an append next to nothing. Appends wait
-- while it is made, one second a million rows (measured): a file of its own, which locks nothing else.
-- An operator of many more makes it before, by this name and CONCURRENTLY.

CREATE INDEX IF NOT EXISTS inbox_oldest ON log.inbox (handled_at);
