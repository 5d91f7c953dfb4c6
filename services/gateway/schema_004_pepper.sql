-- By which pepper a key is hashed, so that an operator who changes it sees when the former one can
-- be forgotten: the beginning of an HMAC under it. Null: of before there was a mark.
ALTER TABLE gateway.api_key ADD COLUMN hashed_with text;
