"""Which launcher the settings choose, and what they must say for it."""

import socket
from pathlib import Path

import aiohttp
import pytest

from libs.settings import SettingsError, decode_settings
from services.trainer.__main__ import launcher_of
from services.trainer.launch import Launcher
from services.trainer.launch_forked import ForkServerLauncher
from services.trainer.launch_nodes import NodesLauncher, held_port
from services.trainer.launch_torchrun import TorchrunLauncher
from services.trainer.launch_trainjob import TrainJobLauncher
from services.trainer.nodes import LOST_SECONDS, Pulse
from services.trainer.settings import Settings

ALWAYS = {
    "TUNEYARD_NATS_URL": "nats://127.0.0.1",
    "TUNEYARD_TRAINER_ID": "trainer-0",
    "TUNEYARD_WORK_DIR": "/scratch",
    "TUNEYARD_MODELS_DIR": "/models",
}


async def chosen(**settings: str) -> Launcher:
    given = {f"TUNEYARD_{name.upper()}": value for name, value in settings.items()}
    async with aiohttp.ClientSession() as http:
        return launcher_of(decode_settings(Settings, ALWAYS | given), http)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({}, ForkServerLauncher),
        ({"launcher": "torchrun"}, TorchrunLauncher),
        ({"launcher": "torchrun", "nodes": "2", "node_address": "10.0.0.1"}, NodesLauncher),
    ],
)
async def test_settings_choose_the_launcher(settings: dict[str, str], kind: type[Launcher]) -> None:
    assert isinstance(await chosen(**settings), kind)


async def test_trainjobs_are_for_whoever_has_credentials_of_a_cluster(tmp_path: Path) -> None:
    settings = {"launcher": "trainjob", "queue": "training", "pod_uid": "5b0d7a7e"}
    with pytest.raises(SettingsError, match="TUNEYARD_KUBERNETES_CREDENTIALS"):
        await chosen(**settings, kubernetes_credentials=str(tmp_path))
    (tmp_path / "namespace").write_text("tuneyard")
    launcher = await chosen(
        **settings,
        kubernetes_api="http://127.0.0.1:1",
        kubernetes_credentials=str(tmp_path),
    )
    assert isinstance(launcher, TrainJobLauncher)


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ({"launcher": "torchrun", "nodes": "2"}, "TUNEYARD_NODE_ADDRESS"),
        ({"launcher": "trainjob", "pod_uid": "5b0d7a7e"}, "TUNEYARD_QUEUE"),
        ({"launcher": "trainjob", "queue": "training"}, "TUNEYARD_POD_UID"),
        ({"launcher": "slurm"}, "launcher"),
    ],
)
async def test_a_setting_that_a_launcher_needs_is_named(
    settings: dict[str, str], missing: str
) -> None:
    with pytest.raises(SettingsError, match=missing):
        await chosen(**settings)


def test_a_pulse_is_whatever_goes_on_and_no_old_file() -> None:
    now = [0.0]
    pulse = Pulse(lambda: now[0])
    assert not pulse.look("agent", 7).beats, "a dead one may have left it"
    assert pulse.look("agent", 8).beats
    now[0] += LOST_SECONDS
    assert pulse.look("agent", 8).beats
    now[0] += 0.1
    assert not pulse.look("agent", 8).beats
    assert pulse.is_lost
    assert pulse.look("agent", 1).beats, "it has been started again"


def test_the_port_where_machines_meet_is_given_to_no_other_before_the_run_listens_on_it() -> None:
    with held_port("127.0.0.1") as held, socket.socket() as other, socket.socket() as run:
        with pytest.raises(OSError, match="in use"):
            other.bind(held.getsockname())
        run.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        run.bind(held.getsockname())
        run.listen()
        with socket.create_connection(held.getsockname(), timeout=60):
            run.accept()[0].close()
