"""Dashboards of what customers meet: requests, jobs, and the trainers that run them."""

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

REQUESTS = "http_server_request_duration_seconds"

OVERVIEW = Dashboard(
    uid="tuneyard-overview",
    title="Tuneyard: overview",
    panels=(
        Panel(
            title="Requests by status",
            unit="reqps",
            queries=(
                Query(
                    rate(f"{REQUESTS}_count", "http_response_status_code"),
                    "{{http_response_status_code}}",
                ),
            ),
        ),
        Panel(
            title="Requests that failed by our fault",
            unit="percentunit",
            queries=(
                Query(
                    f'sum(rate({REQUESTS}_count{{http_response_status_code=~"5.."}}[{EVERY}]))'
                    f" / sum(rate({REQUESTS}_count[{EVERY}]))",
                    "5xx",
                ),
            ),
        ),
        Panel(title="How long requests take", unit="s", queries=quantiles(REQUESTS)),
        Panel(
            title="Slow routes (p95)",
            unit="s",
            queries=(quantile_by(REQUESTS, 0.95, "http_request_method", "http_route"),),
        ),
        Panel(
            title="Questions between services (p99)",
            unit="s",
            queries=(quantile_by("rpc_client_duration_seconds", 0.99, "rpc_method"),),
        ),
        Panel(
            title="Questions without an answer",
            unit="ops",
            queries=(
                Query(
                    rate(
                        'rpc_client_duration_seconds_count{tuneyard_outcome!="answered"}',
                        "rpc_method",
                    ),
                    "{{rpc_method}}",
                ),
            ),
        ),
        Panel(
            title="Event loops behind time (p99)",
            unit="s",
            queries=(quantile_by("tuneyard_process_loop_lag_seconds", 0.99, "service_name"),),
        ),
        Panel(
            title="Processes that report",
            queries=(
                Query(
                    "count by (service_name) (tuneyard_process_loop_lag_seconds_count)",
                    "{{service_name}}",
                ),
            ),
        ),
        Panel(
            title="Live streams",
            queries=(Query("sum(tuneyard_stream_open)", "open"),),
        ),
        Panel(
            title="Requests over their rate",
            unit="reqps",
            queries=(Query(rate("tuneyard_http_rate_limited_total"), "refused"),),
        ),
    ),
)

JOBS = Dashboard(
    uid="tuneyard-jobs",
    title="Tuneyard: jobs and queue",
    panels=(
        Panel(
            title="Jobs that have not ended",
            queries=(
                Query(
                    highest("tuneyard_queue_jobs", "state", "job_type"), "{{job_type}} {{state}}"
                ),
            ),
        ),
        Panel(
            title="Age of the oldest waiting job",
            unit="s",
            queries=(
                Query(highest("tuneyard_queue_oldest_age_seconds", "job_type"), "{{job_type}}"),
            ),
        ),
        Panel(
            title="Jobs submitted and ended",
            unit="ops",
            queries=(
                Query(rate("tuneyard_job_submitted_total"), "submitted"),
                Query(rate("tuneyard_job_completed_total"), "completed"),
                Query(rate("tuneyard_job_failed_total"), "failed"),
                Query(rate("tuneyard_job_cancelled_total"), "cancelled"),
            ),
        ),
        Panel(
            title="Failures by reason",
            unit="ops",
            queries=(Query(rate("tuneyard_job_failed_total", "reason"), "{{reason}}"),),
        ),
        Panel(
            title="Wait for a trainer",
            unit="s",
            queries=quantiles("tuneyard_job_wait_duration_seconds"),
        ),
        Panel(
            title="Run, by type (median)",
            unit="s",
            queries=(quantile_by("tuneyard_job_run_duration_seconds", 0.5, "job_type"),),
        ),
        Panel(
            title="Start to first checkpoint",
            unit="s",
            queries=quantiles("tuneyard_job_first_checkpoint_duration_seconds", 0.5, 0.95),
        ),
        Panel(
            title="Attempts lost, or handed back",
            unit="ops",
            queries=(Query(rate("tuneyard_job_reclaimed_total", "how"), "{{how}}"),),
        ),
        Panel(
            title="Leases",
            queries=(
                Query(highest("tuneyard_lease_held"), "held"),
                Query(highest("tuneyard_lease_lapsed"), "lapsed"),
            ),
        ),
        Panel(
            title="Results",
            unit="ops",
            queries=(Query(rate("tuneyard_artifact_judged_total", "outcome"), "{{outcome}}"),),
        ),
    ),
)

TRAINERS = Dashboard(
    uid="tuneyard-trainers",
    title="Tuneyard: trainers",
    panels=(
        Panel(
            title="Trainers with a job, and all",
            queries=(
                Query("sum(tuneyard_trainer_busy)", "busy"),
                Query(
                    "count(tuneyard_process_loop_lag_seconds_count"
                    '{service_name="tuneyard-trainer"})',
                    "all",
                ),
            ),
        ),
        Panel(
            title="Tokens per second, of each trainer",
            unit="ops",
            queries=(
                Query(
                    highest("tuneyard_trainer_throughput_per_second", "service_instance_id"),
                    "{{service_instance_id}}",
                ),
            ),
        ),
        Panel(
            title="Tokens per second, of all, by type",
            unit="ops",
            queries=(Query(rate("tuneyard_trainer_tokens_total", "job_type"), "{{job_type}}"),),
        ),
        Panel(
            title="GPU memory at its highest",
            unit="bytes",
            queries=(
                Query(
                    highest("tuneyard_trainer_gpu_memory_bytes", "service_instance_id"),
                    "{{service_instance_id}}",
                ),
            ),
        ),
        Panel(
            title="Results published",
            unit="bytes",
            queries=(Query(rate("tuneyard_artifact_published_size_bytes_total"), "per second"),),
        ),
    ),
)
