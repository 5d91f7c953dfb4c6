"""Artifact: what a trainer may read and write, and what a customer may download."""

import os
import sys
from datetime import UTC, datetime
from functools import partial
from uuid import uuid4

import uvloop

from libs.bus.broker import make_broker
from libs.bus.consume import consume
from libs.bus.rpc import answer
from libs.bus.service import database, every, run_service
from libs.bus.streams import nudge_relay
from libs.contracts.artifact_rpc import CHECKPOINTS, DOWNLOADS, INPUTS, UPLOAD_URL
from libs.contracts.scheduler import JobCheckpointed, JobTrained
from libs.eventlog.connection import connect
from libs.eventlog.dead_letters import DeadLetters
from libs.eventlog.groupcommit import GroupCommit
from libs.objectstore import ObjectStore, ObjectStoreSettings
from libs.observability.export import observe
from libs.observability.logs import configure_logs
from libs.settings import SettingsError, decode_settings
from services.artifact.handlers import Desk
from services.artifact.pruning import prune
from services.artifact.retention import Keeper, delete_due
from services.artifact.settings import Settings

POOL_SIZE = 4  # every question is one short read
SWEEP_EVERY = 60.0  # seconds; files go hours or days after they may


def now() -> datetime:
    return datetime.now(UTC)


async def main() -> None:
    settings = decode_settings(Settings, os.environ)
    configure_logs("artifact", settings.log_level)
    observed = observe("artifact", os.environ)
    broker = make_broker(settings.nats_url, settings.nats_ca)
    bucket = ObjectStoreSettings(
        endpoint=settings.s3_endpoint,
        access_key=settings.s3_access_key,
        secret_key=settings.s3_secret_key,
        bucket=settings.s3_bucket,
    )
    async with (
        database(settings.database_url, size=POOL_SIZE) as pool,
        GroupCommit(partial(connect, settings.database_url), nudge_relay(broker)) as log,
        ObjectStore(bucket) as store,
    ):
        desk = Desk(pool=pool, log=log, store=store, now=now, new_id=uuid4)
        keeper = Keeper(
            pool=pool, store=store, now=now, new_id=uuid4, committed=nudge_relay(broker)
        )

        answer(broker, INPUTS, desk.give_inputs)
        answer(broker, UPLOAD_URL, desk.give_upload_url)
        answer(broker, DOWNLOADS, desk.give_downloads)
        answer(broker, CHECKPOINTS, desk.give_checkpoints)
        letters = DeadLetters(pool=pool)
        consume(broker, "artifact", JobTrained, desk.verify_result, letters=letters)
        consume(broker, "artifact", JobCheckpointed, partial(prune, keeper), letters=letters)
        async with every(SWEEP_EVERY, partial(delete_due, keeper)):
            await run_service(
                broker,
                "artifact",
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
