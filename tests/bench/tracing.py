"""What it costs a submission to be recorded: the same processes, asked with and without.

The platform exports to a collector that takes everything. Every other round its clients refuse to
be recorded, by the flag of their traceparent, and the same requests leave no spans.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from msgspec.structs import replace

from tests.bench.customers import new_customers
from tests.bench.figures import Figure, Size, faster, sooner
from tests.bench.load import Measured, Plan, measured
from tests.bench.servers import platform

BUSY = 32  # connections that leave no core idle
SECONDS = 3.0
WARM_UP_SECONDS = 1.0
OF_REQUEST_TIME = 0.97
"""The operator's bar: under 3 % of the time of a request."""
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"


@contextmanager
def collector() -> Iterator[str]:
    """Takes OTLP over HTTP and looks at none of it."""

    class Taking(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Taking) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


async def bench(size: Size) -> list[Figure]:
    with collector() as url:
        figures = []
        for ratio in ("1", "0.1"):
            observation = {"TUNEYARD_OTLP_ENDPOINT": url, "TUNEYARD_TRACE_RATIO": ratio}
            figures += await _with(observation, f"trace_ratio {ratio}", size)
        return figures


async def _with(observation: dict[str, str], what: str, size: Size) -> list[Figure]:
    async with platform(("relay", "billing", "gateway"), observation) as running:
        plain = [customer.submits() for customer in await new_customers(running, BUSY)]

        async def load(flag: str, connections: int, seconds: float) -> Measured:
            header = {"traceparent": f"{TRACE}{flag}"}
            wanted = [replace(one, headers=one.headers | header) for one in plain]
            return await measured(
                Plan(
                    port=running.stack.gateway_port,
                    connections=connections,
                    seconds=seconds,
                    requests=wanted,
                )
            )

        rounds = {}
        for connections in (1, BUSY):
            await load("01", connections, WARM_UP_SECONDS)
            rounds[connections] = [
                [await load(flag, connections, SECONDS * size.share) for flag in ("01", "00")]
                for _ in range(2 * size.rounds)
            ]
    return [
        sooner(
            f"submit, one after another, p50, {what}",
            "ms",
            [(on.p50_ms, off.p50_ms) for on, off in rounds[1]],
            than="not recorded",
            at_least=OF_REQUEST_TIME,
        ),
        faster(
            f"submit, {BUSY} connections, {what}",
            "requests/s",
            [(on.rate, off.rate) for on, off in rounds[BUSY]],
            than="not recorded",
        ),
    ]
