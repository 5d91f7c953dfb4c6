"""Gated models of the hub: while it is away, and while its token is changed. For that a second one
is made, gateway and trainers are started with it, then the former is withdrawn."""

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from msgspec.structs import replace

from deploy.local.program import clean_environment
from libs.contracts.base import ModelSource
from libs.contracts.scheduler_rpc import LeaseGranted
from libs.contracts.trainer import Failed
from libs.objectstore import ObjectStore
from services.gateway.catalog import Catalog, read_catalog
from tests.support.model_hub import Broken, Hub, model_hub
from tests.support.scripted_platform import ScriptedPlatform, eventually
from tests.support.stack import Nats
from tests.support.trainer_process import GONE_SECONDS, Trainer

ROOT = Path(__file__).parents[2]
FORMER, NEXT = "hf_former", "hf_thenextone"
TRIES = 6  # more than the hub's own client makes of one question
FILES = {"config.json": b"{}", "model.safetensors": b"weights"}
FETCHED, UNFETCHED = [
    ModelSource(kind="hub", location=f"gated/{name}", revision=digit * 40)
    for name, digit in (("fetched", "1"), ("unfetched", "2"))
]


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    async with model_hub({FORMER}, FILES) as running:
        yield running


@pytest.fixture
def trainer(
    tmp_path: Path, nats_server: Nats, platform: ScriptedPlatform, hub: Hub
) -> Iterator[Trainer]:
    """With the former token, and none that somebody has in their home."""
    told = {"HF_ENDPOINT": hub.url, "HF_TOKEN": FORMER, "HF_HOME": str(tmp_path / "home")}
    trainer = Trainer(tmp_path, nats_server.url("trainer"), told)
    yield trainer
    trainer.end()


async def restarted(trainer: Trainer, token: str) -> None:
    trainer.environment["HF_TOKEN"] = token
    trainer.process.terminate()
    await eventually(trainer.gone, seconds=GONE_SECONDS)
    trainer.start_if_gone()


async def offered(platform: ScriptedPlatform, source: ModelSource) -> LeaseGranted:
    """A job on this model."""
    lease = await platform.offer("finish")
    platform.offers.remove(lease)
    return platform.grant(replace(lease, model=replace(lease.model, source=source)))


def fetched(trainer: Trainer, source: ModelSource) -> bool:
    (weights,) = (trainer.work / "models").rglob(f"{source.revision}/model.safetensors")
    return weights.read_bytes() == FILES["model.safetensors"]


async def on_offer(store: ObjectStore, folder: Path, hub: Hub, token: str) -> list[bool]:
    """Which of the two models a gateway that was started with this token has on offer."""
    known = read_catalog(ROOT / "catalog.toml")[0]
    models = tuple(
        replace(known, id=uuid4(), slug=source.location, source=source)
        for source in (FETCHED, UNFETCHED)
    )
    catalog = Catalog(models, folder, store, hub=hub.url, hub_token=token)
    await catalog.ask_once()
    return [catalog.available(model) for model in models]


async def test_gated_models_are_fetched_with_the_former_token_and_after_a_restart_with_the_next(
    platform: ScriptedPlatform, trainer: Trainer, hub: Hub, store: ObjectStore, tmp_path: Path
) -> None:
    await platform.until(await offered(platform, FETCHED), "Finished")
    assert fetched(trainer, FETCHED)

    hub.tokens = {FORMER, NEXT}
    assert await on_offer(store, tmp_path, hub, FORMER) == [True, True]
    await restarted(trainer, NEXT)
    hub.tokens = {NEXT}

    assert await on_offer(store, tmp_path, hub, NEXT) == [True, True]
    for source in (UNFETCHED, FETCHED):
        await platform.until(await offered(platform, source), "Finished")
        assert fetched(trainer, source)


async def test_who_was_told_of_a_withdrawn_token_alone_has_the_models_that_were_fetched(
    platform: ScriptedPlatform, trainer: Trainer, hub: Hub, store: ObjectStore, tmp_path: Path
) -> None:
    await platform.until(await offered(platform, FETCHED), "Finished")

    hub.tokens = {NEXT}
    await platform.until(await offered(platform, FETCHED), "Finished")
    reports = await platform.until(await offered(platform, UNFETCHED), "Failed")
    assert isinstance(reports[-1], Failed)
    assert (reports[-1].code, reports[-1].retryable) == ("model_load_failed", False)
    assert FORMER not in reports[-1].message
    assert await on_offer(store, tmp_path, hub, FORMER) == [False, False], "nor are more taken"

    await restarted(trainer, NEXT)
    await platform.until(await offered(platform, UNFETCHED), "Finished")
    assert fetched(trainer, UNFETCHED)


async def test_a_hub_that_is_away_for_a_moment_delays_a_job(
    platform: ScriptedPlatform, trainer: Trainer, hub: Hub
) -> None:
    hub.status = 503
    lease = await offered(platform, FETCHED)
    await eventually(lambda: hub.asked > TRIES)
    assert await platform.kinds(lease) == []

    hub.status = None
    await platform.until(lease, "Finished")
    assert fetched(trainer, FETCHED)


@pytest.mark.parametrize(("broken", "tries"), [("reset", 1), ("closed", TRIES), ("cut", 1)])
async def test_a_hub_that_breaks_off_in_the_middle_of_weights_delays_a_job(
    platform: ScriptedPlatform, trainer: Trainer, hub: Hub, broken: Broken, tries: int
) -> None:
    """``tries``: as many as the hub's own client makes."""
    hub.broken = broken
    lease = await offered(platform, FETCHED)
    await eventually(lambda: hub.halves > tries)
    assert await platform.kinds(lease) == []

    hub.broken = None
    await platform.until(lease, "Finished")
    assert fetched(trainer, FETCHED)


async def test_a_hub_that_says_no_ends_a_job_at_once(
    platform: ScriptedPlatform, trainer: Trainer, hub: Hub
) -> None:
    hub.status = 403
    reports = await platform.until(await offered(platform, FETCHED), "Failed")
    assert isinstance(reports[-1], Failed)
    assert (reports[-1].code, reports[-1].retryable) == ("model_load_failed", False)


def test_a_trainer_that_is_told_of_an_address_at_which_no_hub_can_be_does_not_start(
    tmp_path: Path,
) -> None:
    told = {
        "TUNEYARD_NATS_URL": "nats://127.0.0.1:9",
        "TUNEYARD_TRAINER_ID": "trainer-0",
        "TUNEYARD_WORK_DIR": str(tmp_path),
        "TUNEYARD_MODELS_DIR": str(tmp_path),
        "HF_ENDPOINT": "",
    }
    command = [sys.executable, "-m", "services.trainer"]
    ended = subprocess.run(
        command, env=clean_environment() | told, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 1
    assert "HF_ENDPOINT" in ended.stderr
