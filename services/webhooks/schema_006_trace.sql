-- The trace in which an event was recorded for delivery: attempts at it belong there, whenever they
-- are made. What was recorded before has none.
ALTER TABLE webhooks.notification ADD COLUMN traceparent text;
