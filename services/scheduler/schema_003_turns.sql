-- Whose turn it is, without reading the queue: how much each account has waiting and running stands
-- beside when it was served last, in the order in which accounts are served. A lease then costs the
-- same however many jobs and accounts wait.

-- Schedulers of the release before go on meanwhile: what they queue is counted once, here or by the
-- trigger. They lock the queue first, too.
LOCK TABLE scheduler.queue IN SHARE ROW EXCLUSIVE MODE;

ALTER TABLE scheduler.turn
    ALTER COLUMN served_at DROP NOT NULL,              -- never served
    ADD COLUMN leased   integer NOT NULL DEFAULT 0,
    ADD COLUMN standard integer NOT NULL DEFAULT 0,    -- waiting, by class
    ADD COLUMN priority integer NOT NULL DEFAULT 0;

INSERT INTO scheduler.turn (account_id, leased, standard, priority)
SELECT account_id, count(*) FILTER (WHERE status = 'leased'),
       count(*) FILTER (WHERE status = 'waiting' AND NOT priority),
       count(*) FILTER (WHERE status = 'waiting' AND priority)
FROM scheduler.queue GROUP BY account_id
ON CONFLICT (account_id) DO UPDATE SET
    leased = excluded.leased, standard = excluded.standard, priority = excluded.priority;

CREATE INDEX turn_standard ON scheduler.turn (leased, served_at NULLS FIRST) WHERE standard > 0;
CREATE INDEX turn_priority ON scheduler.turn (leased, served_at NULLS FIRST) WHERE priority > 0;
CREATE INDEX queue_oldest ON scheduler.queue (submitted_at)
    WHERE status = 'waiting' AND NOT priority;
CREATE INDEX lease_of_trainer ON scheduler.lease (trainer_id);

-- A trigger, so that whatever changes the queue keeps the counts. It locks the account's row until
-- the commit, and the job's row was locked before it: transactions never wait in a circle.
CREATE FUNCTION scheduler.keep_count() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO scheduler.turn AS t (account_id, leased, standard, priority)
    SELECT account_id, coalesce(sum(sign) FILTER (WHERE status = 'leased'), 0),
           coalesce(sum(sign) FILTER (WHERE status = 'waiting' AND NOT priority), 0),
           coalesce(sum(sign) FILTER (WHERE status = 'waiting' AND priority), 0)
    FROM (VALUES (OLD.account_id, OLD.status, OLD.priority, -1),
                 (NEW.account_id, NEW.status, NEW.priority, 1))
        AS change (account_id, status, priority, sign)
    WHERE account_id IS NOT NULL
    GROUP BY account_id
    ON CONFLICT (account_id) DO UPDATE SET
        leased = t.leased + excluded.leased, standard = t.standard + excluded.standard,
        priority = t.priority + excluded.priority;
    RETURN NULL;
END $$;
CREATE TRIGGER counted AFTER INSERT OR DELETE ON scheduler.queue
    FOR EACH ROW EXECUTE FUNCTION scheduler.keep_count();
CREATE TRIGGER recounted AFTER UPDATE ON scheduler.queue
    FOR EACH ROW WHEN ((OLD.account_id, OLD.status, OLD.priority)
                       IS DISTINCT FROM (NEW.account_id, NEW.status, NEW.priority))
    EXECUTE FUNCTION scheduler.keep_count();
