-- What can't be delivered again is trimmed from the inbox: libs/bus/trim.py says what that is.

-- One row. Until then nothing is trimmed, since an event went out so late that its row may be due.
CREATE TABLE log.inbox_hold (
    until timestamptz NOT NULL
);
INSERT INTO log.inbox_hold VALUES ('-infinity');

-- A message that was buried may have had its effect all the same: its consumer died between the
-- two, or was told nothing of its commit. For as long as somebody can have it handled again, its
-- row in the inbox stays. The first id in a payload is its message's; what can't be read has none.
ALTER TABLE log.dead_letter ADD COLUMN message_id uuid GENERATED ALWAYS AS (
    substring(
        encode(payload, 'escape')
        FROM '"(?:event|report)_id":"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"'
    )::uuid
) STORED;
CREATE INDEX dead_letter_message ON log.dead_letter (consumer, message_id);
CREATE POLICY relay_reads ON log.dead_letter FOR SELECT TO relay USING (true);

GRANT DELETE ON log.inbox TO relay;
GRANT SELECT, UPDATE ON log.inbox_hold TO relay;
