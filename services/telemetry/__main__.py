"""Telemetry: metrics and log lines of running jobs, from JetStream into PostgreSQL, and back: as
pages, and with the changes of their state as one stream an account."""

import os
import sys
from functools import partial

import uvloop

from libs.bus.broker import make_broker
from libs.bus.consume import consume, durable_name, subscribe
from libs.bus.rpc import answer
from libs.bus.service import database, run_service
from libs.contracts.telemetry_rpc import LOGS, MESSAGES, METRICS, OPEN_STREAM
from libs.eventlog.dead_letters import DeadLetters
from libs.jobstate.notice import NOTICE_TYPES
from libs.observability.export import observe
from libs.observability.logs import configure_logs
from libs.settings import SettingsError, decode_settings
from services.telemetry.handlers import store_logs, store_metrics
from services.telemetry.ingest import Ingest
from services.telemetry.settings import Settings
from services.telemetry.states import Teller, tell_state
from services.telemetry.stream_views import open_stream, read_messages
from services.telemetry.tables import LINES, Keeper
from services.telemetry.tables import METRICS as POINTS
from services.telemetry.views import read_logs, read_metrics

POOL_SIZE = 8  # a writer a table, two for changes of state, and four readers
WORKERS = 256  # messages that may share one statement; each waits for the statement before it


async def main() -> None:
    settings = decode_settings(Settings, os.environ)
    configure_logs("telemetry", settings.log_level)
    observed = observe("telemetry", os.environ)
    broker = make_broker(settings.nats_url, settings.nats_ca)
    async with database(settings.database_url, size=POOL_SIZE) as pool:
        letters = DeadLetters(pool=pool)
        metrics = Ingest(Keeper(pool, broker, POINTS).keep)
        lines = Ingest(Keeper(pool, broker, LINES).keep)
        teller = Teller(pool, broker)

        answer(broker, METRICS, partial(read_metrics, pool))
        answer(broker, LOGS, partial(read_logs, pool))
        answer(broker, OPEN_STREAM, partial(open_stream, teller))
        answer(broker, MESSAGES, partial(read_messages, teller))
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
        for event_class in NOTICE_TYPES:
            tell = partial(tell_state, teller)
            consume(broker, "telemetry", event_class, tell, letters=letters)
        await run_service(
            broker,
            "telemetry",
            streams=frozenset({"EVENTS", "TELEMETRY"}),
            letters=letters,
            probe_listen=settings.probe_listen,
            observed=observed,
        )


if __name__ == "__main__":
    try:
        uvloop.run(main())
    except SettingsError as error:
        sys.exit(str(error))
