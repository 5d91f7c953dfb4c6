"""A store of NATS from before there were subscribers: moved into the platform's account, whole."""

from pathlib import Path

import nats
import pytest
from nats.js.api import StreamConfig

from deploy.local import nats as server
from deploy.local.program import Program, free_port, wait_until
from deploy.local.supervisor import Supervisor
from tests.support.waiting import patient

START_SECONDS = 90.0
STOP_SECONDS = 60.0


async def started(supervisor: Supervisor, program: Program, url: str) -> nats.NATS:
    await supervisor.start(program)
    await wait_until(
        lambda: server.answers(url),
        what="nats",
        log=supervisor.log_file("nats"),
        timeout_seconds=START_SECONDS,
    )
    return await nats.connect(url)


@pytest.mark.parametrize("starts", [1, 2])
async def test_what_the_servers_own_account_held_is_still_there(
    tmp_path: Path, starts: int
) -> None:
    port, supervisor = free_port(), Supervisor(tmp_path, print)
    passwords = dict.fromkeys(server.PERMISSIONS, "secret")
    program = server.program(tmp_path / "nats", port=port, passwords=passwords)
    former = tmp_path / "former.conf"
    former.write_text(
        f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{tmp_path}/nats/store" }}\n'
    )
    before = Program(name="nats", argv=(program.argv[0], "-c", str(former)))
    client = await started(supervisor, before, f"nats://127.0.0.1:{port}")
    jetstream = patient(client)
    await jetstream.add_stream(StreamConfig(name="REPORTS", subjects=["reports.>"]))
    await jetstream.publish("reports.finished.x", b"a report that nobody has read")
    await client.close()
    await supervisor.stop(["nats"], within_seconds=STOP_SECONDS)

    url = server.url(user=server.OPERATOR, password="secret", port=port)
    for _ in range(starts):
        program = server.program(tmp_path / "nats", port=port, passwords=passwords)
        client = await started(supervisor, program, url)
        kept = await patient(client).get_msg("REPORTS", 1)
        await client.close()
        await supervisor.stop(["nats"], within_seconds=STOP_SECONDS)
        assert kept.data == b"a report that nobody has read"
