-- What an operator gives up is an entry as well.

ALTER TABLE billing.entry DROP CONSTRAINT entry_kind_check;
ALTER TABLE billing.entry ADD CONSTRAINT entry_kind_check CHECK (kind IN (
    'grant', 'top_up', 'top_up_refund', 'subscription', 'reserve', 'capture', 'void', 'extension',
    'bill', 'charge', 'refund', 'dispute', 'dispute_closed', 'write_off'));
