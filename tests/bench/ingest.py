"""How fast telemetry takes points in: its whole process, from JetStream to the acknowledgement."""

import asyncio
import time
from collections.abc import Sequence
from uuid import UUID, uuid4

import msgspec
from nats.js import JetStreamContext

from deploy.local import nats
from libs.bus.broker import make_broker
from libs.bus.consume import durable_name
from libs.bus.streams import metrics_subject
from libs.eventlog.connection import Pool
from tests.bench.servers import Platform
from tests.support.stream_jobs import points, submitted_job

JOBS = 4  # of one account, whose sequence they share
MESSAGES = 600
POINTS = 100  # in a message: what a quick trainer says in a second or two
IN_FLIGHT = 64  # publications; NATS takes thousands a second, and must not be what is measured
PATIENCE = 120.0  # seconds for all of them
LOOK_EVERY = 0.02  # seconds, of the seconds that all of them take


async def taken_in(running: Platform, admin: Pool, messages: int) -> tuple[float, float]:
    """Points a second of jobs whose streams show them, and of jobs that nobody has: those are
    stored and not told."""
    account = uuid4()
    owned = [await submitted_job(admin, account) for _ in range(JOBS)]
    return (
        await _points_per_second(running, owned, messages),
        await _points_per_second(running, [uuid4() for _ in range(JOBS)], messages),
    )


async def _points_per_second(running: Platform, jobs: Sequence[UUID], messages: int) -> float:
    stack = running.stack
    password = stack.secrets.nats_users[nats.OPERATOR]
    broker = make_broker(nats.url(user=nats.OPERATOR, password=password, port=stack.ports.nats))
    try:
        jetstream = (await broker.connect()).jetstream()
        encoded = [
            (jobs[number % len(jobs)], msgspec.json.encode(_batch(jobs, number)))
            for number in range(messages)
        ]
        began = time.perf_counter()
        async with asyncio.timeout(PATIENCE):
            last = 0
            for start in range(0, messages, IN_FLIGHT):
                sent = (
                    jetstream.publish(metrics_subject(job), payload)
                    for job, payload in encoded[start : start + IN_FLIGHT]
                )
                last = max(ack.seq for ack in await asyncio.gather(*sent))
            await _acknowledged(jetstream, last)
        return messages * POINTS / (time.perf_counter() - began)
    finally:
        await broker.stop()


def _batch(jobs: Sequence[UUID], number: int) -> object:
    turn = number // len(jobs)
    return points(jobs[number % len(jobs)], *range(turn * POINTS, (turn + 1) * POINTS))


async def _acknowledged(jetstream: JetStreamContext, last: int) -> None:
    durable = durable_name("telemetry", "metrics")
    while True:
        floor = (await jetstream.consumer_info("TELEMETRY", durable)).ack_floor
        if floor is not None and floor.stream_seq >= last:
            return
        await asyncio.sleep(LOOK_EVERY)
