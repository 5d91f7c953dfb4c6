"""The same submission, many times at once, under one idempotency key: one run, one debit."""

import asyncio
from collections import Counter
from uuid import uuid4

import httpx

from tests.support.journey import SETTLE_SECONDS, User, run_form, sample_rows
from tests.support.local_stack import eventually

ROWS = 10
TRIES = 300  # a 409 says "in progress": it is sent again until it is the run
RETRY_PAUSE = 0.2


async def submitted(api: httpx.AsyncClient, key: str, dataset: bytes) -> tuple[str, bool]:
    """The run that the key stands for, and whether the answer was a replay."""
    for _ in range(TRIES):
        answer = await api.post(
            "/api/v1/runs", headers={"Idempotency-Key": key}, **run_form(dataset)
        )
        if answer.status_code == 201:
            return answer.json()["run_id"], "Idempotency-Replayed" in answer.headers
        assert answer.status_code == 409, answer.text
        assert answer.json()["error"]["code"] == "idempotency_in_progress", answer.text
        assert answer.headers["Retry-After"]
        await asyncio.sleep(RETRY_PAUSE)
    raise AssertionError(f"{key} is still in progress after {TRIES} tries")


async def flood(user: User, *, keys: int, at_once: int) -> None:
    """``keys`` submissions, each sent ``at_once`` times at once. Afterwards they are cancelled."""
    before = user.balance()
    dataset = sample_rows(ROWS)
    runs: list[str] = []
    limits = httpx.Limits(max_connections=at_once)
    async with httpx.AsyncClient(
        base_url=user.api.base_url, headers=user.headers, limits=limits, timeout=60
    ) as api:
        for _ in range(keys):
            key = str(uuid4())
            answers = await asyncio.gather(*(submitted(api, key, dataset) for _ in range(at_once)))
            (run_id,) = {run for run, _ in answers}
            assert Counter(replayed for _, replayed in answers)[False] == 1
            runs.append(run_id)
    assert len(set(runs)) == keys

    listed = user.get("/api/v1/runs", limit=100)
    assert {item["run_id"] for item in listed["data"]} == set(runs)
    assert [user.kinds(run).count("payment.reserved") for run in runs] == [1] * keys
    await asyncio.to_thread(settle, user, runs, before)


def settle(user: User, runs: list[str], before: int) -> None:
    """Cancel what still waits or runs: what is kept in the end is the sum of the charges."""
    price = user.get(f"/v1/jobs/{runs[0]}")["price_cents"]
    for run in runs:
        user.api.post(f"/v1/jobs/{run}/cancel")
    for run in runs:
        user.until_ended(run)
    charged = sum(user.job(run)["charge_cents"] for run in runs)
    assert charged <= price * len(runs)
    eventually(user.balance, lambda cents: cents == before - charged, SETTLE_SECONDS, "the balance")
