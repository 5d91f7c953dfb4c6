"""The live stream: how soon 200 clients of one job have what its trainer said, and what it costs.

From the trainer's publication on JetStream, through telemetry and PostgreSQL, to each client. Then
how fast telemetry takes points in: the whole process, beside itself when it need not tell them;
and what stores and tells them, beside an insert of arrays alone.
"""

import asyncio
import sys
import time
from uuid import UUID, uuid4

import msgspec
import psutil
from msgspec.structs import astuple

from deploy.local import nats
from libs.bus.broker import make_broker
from libs.eventlog.connection import Pool, create_pool
from services.telemetry import tables
from services.telemetry.model import metric_batches
from tests.bench.figures import Figure, Size, absolute, faster
from tests.bench.ingest import MESSAGES, taken_in
from tests.bench.servers import Platform, platform
from tests.bench.watch import Watch, Watched
from tests.support.stream_jobs import points, submitted_job
from tests.support.streams import publish

CLIENTS = 200
P99_GOAL_MS = 250.0
POINTS = 200
PAUSE = 0.05  # seconds between points: a model that is small enough to be watched in a hurry
GROUP = 5_000  # points in a statement, as telemetry's groups are under load
GROUPS = 8
INGEST_GOAL = 20_000.0  # points/s
MIB = 1024 * 1024

BARE_SQL = """
INSERT INTO telemetry.metric
    (job_id, epoch, ts, step, cycle, phase, loss, lr, throughput, vram_gb, grad_norm)
SELECT * FROM unnest($1::uuid[], $2::int[], $3::timestamptz[], $4::int[], $5::bigint[],
                     $6::text[], $7::float8[], $8::float8[], $9::float8[], $10::float8[],
                     $11::float8[])
"""


async def bench(size: Size) -> list[Figure]:
    async with (
        platform(("relay", "telemetry", "gateway")) as running,
        create_pool(running.stack.admin_dsn(), size=2) as admin,
    ):
        rounds = [await live(running, admin, CLIENTS, size.of(POINTS)) for _ in range(size.rounds)]
        whole = [await taken_in(running, admin, size.of(MESSAGES)) for _ in range(size.rounds)]
        kept = [await ingest(running, admin, size.of(GROUPS)) for _ in range(size.rounds)]
    return [
        absolute(
            f"metric to client, p50 of {CLIENTS} clients", "ms", [w.p50_ms for w, _ in rounds]
        ),
        absolute(
            f"metric to client, p99 of {CLIENTS} clients",
            "ms",
            [w.p99_ms for w, _ in rounds],
            below=P99_GOAL_MS,
        ),
        absolute(
            "  clients that missed or repeat one", "", [float(w.faults) for w, _ in rounds], below=1
        ),
        absolute(f"  gateway's memory for {CLIENTS} streams", "MiB", [rounds[0][1]]),
        absolute(
            "telemetry takes in, 100 points a message",
            "points/s",
            [told for told, _ in whole],
            at_least=INGEST_GOAL,
        ),
        faster("  the same, beside points not told", "points/s", whole, than="not told"),
        faster("store and tell points", "points/s", kept, than="bare insert"),
    ]


async def live(running: Platform, admin: Pool, clients: int, number: int) -> tuple[Watched, float]:
    """What the clients saw, and by how many MiB the gateway has grown meanwhile."""
    account = running.credentials
    job = await submitted_job(admin, account.account_id)
    gateway = psutil.Process(int((running.stack.folder / "run" / "gateway.pid").read_text()))
    before = gateway.memory_info().rss
    watch = Watch(
        port=running.stack.gateway_port,
        path=f"/v1/jobs/{job}/stream",
        headers={"Authorization": f"Bearer {account.api_key}"},
        clients=clients,
        points=number,
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.watch"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(msgspec.json.encode(watch) + b"\n")
    if await process.stdout.readline() != b"open\n":
        raise RuntimeError("the clients could not open their streams")
    await _train(running, job, number)
    said = await process.stdout.readline()
    await process.wait()
    grown = (gateway.memory_info().rss - before) / MIB
    return msgspec.json.decode(said, type=Watched), grown


async def _train(running: Platform, job: UUID, number: int) -> None:
    stack = running.stack
    password = stack.secrets.nats_users["trainer"]
    broker = make_broker(nats.url(user="trainer", password=password, port=stack.ports.nats))
    await broker.connect()
    try:
        for step in range(number):
            await publish(broker, points(job, step, loss=time.time()))
            await asyncio.sleep(PAUSE)
    finally:
        await broker.stop()


async def ingest(running: Platform, admin: Pool, groups: int) -> tuple[float, float]:
    """Points a second, with all that a stream needs, and with the insert alone."""
    return (
        await _points_per_second(running, admin, groups, told=True),
        await _points_per_second(running, admin, groups, told=False),
    )


async def _points_per_second(running: Platform, admin: Pool, groups: int, *, told: bool) -> float:
    stack = running.stack
    password = stack.secrets.nats_users["telemetry"]
    broker = make_broker(nats.url(user="telemetry", password=password, port=stack.ports.nats))
    await broker.connect()
    job = await submitted_job(admin, uuid4())
    said = [points(job, *range(number * GROUP, (number + 1) * GROUP)) for number in range(groups)]
    try:
        async with create_pool(running.dsn("telemetry"), size=1) as pool:
            keeper = tables.Keeper(pool, broker, tables.METRICS)
            began = time.perf_counter()
            for batch in said:
                if told:
                    await keeper.keep(metric_batches(batch))
                else:
                    rows = [(job, batch.epoch, *astuple(point)) for point in batch.points]
                    await pool.execute(BARE_SQL, *map(list, zip(*rows, strict=True)))
            return groups * GROUP / (time.perf_counter() - began)
    finally:
        await broker.stop()
