"""Connections to the real NATS, each with the rights of somebody, and to the object store; and who
answers a trainer."""

from collections.abc import AsyncIterator, Iterator

import pytest
from faststream.nats import NatsBroker

from deploy.local import nats
from deploy.local.s3 import S3Settings
from libs.bus.broker import make_broker
from libs.bus.streams import declare_streams
from libs.objectstore import ObjectStore
from tests.support.objects import store_settings
from tests.support.scripted_platform import ScriptedPlatform, local_model
from tests.support.stack import Nats
from tests.support.trainer_process import Trainer
from tests.support.waiting import patient


@pytest.fixture(scope="module")
async def operator(nats_url: str) -> AsyncIterator[NatsBroker]:
    broker = make_broker(nats_url)
    client = await broker.connect()
    await declare_streams(patient(client))
    yield broker
    await broker.stop()


@pytest.fixture(scope="module")
async def trainer(nats_server: Nats) -> AsyncIterator[NatsBroker]:
    """Speaks as a trainer may."""
    broker = make_broker(nats_server.url("trainer"))
    await broker.connect()
    yield broker
    await broker.stop()


@pytest.fixture(scope="module")
async def gateway(nats_server: Nats) -> AsyncIterator[NatsBroker]:
    """Speaks as the gateway may."""
    broker = make_broker(nats_server.url("gateway"))
    await broker.connect()
    yield broker
    await broker.stop()


@pytest.fixture(scope="module")
async def store(s3: S3Settings) -> AsyncIterator[ObjectStore]:
    async with ObjectStore(store_settings(s3)) as opened:
        yield opened


@pytest.fixture(scope="module")
async def platform(nats_server: Nats, store: ObjectStore) -> AsyncIterator[ScriptedPlatform]:
    broker = make_broker(nats_server.url(nats.OPERATOR))
    client = await broker.connect()
    await declare_streams(patient(client))
    platform = ScriptedPlatform(broker, client.jetstream(), store)
    await broker.start()
    yield platform
    await broker.stop()


@pytest.fixture(scope="module")
def trainer_process(
    tmp_path_factory: pytest.TempPathFactory, nats_server: Nats, platform: ScriptedPlatform
) -> Iterator[Trainer]:
    """The service, around training that is quick; with no more of a model than its name."""
    trainer = Trainer(tmp_path_factory.mktemp("trainer"), nats_server.url("trainer"))
    local_model(trainer.models)
    yield trainer
    trainer.end()
