"""The trainer: leases jobs from the scheduler and supervises their training processes."""

import asyncio
import os
import signal
import sys
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import assert_never
from uuid import uuid4

import aiohttp
import structlog

from libs.bus.broker import make_broker
from libs.bus.probe import probed
from libs.bus.rpc import answer, answer_pings
from libs.contracts.trainer_rpc import PREVIEW
from libs.observability.export import observe
from libs.observability.logs import configure_logs
from libs.settings import SettingsError, decode_settings, hub_address
from services.trainer.kubernetes import ApiRefused, TrainJobApi
from services.trainer.launch import Launcher, PreloadFailed
from services.trainer.launch_forked import ForkServerLauncher
from services.trainer.launch_nodes import NodesLauncher
from services.trainer.launch_torchrun import TorchrunLauncher
from services.trainer.launch_trainjob import TrainJobLauncher, Where
from services.trainer.link import Link
from services.trainer.preview import Previewer
from services.trainer.settings import Settings, needed
from services.trainer.site import Site
from services.trainer.transfer import make_session
from services.trainer.worker import Worker

LEAVE_SECONDS = 4.0  # for a last checkpoint
EXIT_SECONDS = 4.5  # of the 5 that the local supervisor waits; then whatever hangs is cut off

logger = structlog.get_logger()


def memory_of_machine() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


async def serve(settings: Settings, launcher: Launcher) -> None:
    """Work until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(make_session())
        broker = make_broker(settings.nats_url, settings.nats_ca)
        warm = asyncio.Event()
        previewer = Previewer(
            http,
            models_dir=Path(settings.models_dir),
            cache=Path(settings.work_dir) / "models",
            ready=warm,
        )
        answer(broker, PREVIEW, previewer.answer)
        stack.push_async_callback(broker.stop)
        await broker.start()
        await answer_pings(broker, "trainer")
        client = await broker.connect()
        await stack.enter_async_context(probed(settings.probe_listen, client))
        # From here on there is something to leave in order; before, a signal simply ends it.
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, told.set)
        worker = Worker(
            link=Link(broker, client.jetstream(), http),
            launcher=launcher,
            site=Site(
                trainer_id=settings.trainer_id,
                work_dir=Path(settings.work_dir),
                models_dir=Path(settings.models_dir),
                threads=settings.threads,
                now=lambda: datetime.now(UTC),
                new_id=uuid4,
            ),
            instance_id=uuid4(),
            memory_bytes=settings.memory_bytes or memory_of_machine(),
        )

        async def work() -> None:
            # After the pings are answered: the imports take seconds, and others wait for those.
            await launcher.warm_up()
            warm.set()
            await worker.run()

        working = asyncio.create_task(work())
        leaving = asyncio.create_task(told.wait())
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        loop.call_later(EXIT_SECONDS, os._exit, 0)
        worker.leave()
        done, _ = await asyncio.wait({working}, timeout=LEAVE_SECONDS)
        if done:
            working.result()
        else:
            logger.warning("left before training had ended")


def launcher_of(settings: Settings, http: aiohttp.ClientSession) -> Launcher:
    """Raises SettingsError naming what the chosen launcher lacks."""
    forked = ForkServerLauncher("services.trainer.train:run", "services.trainer.preload")
    match settings.launcher:
        case "subprocess":
            return forked
        case "torchrun" if settings.nodes == 1:
            return TorchrunLauncher(processes=settings.processes, alone=forked)
        case "torchrun":
            return NodesLauncher(
                nodes=settings.nodes,
                processes=settings.processes,
                address=needed(settings.node_address, "node_address", "torchrun with nodes"),
                work_dir=Path(settings.work_dir),
                alone=forked,
                monotonic=time.monotonic,
                new_id=uuid4,
            )
        case "trainjob":
            where = Where(
                trainer_id=settings.trainer_id,
                pod_uid=needed(settings.pod_uid, "pod_uid", "trainjob"),
                queue=needed(settings.queue, "queue", "trainjob"),
                runtime=settings.runtime,
                nodes=settings.nodes,
                processes=settings.processes,
            )
            credentials = settings.kubernetes_credentials
            try:
                api = TrainJobApi(http, settings.kubernetes_api, credentials)
            except OSError as error:
                name = "TUNEYARD_KUBERNETES_CREDENTIALS"
                raise SettingsError(f"{name}: no service account there ({error})") from error
            return TrainJobLauncher(api, where)
        case other:
            assert_never(other)


async def main() -> None:
    settings = decode_settings(Settings, os.environ)
    hub_address(os.environ)  # its client would find a fault in it with every job
    configure_logs("trainer", settings.log_level)
    observe("trainer", os.environ)
    async with aiohttp.ClientSession() as http:
        await serve(settings, launcher_of(settings, http))


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (SettingsError, PreloadFailed, ApiRefused) as error:
        sys.exit(str(error))
