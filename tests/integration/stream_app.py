"""A gateway with real telemetry and a relay beside it: all that a stream needs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from faststream.nats import NatsBroker

from deploy.local.s3 import S3Settings
from services.gateway.streams.hub import MAX_STREAMS
from tests.integration.gateway_app import Gateway, running_gateway
from tests.support.running import running
from tests.support.stack import Database, Nats
from tests.support.streams import relaying, telemetry_settings


@asynccontextmanager
async def streaming(
    database: Database,
    nats: Nats,
    s3: S3Settings,
    operator: NatsBroker,
    models: Path,
    most_streams: int = MAX_STREAMS,
) -> AsyncIterator[Gateway]:
    async with (
        running("telemetry", telemetry_settings(database, nats), operator),
        relaying(operator, database),
        running_gateway(database, nats, s3, models, most_streams=most_streams) as gateway,
    ):
        yield gateway
