"""``tuneyard-server up``: start everything in order, wait until it answers, end it in time."""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from pathlib import Path

import aiohttp

from deploy.local import issuer, nats, observation, payments, postgres, s3, subscribers
from deploy.local.account import ensure_credentials
from deploy.local.program import (
    Program,
    StackError,
    free_port,
    port_is_free,
    wait_until,
    wheel_executable,
)
from deploy.local.services import (
    TINY_LLAMA,
    Stack,
    programs,
    replica_name,
    service_programs,
    trainer_programs,
)
from deploy.local.state import load_ports, load_secrets, lock, open_folder
from deploy.local.supervisor import Supervisor, end_stale
from libs.eventlog.migrations import migrate

SERVERS = ("s3", "nats", "postgres")

SERVER_PATIENCE_SECONDS = 60.0
"""PostgreSQL after a kill -9 replays its journal first."""

READY_PATIENCE_SECONDS = 120.0
"""The very first start compiles Python's bytecode for every service, on two cores."""

SERVICES_STOP_SECONDS = 5.0
SERVERS_STOP_SECONDS = 3.0
"""Together under the ten seconds in which everything is to be gone."""

Say = Callable[[str], None]


async def up(
    folder: Path, *, port: int, replicas: int, trainers: int, say: Say, now: datetime
) -> None:
    """Run the platform in ``folder`` until SIGINT or SIGTERM. `StackError` if it can't start."""
    folder = open_folder(folder)
    lock(folder)
    wheel_executable("nats-server")
    wheel_executable("rclone")
    postgres.binaries()
    supervisor = Supervisor(folder, say)
    await end_stale(folder, say)
    if not port_is_free(port):
        raise StackError(f"Port {port} is taken: choose another one with --port.")
    stack = Stack(
        folder=folder,
        secrets=load_secrets(folder),
        ports=load_ports(folder),
        gateway_port=port,
        further_gateways=tuple(free_port() for _ in range(replicas - 1)),
        trainers=trainers,
        stripe=payments.own_stripe(os.environ),
        observation=observation.wanted(os.environ),
    )
    show_metrics(stack, say)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    starting = asyncio.create_task(start(stack, supervisor, say, now))
    stopped = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not stopping.is_set():
            starting.result()
            say(f"ready {stack.base_url}")
        await stopping.wait()
        say("stopping")
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await supervisor.stop(
            (program.name for program in programs(stack)), within_seconds=SERVICES_STOP_SECONDS
        )
        await supervisor.stop(SERVERS, within_seconds=SERVERS_STOP_SECONDS)


def show_metrics(stack: Stack, say: Say) -> None:
    """Where each process's metrics will be, if the operator wants any."""
    for program in programs(stack):
        listen = program.env.get(observation.METRICS_LISTEN)
        if listen is not None:
            if not port_is_free(int(listen.rpartition(":")[2])):
                raise StackError(f"{listen} is taken: choose other ports for the metrics.")
            say(f"metrics of {program.name} http://{listen}/metrics")


async def start(stack: Stack, supervisor: Supervisor, say: Say, now: datetime) -> None:
    """Servers, the schema, the services, the trainers; the base model is made meanwhile."""
    model = asyncio.create_task(ensure_model(stack, supervisor, say))
    try:
        await asyncio.gather(
            start_postgres(stack, supervisor, say),
            start_nats(stack, supervisor, say),
            start_s3(stack, supervisor, say),
        )
        for applied in await migrate(stack.admin_dsn(), stack.secrets.postgres_roles):
            say(f"applied {applied}")
        for program in service_programs(stack):
            await supervisor.start(program)
        say("services started")
        await ensure_credentials(stack, now=now)
        for url in stack.gateway_urls:
            await wait_until(
                partial(answers_well, f"{url}/v1/readyz"),
                what="A service",
                log=stack.folder / "logs",
                timeout_seconds=READY_PATIENCE_SECONDS,
            )
        for replica, url in enumerate(stack.gateway_urls):
            if replica:
                say(f"{replica_name('gateway', replica)} {url}")
        await wait_until(
            lambda: answers_well(stack.issuer_url + issuer.JWKS_PATH),
            what=issuer.NAME,
            log=supervisor.log_file(issuer.NAME),
            timeout_seconds=SERVER_PATIENCE_SECONDS,
        )
        if (sandbox := stack.sandbox_url) is not None:
            await wait_until(
                lambda: payments.answers(sandbox),
                what=payments.NAME,
                log=supervisor.log_file(payments.NAME),
                timeout_seconds=SERVER_PATIENCE_SECONDS,
            )
            say(f"payments sandbox {sandbox}")
        # Last, since a trainer loads torch: on two cores that would double everybody's start.
        for program in trainer_programs(stack):
            await supervisor.start(program)
        await model
        await wait_until(
            lambda: nats.service_answers(stack.nats_url(nats.OPERATOR), "trainer"),
            what="The trainer",
            log=stack.folder / "logs" / "trainer-0.log",
            timeout_seconds=READY_PATIENCE_SECONDS,
        )
    finally:
        model.cancel()
        await asyncio.gather(model, return_exceptions=True)


async def start_postgres(stack: Stack, supervisor: Supervisor, say: Say) -> None:
    folder = stack.folder / "postgres"
    maintenance = stack.admin_dsn("postgres")
    await asyncio.to_thread(postgres.initialise, folder, password=stack.secrets.postgres_admin)
    await _start_server(
        postgres.program(folder, port=stack.ports.postgres, replicas=len(stack.gateway_urls)),
        lambda: postgres.answers(maintenance),
        supervisor,
        say,
    )
    await postgres.create_database(maintenance)


async def start_nats(stack: Stack, supervisor: Supervisor, say: Say) -> None:
    operator_url = stack.nats_url(nats.OPERATOR)
    with subscribers.alone(stack.folder):
        server = nats.program(
            stack.folder / "nats",
            port=stack.ports.nats,
            passwords=stack.secrets.nats_users,
            subscribers=subscribers.known(stack.folder),
        )
    await _start_server(server, lambda: nats.answers(operator_url), supervisor, say)
    with subscribers.alone(stack.folder):  # or one that is removed just now would be made anew
        for name in await subscribers.update_places(operator_url):
            say(f"updated the subscriber {name}")


async def start_s3(stack: Stack, supervisor: Supervisor, say: Say) -> None:
    server = s3.program(
        stack.folder / "s3",
        port=stack.ports.s3,
        access_key=stack.s3.access_key,
        secret_key=stack.s3.secret_key,
    )
    await _start_server(server, lambda: s3.answers(stack.s3.endpoint), supervisor, say)


async def _start_server(
    program: Program, answers: Callable[[], Awaitable[bool]], supervisor: Supervisor, say: Say
) -> None:
    await supervisor.start(program)
    await wait_until(
        answers,
        what=program.name,
        log=supervisor.log_file(program.name),
        timeout_seconds=SERVER_PATIENCE_SECONDS,
    )
    say(f"{program.name} answers")


async def ensure_model(stack: Stack, supervisor: Supervisor, say: Say) -> None:
    """Make the base model for development unless it is there; renamed when it is whole."""
    folder = stack.models / TINY_LLAMA
    if folder.exists():
        return
    say(f"making the base model {TINY_LLAMA}")
    unfinished = folder.with_name(f"{TINY_LLAMA}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.parent.mkdir(mode=0o700, exist_ok=True)
    await supervisor.run(
        Program(
            name=TINY_LLAMA,
            argv=(sys.executable, "-m", "services.trainer.tiny_llama", str(unfinished)),
        )
    )
    unfinished.rename(folder)
    say(f"{TINY_LLAMA} is made")


async def answers_well(url: str) -> bool:
    """Whether a GET of this address ends in a 200."""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
            session.get(url) as answer,
        ):
            return answer.status == 200
    except (OSError, TimeoutError, aiohttp.ClientError):
        return False
