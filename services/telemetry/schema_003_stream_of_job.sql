-- A job's messages are always asked for with its account, and whether one is done at each opening.

DROP INDEX telemetry.message_of_job;
CREATE INDEX message_of_job ON telemetry.message (account_id, job_id, place);
CREATE INDEX message_done ON telemetry.message (account_id, job_id) WHERE kind = 'done';
