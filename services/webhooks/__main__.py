"""Webhooks: records what customers may be told of. Sending is built on top of these records."""

import os
from datetime import UTC, datetime
from functools import partial
from secrets import token_bytes
from uuid import uuid4

import uvloop

from libs.bus.broker import make_broker
from libs.bus.consume import consume
from libs.bus.service import database, every, run_service
from libs.eventlog.inbox import burier
from libs.jobstate.notice import NOTICE_TYPES
from libs.observability.logs import configure_logs
from libs.settings import decode_settings
from services.webhooks.answering import Answering, forget_answers
from services.webhooks.handlers import record
from services.webhooks.questions import answer_questions
from services.webhooks.secrets import SECRET_BYTES
from services.webhooks.settings import Settings

POOL_SIZE = 4  # every event is one short transaction
FORGET_EVERY = 600.0  # seconds; answers with secrets are kept for a day


async def main() -> None:
    settings = decode_settings(Settings, os.environ)
    configure_logs("webhooks", settings.log_level)
    broker = make_broker(settings.nats_url)
    async with database(settings.database_url, size=POOL_SIZE) as pool:
        for event_class in NOTICE_TYPES:
            consume(broker, "webhooks", event_class, partial(record, pool), bury=burier(pool))
        answering = Answering(
            pool=pool,
            now=lambda: datetime.now(UTC),
            new_id=uuid4,
            new_secret=partial(token_bytes, SECRET_BYTES),
            wake=lambda: None,
            allow_loopback=settings.allow_loopback,
        )
        answer_questions(broker, answering)
        async with every(FORGET_EVERY, partial(forget_answers, answering)):
            await run_service(broker, "webhooks", streams=frozenset({"EVENTS"}))


if __name__ == "__main__":
    uvloop.run(main())
