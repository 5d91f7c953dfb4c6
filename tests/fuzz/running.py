"""What is fuzzed: the real platform, each service a process of its own, and one rich account."""

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
from msgspec import Struct

from deploy.local import payments
from deploy.local.program import Program
from deploy.local.services import Stack, trainer_environment
from services.billing.ledger import grant
from services.gateway.access.accounts import create_account
from services.gateway.access.key_text import SECRET_BYTES
from services.gateway.access.keys import create_key
from tests.bench.servers import Platform, platform
from tests.support.waiting import eventually

SERVICES = (
    *(payments.NAME, "gateway", "billing", "scheduler", "artifact", "webhooks", "telemetry"),
    "relay",
)
BALANCE_CENTS = 10**12  # no run ends because its money did
REQUESTS_PER_MINUTE = 600_000_000  # nor because it was too quick
STEPS = 2  # of the job that is to complete
TRAINER = "trainer-0"
PREVIEWER = "trainer-1"
TRAINING_SECONDS = 60.0  # it takes two; a busy machine may take longer

HOOK = "https://hooks.fuzz.example/"
"""Nowhere: no name below .example leads anywhere (RFC 2606)."""

ROWS = b'{"text": "finish"}\n{"text": "what is learned here is not the point"}\n'
FORM = {
    "model_id": "tiny-llama",
    "model_terms_accepted": "true",
    "data_policy_accepted": "true",
}


class Target(Struct, frozen=True, kw_only=True):
    """A gateway, and an account with something of everything: ``known`` has ids and names by the
    name of their path parameter. ``key_id`` is the id of ``key``, which must not be deleted.
    ``pid`` and ``log`` are the gateway's."""

    url: str
    key: str
    key_id: str
    pid: int
    log: Path
    document: Mapping[str, Any]
    known: Mapping[str, tuple[str, ...]]

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://").rpartition(":")[0]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


@asynccontextmanager
async def fuzzed_platform() -> AsyncIterator[Target]:
    """A platform whose trainer has memory for no job, so that what is submitted stays queued, and
    only shows rows; a stand-in made one model before."""
    async with platform(SERVICES) as running:
        stack = running.stack
        key, key_id = await _rich_account(stack)
        sandbox = payments.url(stack.ports.sandbox)
        await eventually(lambda: payments.answers(sandbox), bool)
        async with httpx.AsyncClient(
            base_url=stack.base_url, headers={"Authorization": f"Bearer {key}"}, timeout=30
        ) as api:
            await eventually(lambda: _status(api, "/v1/readyz"), lambda status: status == 200)
            document = _without_streams((await api.get("/openapi.json")).json())
            known = await _something_of_everything(running, api)
            await _show_rows(running, api, known["dataset_id"][0])
        yield Target(
            url=stack.base_url,
            key=key,
            key_id=str(key_id),
            pid=int((stack.folder / "run" / "gateway.pid").read_text()),
            log=running.supervisor.log_file("gateway"),
            document=document,
            known=known,
        )


def _without_streams(document: dict[str, Any]) -> dict[str, Any]:
    """An answer that never ends can't be judged; tests of streams send them what is wrong."""
    paths = {
        path: item
        for path, item in document["paths"].items()
        if "text/event-stream" not in str(item.get("get"))
    }
    return document | {"paths": paths}


async def _rich_account(stack: Stack) -> tuple[str, UUID]:
    account_id, now = uuid4(), datetime.now(UTC)
    connection = await asyncpg.connect(stack.admin_dsn())
    try:
        await create_account(
            connection,
            account_id=account_id,
            name="fuzz",
            now=now,
            requests_per_minute=REQUESTS_PER_MINUTE,
        )
        await grant(
            connection,
            account_id=account_id,
            amount_cents=BALANCE_CENTS,
            entry_id=uuid4(),
            memo="fuzz",
            now=now,
        )
        key = await create_key(
            connection,
            account_id=account_id,
            name="fuzz",
            pepper=bytes.fromhex(stack.secrets.key_pepper),
            secret=secrets.token_bytes(SECRET_BYTES),
            now=now,
        )
        key_id = await connection.fetchval(
            "SELECT id FROM gateway.api_key WHERE account_id = $1", account_id
        )
    finally:
        await connection.close()
    return key, key_id


async def _something_of_everything(
    running: Platform, api: httpx.AsyncClient
) -> dict[str, tuple[str, ...]]:
    """A completed, a cancelled and two queued jobs, and what they are made of."""
    dataset = await _made(api.post("/v1/datasets", files={"file": ("rows.jsonl", ROWS)}))
    adapted = await _job(api, dataset["id"], "finetune")
    await _train(running, api, adapted)
    run = await _made(api.post("/api/v1/runs", data=FORM, files={"dataset": ROWS}))
    cancelled = await _job(api, dataset["id"], "finetune")
    (await api.post(f"/v1/jobs/{cancelled}/cancel")).raise_for_status()
    queued = await _job(api, dataset["id"], "train")
    done = (await api.get(f"/v1/jobs/{adapted}")).json()
    webhooks = [await _made(api.post("/v1/webhooks", json={"url": HOOK})) for _ in range(3)]
    pings = [await api.post(f"/v1/webhooks/{one['id']}/test") for one in webhooks]
    return {
        "job_id": (adapted, cancelled, queued, run["run_id"]),
        "run_id": (run["run_id"],),
        "dataset_id": (dataset["id"],),
        "model_id": ("tiny-llama", done["base_model"]["id"], done["output_model_id"]),
        "webhook_id": tuple(one["id"] for one in webhooks),
        "delivery_id": tuple(one.json()["id"] for one in pings),
    }


async def _job(api: httpx.AsyncClient, dataset_id: str, kind: str) -> str:
    body: dict[str, Any] = {
        "type": kind,
        "base_model_id": "tiny-llama",
        "idempotency_key": str(uuid4()),
    }
    if kind != "contract":
        body |= {"dataset_id": dataset_id}
    if kind == "finetune":
        body |= {"hyperparams": {"steps": STEPS, "eval_every": 1, "checkpoint_every": 1}}
    made = await _made(api.post("/v1/jobs", json=body))
    return str(made["id"])


async def _made(asked: Any) -> dict[str, Any]:
    answer: httpx.Response = await asked
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def _status(api: httpx.AsyncClient, path: str) -> int:
    return (await api.get(path)).status_code


async def _train(running: Platform, api: httpx.AsyncClient, job: str) -> None:
    """Let the stand-in work until the job has completed."""
    program = Program(
        name=TRAINER,
        argv=(sys.executable, "-m", "tests.support.stand_in_trainer"),
        env=trainer_environment(running.stack, TRAINER),
    )
    await running.supervisor.start(program)
    async with asyncio.timeout(TRAINING_SECONDS):
        while (status := (await api.get(f"/v1/jobs/{job}")).json()["status"]) != "completed":
            assert status in ("queued", "running"), status
            await asyncio.sleep(0.1)
    await running.supervisor.stop([TRAINER], within_seconds=5)


async def _show_rows(running: Platform, api: httpx.AsyncClient, dataset_id: str) -> None:
    """A trainer that makes previews: without one they are refused with a 503."""
    environment = trainer_environment(running.stack, PREVIEWER) | {"TUNEYARD_MEMORY_BYTES": "1"}
    program = Program(
        name=PREVIEWER, argv=(sys.executable, "-m", "services.trainer"), env=environment
    )
    await running.supervisor.start(program)
    path = f"/v1/datasets/{dataset_id}/preview?model=tiny-llama"
    async with asyncio.timeout(TRAINING_SECONDS):
        while await _status(api, path) >= 500:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
