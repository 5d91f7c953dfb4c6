"""Webhooks: records what customers may be told of. Sending is built on top of these records."""

import os
from functools import partial

import uvloop

from libs.bus.broker import make_broker
from libs.bus.consume import consume
from libs.bus.service import database, run_service
from libs.eventlog.dead_letters import DeadLetters
from libs.jobstate.notice import NOTICE_TYPES
from libs.observability.logs import configure_logs
from libs.settings import decode_settings
from services.webhooks.handlers import record
from services.webhooks.settings import Settings

POOL_SIZE = 4  # every event is one short transaction


async def main() -> None:
    settings = decode_settings(Settings, os.environ)
    configure_logs("webhooks", settings.log_level)
    broker = make_broker(settings.nats_url)
    async with database(settings.database_url, size=POOL_SIZE) as pool:
        letters = DeadLetters(pool=pool)
        for event_class in NOTICE_TYPES:
            consume(broker, "webhooks", event_class, partial(record, pool), letters=letters)
        await run_service(broker, "webhooks", streams=frozenset({"EVENTS"}), letters=letters)


if __name__ == "__main__":
    uvloop.run(main())
