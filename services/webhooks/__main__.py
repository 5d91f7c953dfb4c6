"""Webhooks: tells customers' endpoints of what happens to their jobs."""

import os
import random
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from secrets import token_bytes
from uuid import uuid4

import uvloop

from libs.bus.broker import make_broker
from libs.bus.consume import consume
from libs.bus.service import database, every, run_service, watched
from libs.eventlog.dead_letters import DeadLetters
from libs.jobstate.notice import NOTICE_TYPES
from libs.observability.export import observe
from libs.observability.logs import configure_logs
from libs.settings import SettingsError, decode_settings
from services.webhooks import gauges
from services.webhooks.answering import Answering, forget_answers
from services.webhooks.guard import Gate
from services.webhooks.handlers import Desk, record
from services.webhooks.outbound import TIMEOUT, outbound
from services.webhooks.questions import answer_questions
from services.webhooks.resolver import Resolver
from services.webhooks.retention import trim
from services.webhooks.secrets import SECRET_BYTES
from services.webhooks.sender import Means, Sender
from services.webhooks.settings import Settings

POOL_SIZE = 8  # one claims, one writes outcomes; the others record events and answer questions
TRIM_EVERY = 600.0  # seconds


def utc_now() -> datetime:
    return datetime.now(UTC)


async def main(now: Callable[[], datetime] = utc_now, timeout: float = TIMEOUT) -> None:
    settings = decode_settings(Settings, os.environ)
    configure_logs("webhooks", settings.log_level)
    observed = observe("webhooks", os.environ)
    broker = make_broker(settings.nats_url, settings.nats_ca)
    gate = Gate(allow_loopback=settings.allow_loopback)
    async with (
        database(settings.database_url, size=POOL_SIZE) as pool,
        outbound(gate, Resolver(), now, timeout=timeout) as client,
        Sender(
            Means(pool=pool, client=client, now=now, monotonic=time.monotonic, chance=random.random)
        ) as sender,
        every(TRIM_EVERY, partial(trim, pool, now)),
        watched(observed, "deliveries", partial(gauges.look, pool, now), *gauges.ALL),
    ):
        letters = DeadLetters(pool=pool)
        desk = Desk(pool=pool, now=now, new_id=uuid4, recorded=sender.wake)
        for event_class in NOTICE_TYPES:
            consume(broker, "webhooks", event_class, partial(record, desk), letters=letters)
        answering = Answering(
            pool=pool,
            now=now,
            new_id=uuid4,
            new_secret=partial(token_bytes, SECRET_BYTES),
            wake=sender.wake,
            allow_loopback=settings.allow_loopback,
        )
        answer_questions(broker, answering)
        async with every(TRIM_EVERY, partial(forget_answers, answering)):
            await run_service(
                broker,
                "webhooks",
                streams=frozenset({"EVENTS"}),
                letters=letters,
                probe_listen=settings.probe_listen,
                observed=observed,
            )


if __name__ == "__main__":
    try:
        uvloop.run(main())
    except SettingsError as error:
        sys.exit(str(error))
