-- What kind of job waits: an operator sees the queue by it.

ALTER TABLE scheduler.queue ADD COLUMN job_type text;
UPDATE scheduler.queue q
SET job_type = convert_from(j.state, 'UTF8')::jsonb ->> 'type'
FROM log.job j WHERE j.id = q.job_id;
