"""Dashboards of what stands behind: money, webhooks, the log and its engines."""

from deploy.observability.panels import (
    EVERY,
    Dashboard,
    Panel,
    Query,
    highest,
    quantile_by,
    quantiles,
    rate,
)

MONEY = Dashboard(
    uid="tuneyard-money",
    title="Tuneyard: money",
    panels=(
        Panel(
            title="Held for jobs that have not ended",
            unit="currency",
            description="In minor units of the currency, such as cents.",
            queries=(
                Query(
                    highest("tuneyard_payment_held_amount", "status", "currency"),
                    "{{status}} {{currency}}",
                ),
            ),
        ),
        Panel(
            title="Moved in the hour before",
            unit="currency",
            description="In minor units of the currency, such as cents.",
            queries=(
                Query(
                    "sum by (event, currency) (increase(tuneyard_payment_amount_total[1h]))",
                    "{{event}} {{currency}}",
                ),
            ),
        ),
        Panel(
            title="Given back, of what was reserved in the day before",
            unit="percentunit",
            queries=(
                Query(
                    'sum(increase(tuneyard_payment_amount_total{event="voided"}[1d]))'
                    ' / sum(increase(tuneyard_payment_amount_total{event="reserved"}[1d]))',
                    "voided",
                ),
            ),
        ),
        Panel(
            title="Questions to the card provider without an outcome",
            unit="ops",
            queries=(Query(rate("tuneyard_provider_errors_total", "reason"), "{{reason}}"),),
        ),
        Panel(
            title="The charge that is due longest",
            unit="s",
            queries=(Query(highest("tuneyard_payment_due_age_seconds"), "due for"),),
        ),
        Panel(
            title="Open at the provider",
            queries=(
                Query(highest("tuneyard_provider_event_waiting"), "events not handled"),
                Query(highest("tuneyard_account_paused"), "accounts paused"),
            ),
        ),
    ),
)

WEBHOOKS = Dashboard(
    uid="tuneyard-webhooks",
    title="Tuneyard: webhooks",
    panels=(
        Panel(
            title="Attempts by outcome",
            unit="ops",
            queries=(Query(rate("tuneyard_webhook_attempts_total", "outcome"), "{{outcome}}"),),
        ),
        Panel(
            title="From the event to its acceptance",
            unit="s",
            queries=quantiles("tuneyard_webhook_delivery_duration_seconds"),
        ),
        Panel(
            title="Deliveries that are not settled",
            queries=(Query(highest("tuneyard_webhook_pending"), "pending"),),
        ),
        Panel(
            title="The delivery that waits for us longest",
            unit="s",
            queries=(Query(highest("tuneyard_webhook_overdue_age_seconds"), "overdue for"),),
        ),
        Panel(
            title="Endpoints",
            queries=(Query(highest("tuneyard_webhook_endpoints", "state"), "{{state}}"),),
        ),
    ),
)

ENGINES = Dashboard(
    uid="tuneyard-engines",
    title="Tuneyard: log, NATS and PostgreSQL",
    panels=(
        Panel(
            title="Outbox",
            queries=(Query(highest("tuneyard_outbox_events"), "not published"),),
        ),
        Panel(
            title="Age of the oldest event in it",
            unit="s",
            queries=(Query(highest("tuneyard_outbox_oldest_age_seconds"), "age"),),
        ),
        Panel(
            title="Events published",
            unit="ops",
            queries=(Query(rate("tuneyard_event_published_total", "type"), "{{type}}"),),
        ),
        Panel(
            title="Relays that lead",
            queries=(Query("sum(tuneyard_relay_leads)", "leading"),),
        ),
        Panel(
            title="Consumers that are furthest behind",
            queries=(
                Query(
                    f"topk(10, {highest('tuneyard_consumer_pending', 'consumer')} > 0)",
                    "{{consumer}}",
                ),
            ),
        ),
        Panel(
            title="Delivered and not acknowledged",
            queries=(
                Query(
                    f"topk(10, {highest('tuneyard_consumer_unacknowledged', 'consumer')} > 0)",
                    "{{consumer}}",
                ),
                Query(
                    f"topk(10, {highest('tuneyard_consumer_redelivered', 'consumer')} > 0)",
                    "{{consumer}} again",
                ),
            ),
        ),
        Panel(
            title="Handling a message (p99)",
            unit="s",
            queries=(
                quantile_by(
                    "messaging_process_duration_seconds", 0.99, "messaging_consumer_group_name"
                ),
            ),
        ),
        Panel(
            title="Dead letters",
            queries=(
                Query(
                    f"{highest('tuneyard_dead_letter_messages', 'consumer')} > 0", "{{consumer}}"
                ),
            ),
        ),
        Panel(
            title="JetStream",
            unit="bytes",
            queries=(Query(highest("tuneyard_nats_stream_size_bytes", "stream"), "{{stream}}"),),
        ),
        Panel(
            title="Messages that JetStream keeps",
            queries=(Query(highest("tuneyard_nats_stream_messages", "stream"), "{{stream}}"),),
        ),
        Panel(
            title="PostgreSQL's connections",
            queries=(
                Query(highest("tuneyard_postgres_connections"), "open"),
                Query(highest("tuneyard_postgres_max_connections"), "at most"),
            ),
        ),
        Panel(
            title="PostgreSQL's transactions",
            unit="ops",
            queries=(
                Query(
                    f"max by (outcome) (rate(tuneyard_postgres_transactions_total[{EVERY}]))",
                    "{{outcome}}",
                ),
                Query(f"max(rate(tuneyard_postgres_deadlocks_total[{EVERY}]))", "deadlocks"),
            ),
        ),
        Panel(
            title="Waits for a free connection (p99)",
            unit="s",
            queries=(
                quantile_by("tuneyard_postgres_pool_wait_duration_seconds", 0.99, "service_name"),
            ),
        ),
        Panel(
            title="Appends a commit",
            queries=(
                Query(
                    f"{rate('tuneyard_log_commit_appends_sum', 'service_name')}"
                    f" / {rate('tuneyard_log_commit_appends_count', 'service_name')}",
                    "{{service_name}}",
                ),
            ),
        ),
        Panel(
            title="The database on its disk",
            unit="bytes",
            queries=(Query(highest("tuneyard_postgres_size_bytes"), "size"),),
        ),
        Panel(
            title="Looks that failed",
            unit="ops",
            queries=(Query(rate("tuneyard_observation_failures_total", "what"), "{{what}}"),),
        ),
    ),
)
