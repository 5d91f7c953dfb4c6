"""The scheduler: owns the queue, gives leases, and writes every job's history."""

import os
import sys
from datetime import UTC, datetime
from functools import partial
from uuid import uuid4

import uvloop

from libs.bus.broker import make_broker
from libs.bus.consume import consume, subscribe
from libs.bus.rpc import answer
from libs.bus.service import database, every, run_service, watched
from libs.bus.streams import nudge_relay
from libs.contracts import scheduler_rpc
from libs.contracts.artifact import ArtifactPublished, ArtifactRejected
from libs.contracts.billing import PaymentExtensionCharged
from libs.contracts.gateway import JobSubmitted
from libs.eventlog.dead_letters import DeadLetters
from libs.observability.export import observe
from libs.observability.logs import configure_logs
from libs.settings import SettingsError, decode_settings
from services.scheduler import gauges, handlers, leasing, reports, retention
from services.scheduler.settings import Settings

POOL_SIZE = 12
SWEEP_EVERY = 1.0  # seconds


async def main() -> None:
    settings = decode_settings(Settings, os.environ)
    configure_logs("scheduler", settings.log_level)
    observed = observe("scheduler", os.environ)
    broker = make_broker(settings.nats_url, settings.nats_ca)
    async with database(settings.database_url, size=POOL_SIZE) as pool:
        scheduler = handlers.Scheduler(
            pool=pool,
            now=lambda: datetime.now(UTC),
            new_id=uuid4,
            committed=nudge_relay(broker),
            unheard=partial(reports.unheard, broker),
            hears=partial(reports.hears, broker),
        )
        letters = DeadLetters(pool=pool)
        answer(broker, scheduler_rpc.LEASE, partial(leasing.lease_job, scheduler))
        answer(broker, scheduler_rpc.HEARTBEAT, partial(leasing.renew_lease, scheduler))
        answer(broker, scheduler_rpc.CANCEL, partial(handlers.cancel_job, scheduler))
        answer(
            broker,
            scheduler_rpc.EXTEND_RETENTION,
            partial(retention.extend_retention, scheduler),
        )
        on = partial(consume, broker, "scheduler", letters=letters)
        on(JobSubmitted, partial(handlers.enqueue_job, scheduler))
        on(ArtifactPublished, partial(handlers.complete_job, scheduler))
        on(ArtifactRejected, partial(handlers.reject_job, scheduler))
        on(PaymentExtensionCharged, partial(retention.keep_longer, scheduler))
        subscribe(
            broker,
            service="scheduler",
            stream="REPORTS",
            subject="reports.>",
            durable=reports.REPORTS,
            handle=partial(reports.handle_in_turn, broker, scheduler),
            letters=letters,
            delays=reports.DELAYS,
            ack_wait=reports.WAIT,
        )
        async with (
            every(SWEEP_EVERY, partial(leasing.reclaim_lapsed, scheduler)),
            watched(observed, "queue", partial(gauges.look, pool, scheduler.now), *gauges.ALL),
        ):
            await run_service(
                broker,
                "scheduler",
                streams=frozenset({"EVENTS", "REPORTS"}),
                letters=letters,
                probe_listen=settings.probe_listen,
                observed=observed,
            )


if __name__ == "__main__":
    try:
        uvloop.run(main())
    except SettingsError as error:
        sys.exit(str(error))
