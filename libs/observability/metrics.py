"""Every metric of the platform's own. Each is written by one module, which imports it from here.

They stand together, and not each in its service, because dashboards, alerts and docs are held
against all of them, and so that a look at one page tells what an operator can see. Requests,
questions between services and messages are measured where they come in (`libs.observability.trace`
and who uses it), under the names of OpenTelemetry's conventions.

A gauge that is read from the database is the same in every replica: a query takes ``max by``.
"""

from libs.observability.instruments import (
    APPENDS,
    DELIVERY,
    METRICS,
    SEAMS,
    WAITS,
    counter,
    gauge,
    histogram,
    level,
    total,
)

LOOKED_AT = 100_000
"""Rows that a look every few seconds counts of what waits. With so many it is known that there is a
backlog, and a longer look would only add to it."""

# Jobs: the scheduler, which writes their history.
JOBS_SUBMITTED = counter("tuneyard.job.submitted", "{job}", "Jobs that were queued.", "job_type")
JOBS_COMPLETED = counter("tuneyard.job.completed", "{job}", "Jobs that completed.", "job_type")
JOBS_FAILED = counter(
    "tuneyard.job.failed",
    "{job}",
    "Jobs that failed, by the code of their failure.",
    "job_type",
    "reason",
)
JOBS_CANCELLED = counter("tuneyard.job.cancelled", "{job}", "Jobs that were cancelled.", "job_type")
JOBS_RECLAIMED = counter(
    "tuneyard.job.reclaimed",
    "{job}",
    "Attempts that were lost, or handed back in order; their job was queued again.",
    "job_type",
    "how",
)
JOB_WAIT = histogram(
    "tuneyard.job.wait.duration",
    "s",
    "From a job's submission to its first lease.",
    "job_type",
    buckets=WAITS,
)
JOB_RUN = histogram(
    "tuneyard.job.run.duration",
    "s",
    "From a job's first start to its end, attempts that were lost included.",
    "job_type",
    "outcome",
    buckets=WAITS,
)
FIRST_CHECKPOINT = histogram(
    "tuneyard.job.first_checkpoint.duration",
    "s",
    "From a job's first start to its first durable checkpoint.",
    "job_type",
    buckets=WAITS,
)
QUEUE = gauge(
    "tuneyard.queue.jobs",
    "{job}",
    "Jobs that have not ended: waiting, leased, or verifying; of all states, up to 100,000.",
    "state",
    "job_type",
)
QUEUE_AGE = gauge(
    "tuneyard.queue.oldest.age",
    "s",
    "How long ago the oldest waiting job was submitted, of those that are counted.",
    "job_type",
)
LEASES = gauge("tuneyard.lease.held", "{lease}", "Leases that trainers hold.")
LEASES_LAPSED = gauge(
    "tuneyard.lease.lapsed", "{lease}", "Leases that have lapsed and were not reclaimed yet."
)

# Results: artifact.
RESULTS_JUDGED = counter(
    "tuneyard.artifact.judged",
    "{result}",
    "Results, by whether they were published or rejected.",
    "outcome",
)
BYTES_PUBLISHED = counter(
    "tuneyard.artifact.published.size", "By", "Bytes of the results that were published."
)

# Money: amounts in minor units of their currency. Movements as the relay publishes their events.
MONEY_MOVED = counter(
    "tuneyard.payment.amount",
    "{minor_unit}",
    "Money, by what happened to it: reserved, captured, voided, pledged, billed, charged, refunded"
    " and so on, as payment events are called.",
    "event",
    "currency",
)
MONEY_HELD = gauge(
    "tuneyard.payment.held.amount",
    "{minor_unit}",
    "Money that is reserved or pledged for jobs that have not ended.",
    "status",
    "currency",
)
PAYMENTS_DUE = gauge(
    "tuneyard.payment.due.age", "s", "For how long the payment waits whose charge is due longest."
)
ACCOUNTS_PAUSED = gauge(
    "tuneyard.account.paused", "{account}", "Accounts that may not submit: a charge is open."
)
PROVIDER_ERRORS = counter(
    "tuneyard.provider.errors",
    "{error}",
    "Questions to the card provider without an outcome.",
    "reason",
)
PROVIDER_EVENTS_WAITING = gauge(
    "tuneyard.provider.event.waiting", "{event}", "Events of the provider's, not handled yet."
)

# Webhooks.
WEBHOOK_ATTEMPTS = counter(
    "tuneyard.webhook.attempts",
    "{attempt}",
    "Attempts to deliver, by outcome: accepted, a class of status codes, or no answer.",
    "outcome",
)
WEBHOOK_LATENCY = histogram(
    "tuneyard.webhook.delivery.duration",
    "s",
    "From an event to its endpoint's acceptance.",
    buckets=DELIVERY,
)
WEBHOOKS_PENDING = gauge(
    "tuneyard.webhook.pending", "{delivery}", "Deliveries that are not settled, retries included."
)
WEBHOOKS_OVERDUE = gauge(
    "tuneyard.webhook.overdue.age",
    "s",
    "For how long the delivery is due that waits longest, of endpoints that do not fail.",
)
WEBHOOK_ENDPOINTS = gauge(
    "tuneyard.webhook.endpoints",
    "{endpoint}",
    "Endpoints: healthy, failing, held (they asked for a pause), or disabled.",
    "state",
)

# The gateway.
STREAMS_OPEN = level("tuneyard.stream.open", "{stream}", "Live streams that are open.")
RATE_LIMITED = counter("tuneyard.http.rate_limited", "{request}", "Requests that came too fast.")

# Trainers, each of its own job.
TRAINER_BUSY = level("tuneyard.trainer.busy", "{job}", "Jobs that the trainer has.")
TOKENS = counter("tuneyard.trainer.tokens", "{token}", "Tokens that were trained on.", "job_type")
THROUGHPUT = gauge(
    "tuneyard.trainer.throughput", "{token}/s", "Tokens per second at the last step.", "job_type"
)
GPU_MEMORY = gauge(
    "tuneyard.trainer.gpu.memory",
    "By",
    "The most GPU memory that training has held so far; 0 on a CPU.",
    "job_type",
)

# The log and the bus: the relay looks at them for all.
EVENTS_PUBLISHED = counter(
    "tuneyard.event.published",
    "{event}",
    "Events of the log that were published, each once.",
    "type",
)
OUTBOX = gauge(
    "tuneyard.outbox.events",
    "{event}",
    "Committed events that are not published yet, up to 100,000.",
)
OUTBOX_AGE = gauge(
    "tuneyard.outbox.oldest.age", "s", "How long ago the oldest of them was committed; 0: none is."
)
RELAY_LEADS = gauge("tuneyard.relay.leads", "{process}", "1 in the relay that publishes.")
CONSUMER_PENDING = gauge(
    "tuneyard.consumer.pending",
    "{message}",
    "Messages that wait to be delivered to a consumer.",
    "stream",
    "consumer",
)
CONSUMER_UNACKED = gauge(
    "tuneyard.consumer.unacknowledged",
    "{message}",
    "Messages that were delivered and are not acknowledged.",
    "stream",
    "consumer",
)
CONSUMER_REDELIVERED = gauge(
    "tuneyard.consumer.redelivered",
    "{message}",
    "Unacknowledged messages that were delivered more than once.",
    "stream",
    "consumer",
)
STREAM_MESSAGES = gauge(
    "tuneyard.nats.stream.messages", "{message}", "Messages that JetStream keeps.", "stream"
)
STREAM_SIZE = gauge("tuneyard.nats.stream.size", "By", "Bytes that JetStream keeps.", "stream")
DEAD_LETTERS = gauge(
    "tuneyard.dead_letter.messages", "{message}", "Messages that could not be handled.", "consumer"
)

# PostgreSQL, as the relay sees it.
CONNECTIONS = gauge("tuneyard.postgres.connections", "{connection}", "Connections, of all clients.")
MAX_CONNECTIONS = gauge(
    "tuneyard.postgres.max_connections", "{connection}", "Connections that there may be."
)
TRANSACTIONS = total(
    "tuneyard.postgres.transactions",
    "{transaction}",
    "Transactions, committed and rolled back.",
    "outcome",
)
DEADLOCKS = total("tuneyard.postgres.deadlocks", "{deadlock}", "Deadlocks that were broken.")
DATABASE_SIZE = gauge("tuneyard.postgres.size", "By", "Bytes of the database on its disk.")

# Every process.
LOOP_LAG = histogram(
    "tuneyard.process.loop.lag", "s", "How much later than asked for the event loop came back."
)
BATCH = histogram(
    "tuneyard.log.commit.appends",
    "{append}",
    "Appends that shared a transaction.",
    buckets=APPENDS,
)
POOL_WAIT = histogram(
    "tuneyard.postgres.pool.wait.duration",
    "s",
    "How long who found no free connection waited for one.",
)
OBSERVATION_FAILED = counter(
    "tuneyard.observation.failures",
    "{look}",
    "Looks at the database or at NATS that failed.",
    "what",
)

# By OpenTelemetry's conventions, measured at the seams where requests and messages come in.
REQUESTS = histogram(
    "http.server.request.duration",
    "s",
    "HTTP requests, by route, method and status.",
    *("http_request_method", "http_response_status_code", "http_route"),
    buckets=SEAMS,
)
ANSWERS = histogram(
    "rpc.server.duration",
    "s",
    "Questions that a service answered.",
    *("rpc_system_name", "rpc_method", "tuneyard_outcome"),
    buckets=SEAMS,
)
QUESTIONS = histogram(
    "rpc.client.duration",
    "s",
    "Questions that a service asked, over all tries.",
    *("rpc_system_name", "rpc_method", "tuneyard_outcome"),
    buckets=SEAMS,
)
HANDLED = histogram(
    "messaging.process.duration",
    "s",
    "Messages that a consumer handled.",
    *("messaging_system", "messaging_operation_type", "messaging_consumer_group_name"),
    "tuneyard_outcome",
    buckets=SEAMS,
)

ALL = METRICS
"""Every metric that is declared above, by its name."""
