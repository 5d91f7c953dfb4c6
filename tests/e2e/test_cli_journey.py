"""The whole journey by ``tuneyard``, in a real terminal, on the whole platform; and as JSON."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support.command import Command, Done
from tests.support.commands import leaves
from tests.support.failing_http import failing_server, says
from tests.support.journey import SAMPLE
from tests.support.local_stack import LocalStack, local_stack
from tests.support.terminal import terminal
from tests.support.typed import Typed, word
from tests.support.waiting import eventually
from tuneyard import webhooks
from tuneyard.cli.entry import parser

BIN = Path(sys.executable).parent
PROMPT = "you> "
PLENTY = 100_000  # cents
FEW = ("--steps", "40", "--seq-len", "64", "--batch-size", "4", "--lora-rank", "4")
LONG = "5000"  # steps: it is there to be cancelled, and not at its end by then
SECONDS = 240.0  # for a job, on a busy machine


@pytest.fixture(scope="module")
def stack() -> Iterator[LocalStack]:
    """Of its own: its gateway is killed."""
    with local_stack() as running:
        yield running


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "rows.jsonl"
    file.write_bytes(b"".join(SAMPLE.read_bytes().splitlines(keepends=True)[:300]))
    return file


@pytest.fixture
async def shell(stack: LocalStack, tmp_path: Path) -> AsyncIterator[Typed]:
    nobody = Command(tmp_path / "xdg")
    environ = nobody.environ(PATH=f"{BIN}:{os.environ['PATH']}", PS1=PROMPT, HOME=str(tmp_path))
    async with terminal(["bash", "--norc", "--noprofile", "-i"], environ) as shown:
        yield Typed(shown)


async def test_a_newcomer_gets_a_tuned_model_though_the_gateway_dies_meanwhile(
    stack: LocalStack, shell: Typed, rows: Path, tmp_path: Path
) -> None:
    run = shell.run
    await run(f"tuneyard login --local {stack.folder}", shows="logged in")
    await run("tuneyard doctor", shows="ok   key")
    await run("tuneyard models", shows="tiny-llama")
    dataset_id = word(await run(f"tuneyard datasets add {rows}", shows="300"), "id")
    await run(
        f"tuneyard datasets preview {dataset_id} --model tiny-llama --limit 1", shows="learnt"
    )
    await run(f"tuneyard recommend finetune --model tiny-llama --dataset {rows}", shows="--lr")
    begin = f"finetune --model tiny-llama --dataset {rows} {' '.join(FEW)}"
    await run(f"tuneyard estimate {begin}", shows="price")

    written = len(shell.shell.written)
    following = asyncio.create_task(
        run(f"tuneyard submit {begin} --label mine --follow", answer="y\n", shows="step 40/40")
    )
    await shell.shell.until(
        lambda text: "step " in text and "/40 " in text, "a step", seconds=SECONDS
    )
    pid = stack.pid("gateway")
    assert pid is not None
    supervisor = psutil.Process(pid).parent()
    assert supervisor is not None
    supervisor.suspend()  # so that there is no other gateway before the notice was seen
    try:
        os.kill(pid, signal.SIGKILL)
        shell.keep(await shell.shell.until(lambda text: "does not answer" in text, "the notice"))
    finally:
        supervisor.resume()
    end = await following

    assert "does not answer" not in end
    assert "completed for 0.26 USD" in end
    assert "perplexity" in end
    live = shell.shell.written[written:].split(b"[y/N]", 1)[1]
    assert [
        code for code in (b"\x1b[2J", b"\x1b[3J", b"\x1b[J", b"\x1b[?1049h") if code in live
    ] == []

    job_id = next(line.split()[1] for line in end.splitlines() if line.startswith("job "))
    await run(f"tuneyard status {job_id}", shows="completed")
    await run(f"tuneyard result {job_id}", shows="loss (o: held-out data)")
    await run(f"tuneyard logs {job_id}", shows="step 40/40")
    await run(f"tuneyard metrics {job_id} --since-step 38", shows="tokens/s")
    await run(f"tuneyard events {job_id} | cut -c1-60", shows="job.completed")
    await run(
        f"tuneyard download {job_id} --dir {tmp_path}/model", shows="adapter_model.safetensors"
    )
    await run(f"tuneyard extend {job_id} --yes", shows="30 days more")
    await run("tuneyard ls", shows="mine")
    await run("tuneyard balance --summary", shows="jobs charged")
    await run("tuneyard card", shows="http")
    assert (tmp_path / "model" / "adapter_config.json").exists()


@dataclass
class Story:
    """What the commands need: something of everything, of an account of its own."""

    command: Command
    dataset_id: str
    job_id: str
    queued_id: str
    webhook_id: str


@pytest.fixture(scope="module")
async def story(stack: LocalStack, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    _, key = stack.new_account(PLENTY)
    command = Command(tmp_path_factory.mktemp("xdg"), stack.base_url, key)
    stack.recovered()
    dataset = (await command("datasets", "add", rows, "--json")).json
    begin = ("submit", "finetune", "--model", "tiny-llama", "--dataset", dataset["id"], "--json")
    job = json.loads((await command(*begin, *FEW)).out)
    queued = json.loads((await command(*begin, "--steps", LONG)).out)
    made = await command("webhooks", "add", "http://127.0.0.1:9000/hook", "--json")
    async with asyncio.timeout(SECONDS):
        process = await command.start("watch", job["id"])
        await process.communicate()
    assert process.returncode == 0
    return Story(command, dataset["id"], job["id"], queued["id"], made.json["id"])


async def test_a_jobs_webhooks_come_to_a_server_on_this_machine(
    stack: LocalStack, rows: Path, tmp_path: Path
) -> None:
    _, key = stack.new_account(PLENTY)
    command = Command(tmp_path, stack.base_url, key)
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    async with failing_server(lambda _: says({})) as target:
        forward = ("webhooks", "listen", "--forward-to", target.url, "--secret", secret)
        process = await command.start(*forward)
        assert process.stdout is not None
        assert process.stderr is not None
        async with asyncio.timeout(SECONDS):
            while b"waiting for events" not in await process.stderr.readline():
                pass
        begin = ("--model", "tiny-llama", "--dataset", rows, "--json", "--follow", *FEW)
        submitted = asyncio.create_task(command("submit", "finetune", *begin, code=None))
        async with asyncio.timeout(SECONDS):
            told = [(await process.stdout.readline()).decode().split() for _ in range(3)]
        await submitted
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(SECONDS):
            await process.communicate()

    events = [webhooks.unwrap(each.body, each.headers, secret) for each in target.asked]
    assert [each[1] for each in told] == [event.type for event in events]
    assert [event.type for event in events] == ["job.queued", "job.running", "job.completed"]


def arguments_of(story: Story, stack: LocalStack, rows: Path) -> dict[str, list[Any]]:
    """Of every command, in the order in which they can be run."""
    job, data = [story.job_id], ["--model", "tiny-llama", "--dataset", story.dataset_id]
    run = ["--model", "tiny-llama", "--dataset", rows]
    accepted = ["--accept-model-terms", "--accept-data-policy"]
    return {
        "login": ["--local", stack.folder],
        **{
            name: []
            for name in ("env", "whoami", "balance", "card", "models", "doctor", "ls", "logout")
        },
        "top-up": ["500"],
        "keys ls": [],
        "keys create": ["second", "--scope", "read"],
        "keys rm": ["KEY"],
        "recommend": ["train", *data],
        "datasets add": [rows, "--name", "again"],
        "datasets ls": [],
        "datasets preview": [story.dataset_id, "--model", "tiny-llama"],
        "estimate finetune": data,
        "estimate train": data,
        "estimate contract": ["--model", "tiny-llama"],
        "submit finetune": [*data, "--steps", "5"],
        "submit train": data,
        "submit contract": ["--model", "tiny-llama"],
        "submit run": [*run, *accepted],
        "status": job,
        "result": job,
        "watch": job,
        "logs": job,
        "metrics": job,
        "events": job,
        "cancel": [story.queued_id],
        "download": [*job, "--dir", story.command.home / "model"],
        "extend": job,
        "webhooks ls": [],
        "webhooks add": ["http://127.0.0.1:9000/other"],
        "webhooks trigger": [story.webhook_id],
        "webhooks deliveries": [story.webhook_id],
        "webhooks rotate-secret": [story.webhook_id],
        "webhooks replay": [story.webhook_id, "--since", "2026-01-01T00:00:00Z"],
        "webhooks rm": [story.webhook_id],
        "webhooks listen": ["--forward-to", "http://127.0.0.1:9"],
        "completion": ["bash"],
        "datasets rm": [story.dataset_id],
    }


async def test_every_command_answers_in_json_and_nothing_else(
    stack: LocalStack, story: Story, rows: Path
) -> None:
    every = arguments_of(story, stack, rows)
    assert set(every) == set(leaves(parser()))
    key_id, submitted = "", []
    for name, said in every.items():
        if name == "webhooks listen":  # has no end: the next test
            continue
        arguments = [key_id if each == "KEY" else each for each in said]
        done = await story.command(*name.split(), *arguments, "--json")
        lines = [json.loads(line) for line in done.out.splitlines()]
        assert lines, name
        assert len(lines) == 1 or name == "watch", name
        assert done.err == "", name
        if name == "keys create":
            key_id = lines[0]["id"]
        if name.startswith("submit "):
            submitted.append(lines[0].get("id") or lines[0]["run_id"])
    for job_id in submitted:  # whatever is still in the queue would be in others' way
        await story.command("cancel", job_id, code=None)


GETS = {
    "whoami": "/v1/me",
    "balance": "/api/v1/balance",
    "balance --summary": "/v1/billing/summary",
    "balance --ledger": "/v1/billing/ledger",
    "models": "/v1/models",
    "ls --limit 1": "/v1/jobs?limit=1",
    "datasets ls": "/v1/datasets",
    "keys ls": "/v1/api-keys",
    "webhooks ls": "/v1/webhooks",
    "status JOB": "/v1/jobs/JOB",
    "result JOB": "/v1/jobs/JOB/result",
    "events JOB": "/v1/jobs/JOB/events?limit=100",
    "metrics JOB --since-step 38": "/v1/jobs/JOB/metrics?since_step=38",
    "logs JOB --since 5": "/v1/jobs/JOB/logs?since=5",
}


async def test_the_json_is_the_very_answer_of_the_api(stack: LocalStack, story: Story) -> None:
    headers = {"Authorization": f"Bearer {story.command.key}"}
    async with httpx.AsyncClient(base_url=stack.base_url, headers=headers, timeout=60) as api:

        async def three(said: str, path: str) -> list[Any]:
            """The API's answer, the command's, and the API's again: something may happen between
            any two of them."""
            before = await api.get(path)
            done: Done = await story.command(*said.split(), "--json")
            after = await api.get(path)
            # A key's last use is the asking itself.
            return [forgetting(each) for each in (before.json(), done.json, after.json())]

        for line in GETS.items():
            said, path = (each.replace("JOB", story.job_id) for each in line)
            before, printed, _ = await eventually(
                partial(three, said, path), lambda found: found[0] == found[2]
            )
            assert printed == before, said


def forgetting(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: forgetting(of) for name, of in value.items() if name != "last_used_at"}
    return [forgetting(each) for each in value] if isinstance(value, list) else value
