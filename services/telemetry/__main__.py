"""Telemetry: metrics and log lines of running jobs, from JetStream into PostgreSQL, and back."""

import os
from functools import partial

import uvloop

from libs.bus.broker import make_broker
from libs.bus.consume import durable_name, subscribe
from libs.bus.rpc import answer
from libs.bus.service import database, run_service
from libs.contracts.telemetry_rpc import LOGS, METRICS
from libs.eventlog.dead_letters import DeadLetters
from libs.observability.logs import configure_logs
from libs.settings import decode_settings
from services.telemetry.handlers import store_logs, store_metrics
from services.telemetry.ingest import LINES_SQL, METRICS_SQL, Ingest
from services.telemetry.settings import Settings
from services.telemetry.views import read_logs, read_metrics

POOL_SIZE = 6  # a writer a table, and four readers
WORKERS = 256  # messages that may share one statement; each waits for the statement before it


async def main() -> None:
    settings = decode_settings(Settings, os.environ)
    configure_logs("telemetry", settings.log_level)
    broker = make_broker(settings.nats_url)
    async with database(settings.database_url, size=POOL_SIZE) as pool:
        letters = DeadLetters(pool=pool)
        metrics, lines = Ingest(pool, METRICS_SQL), Ingest(pool, LINES_SQL)

        answer(broker, METRICS, partial(read_metrics, pool))
        answer(broker, LOGS, partial(read_logs, pool))
        for subject, handle in (
            ("telemetry.metrics.*", partial(store_metrics, metrics)),
            ("telemetry.logs.*", partial(store_logs, lines)),
        ):
            subscribe(
                broker,
                service="telemetry",
                stream="TELEMETRY",
                subject=subject,
                durable=durable_name("telemetry", subject.split(".")[1]),
                handle=handle,
                letters=letters,
                workers=WORKERS,
            )
        await run_service(broker, "telemetry", streams=frozenset({"TELEMETRY"}), letters=letters)


if __name__ == "__main__":
    uvloop.run(main())
