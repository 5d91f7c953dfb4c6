"""Where requests, questions and messages come in: one span each, and how long it took."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import socket
from threading import Thread
from uuid import uuid4

import pytest
from faststream.nats import NatsBroker
from msgspec import Struct
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from deploy.local.program import clean_environment
from deploy.local.s3 import S3Settings
from libs.bus.broker import make_broker
from libs.bus.rpc import Unanswered, answer, ask
from libs.contracts.rpc import Rpc
from libs.observability.spans import Recorder, record, span
from libs.observability.trace import continued
from tests.integration.gateway_app import Gateway, bearer, running_gateway
from tests.support.spans import read_spans
from tests.support.stack import Database, Nats

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
END_SECONDS = 120.0  # far more than a process needs that waits for nobody
MOMENTS = 6000
STOP_SECONDS = 8.0
"""For Python itself to end. OpenTelemetry's own farewell takes ten more."""
TRIES = 3  # a machine that is busy may take more than a process waits, but not every time

WATCHED = """
import os
from libs.observability.export import observe
from libs.observability.spans import span
from libs.observability.trace import continued
observe("watched", os.environ)
with continued(None), span("request", enters=True):
    pass
print("leaving", flush=True)
"""

MEASURED = """
import asyncio, os, sys, urllib.request
from libs.bus.broker import make_broker
from libs.bus.rpc import Unanswered, answer, ask
from libs.contracts.rpc import Ping, Pong, Rpc
from libs.observability.export import observe

async def main():
    observe("measured", os.environ)
    broker = make_broker(sys.argv[1])
    rpc = Rpc("operator", "measured", Ping, Pong)
    tries = []

    async def handle(_):
        tries.append(1)
        if len(tries) > 1:
            raise ValueError
        return Pong(service="measured")

    answer(broker, rpc, handle)
    await broker.start()
    await ask(broker, rpc, Ping())
    try:
        await ask(broker, rpc, Ping(), deadline=2.0)
    except Unanswered:
        pass
    await broker.stop()
    listen = os.environ["TUNEYARD_METRICS_LISTEN"]
    print(urllib.request.urlopen(f"http://{listen}/metrics").read().decode())

asyncio.run(main())
"""


class Question(Struct, frozen=True, kw_only=True):
    fails: bool = False


class Answer(Struct, frozen=True, kw_only=True):
    pass


@pytest.fixture
def recorded() -> Iterator[list[span]]:
    ended: list[span] = []
    record(Recorder(ended.append, 1.0))
    yield ended
    record(None)


@pytest.fixture
async def echo(nats_url: str) -> AsyncIterator[tuple[NatsBroker, Rpc[Question, Answer]]]:
    """Whom to ask, and what."""
    rpc: Rpc[Question, Answer] = Rpc("operator", f"echo_{uuid4().hex}", Question, Answer)

    async def handle(question: Question) -> Answer:
        if question.fails:
            raise ValueError("the handler's own trouble")
        return Answer()

    answering, asking = make_broker(nats_url), make_broker(nats_url)
    answer(answering, rpc, handle)
    await answering.start()
    await asking.connect()
    yield asking, rpc
    await asking.stop()
    await answering.stop()


async def test_a_question_and_its_answer_are_parent_and_child(
    recorded: list[span], echo: tuple[NatsBroker, Rpc[Question, Answer]]
) -> None:
    asking, rpc = echo
    with continued(GIVEN):
        await ask(asking, rpc, Question())
    answered, asked = recorded
    assert (answered.kind.name, asked.kind.name) == ("SERVER", "CLIENT")
    assert (answered.parent, asked.parent) == (asked.traceparent, GIVEN)
    assert answered.attributes["rpc.method"] == rpc.subject == asked.name


async def test_nobody_records_a_question_that_belongs_to_no_trace(
    recorded: list[span], echo: tuple[NatsBroker, Rpc[Question, Answer]]
) -> None:
    asking, rpc = echo
    await ask(asking, rpc, Question())
    assert recorded == []


async def test_a_question_that_fails_shows_every_try(
    recorded: list[span], echo: tuple[NatsBroker, Rpc[Question, Answer]]
) -> None:
    asking, rpc = echo
    with pytest.raises(Unanswered), continued(GIVEN):
        await ask(asking, rpc, Question(fails=True), deadline=3.0)
    (asked,) = [one for one in recorded if one.kind.name == "CLIENT"]
    answered = [one for one in recorded if one.kind.name == "SERVER"]
    assert asked.failure == "Unanswered"
    assert {one.failure for one in answered} == {"ValueError"}
    assert {one.parent for one in answered} == {asked.traceparent}
    assert "asks again" in {moment.name for moment in asked.moments}


@pytest.fixture(scope="module")
async def gateway(
    database: Database, nats_server: Nats, s3: S3Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    models: Path = tmp_path_factory.mktemp("models")
    async with running_gateway(database, nats_server, s3, models) as running:
        yield running


async def served(recorded: list[span], name: str) -> span:
    """The span of a request, which ends a moment after its answer was read."""
    for _ in range(MOMENTS):
        if found := [one for one in recorded if one.name == name]:
            return found[0]
        await asyncio.sleep(0.01)
    raise AssertionError(f"no {name} among {[one.name for one in recorded]}")


async def test_a_request_is_named_by_its_route_and_never_by_its_path(
    recorded: list[span], gateway: Gateway
) -> None:
    headers = bearer(gateway.key)
    job = await gateway.client.get(f"/v1/jobs/{uuid4()}", headers=headers)
    nowhere = await gateway.client.request("PURGE", f"/{uuid4()}", headers=headers)
    assert (job.status_code, nowhere.status_code) == (404, 404)
    known = await served(recorded, "GET /v1/jobs/{job_id}")
    unknown = await served(recorded, "_OTHER")
    assert known.traceparent == job.headers["traceparent"]
    assert [one.attributes["http.response.status_code"] for one in (known, unknown)] == [404, 404]
    assert (known.failure, unknown.failure) == (None, None)
    assert "tuneyard.job_id" not in known.attributes
    assert "http.route" not in unknown.attributes


def watched(**settings: str) -> subprocess.Popen[bytes]:
    """A process that records one span, says that it is leaving, and ends."""
    environment = {f"TUNEYARD_{name.upper()}": value for name, value in settings.items()}
    return subprocess.Popen(
        [sys.executable, "-c", WATCHED],
        env=clean_environment() | environment | {"PYTHONPATH": os.getcwd()},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.alone  # they are given a second
def test_a_collector_gets_the_spans_of_a_process_that_ends() -> None:
    came: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """The test looks at what came."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        for _ in range(TRIES):
            came.clear()
            assert watched(otlp_endpoint=endpoint).wait(END_SECONDS) == 0
            if came:
                break
        server.shutdown()
    told = [ExportTraceServiceRequest.FromString(body) for body in came]
    spans = [s for one in told for r in one.resource_spans for c in r.scope_spans for s in c.spans]
    assert [one.name for one in spans] == ["request"]
    assert b"tuneyard-watched" in b"".join(came)


@pytest.mark.alone  # here seconds are counted
def test_a_process_ends_though_its_collector_does_not_answer() -> None:
    with socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        taken = [seconds_to_leave(endpoint)]
        while min(taken) >= STOP_SECONDS and len(taken) < TRIES:
            taken.append(seconds_to_leave(endpoint))
    assert min(taken) < STOP_SECONDS, taken


def seconds_to_leave(endpoint: str) -> float:
    with watched(otlp_endpoint=endpoint) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"leaving\n"
        began = time.monotonic()
        assert process.wait(END_SECONDS) == 0
        return time.monotonic() - began


def test_a_folder_gets_a_file_of_spans_for_each_service(tmp_path: Path) -> None:
    assert watched(spans_file=str(tmp_path)).wait(END_SECONDS) == 0
    assert watched(spans_file=str(tmp_path / "one file")).wait(END_SECONDS) == 0
    (one,) = read_spans(tmp_path)
    assert (one.service, one.name, one.parent_id) == ("tuneyard-watched", "request", None)
    assert {file.name for file in tmp_path.iterdir()} == {"watched.jsonl", "one file"}


async def test_durations_are_measured_of_every_question(nats_url: str) -> None:
    """In a process of its own: whom metrics go to is settled once."""
    with socket() as port:
        port.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{port.getsockname()[1]}"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        MEASURED,
        nats_url,
        env=clean_environment() | {"TUNEYARD_METRICS_LISTEN": listen, "PYTHONPATH": os.getcwd()},
        stdout=subprocess.PIPE,
    )
    said, _ = await process.communicate()
    lines = said.decode().splitlines()
    for metric, outcome in (
        ("rpc_server_duration_seconds_count", "answered"),
        ("rpc_server_duration_seconds_count", "failed"),
        ("rpc_client_duration_seconds_count", "answered"),
        ("rpc_client_duration_seconds_count", "given up"),
    ):
        (line,) = [x for x in lines if x.startswith(metric) and f'outcome="{outcome}"' in x]
        assert 'rpc_method="rpc.operator.measured"' in line
        assert float(line.rpartition(" ")[2]) >= 1
    assert [x for x in lines if 'le="0.0025"' in x]
