"""Whoever uses the platform while it is replaced: they submit and cancel jobs, follow the stream,
and ask again only when a connection was closed or refused."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from itertools import count
from typing import Any
from uuid import uuid4

import httpx

from deploy.local.services import TINY_LLAMA
from tests.support.journey import ENDED, Json, run_form, sample_rows
from tests.support.streams import Message, reading

AT_ONCE = 3  # jobs: two that run, one that waits
ROWS = 20
SHORT, LONG = 2, 40  # steps
INTERRUPTED = 400  # steps: not over while its trainer is found and told to leave
CHECKPOINT_EVERY = 10
ASK_SECONDS = 30.0
RETRY_SECONDS = 30.0  # a process is back in a few
RETRY_PAUSE = 0.1
LOOK_EVERY = 0.3
JOB_SECONDS = 300.0  # for a job that was interrupted, on a busy machine


class Clients:
    """One account's. ``asked`` counts answers, ``again`` closed connections, and ``wrong`` is every
    other reason for which a request failed."""

    def __init__(self, key: str, gateways: Callable[[], list[str]]) -> None:
        self.asked = self.again = self.reopened = 0
        self.wrong: list[str] = []
        self.ended: dict[str, Json] = {}
        self.cancelled: set[str] = set()
        self.interrupted: set[str] = set()
        self.interrupting = False
        self.seen: list[Message] = []
        self.last_id: int | None = None
        self._number_of: dict[str, int] = {}
        self._steps: dict[str, int] = {}
        self._gateways = gateways
        self._headers = {"Authorization": f"Bearer {key}"}
        self._http = httpx.AsyncClient(headers=self._headers, timeout=ASK_SECONDS)
        self._numbers, self._turns = count(), count()
        self._enough = asyncio.Event()
        self._working: list[asyncio.Task[None]] = []
        self._following: asyncio.Task[None] | None = None
        self.dataset_id = ""

    def _gateway(self) -> str:
        urls = self._gateways()
        return urls[next(self._turns) % len(urls)]

    async def ask(self, method: str, path: str, fine: Collection[int], **request: Any) -> Any:
        """The decoded answer of whichever gateway has the turn."""
        loop = asyncio.get_running_loop()
        end = loop.time() + RETRY_SECONDS
        while True:
            try:
                answer = await self._http.request(method, self._gateway() + path, **request)
            except httpx.TimeoutException as error:
                self.wrong.append(f"{method} {path}: {error!r}")
            except httpx.TransportError:
                self.again += 1
            else:
                self.asked += 1
                if answer.status_code in fine:
                    return answer.json()
                # Its own first try, whose connection was closed, may still be at work.
                if "idempotency_in_progress" in answer.text:
                    self.again += 1
                else:
                    self.wrong.append(f"{method} {path}: {answer.status_code} {answer.text}")
                    assert answer.status_code == 503, self.wrong[-1]
            assert loop.time() < end, f"{method} {path} was not answered; {self.wrong}"
            await asyncio.sleep(RETRY_PAUSE)

    async def start(self) -> None:
        """Submit jobs, one after another has ended, until `finish`."""
        if not self.dataset_id:
            files = {"file": ("training_data.jsonl", sample_rows(ROWS))}
            self.dataset_id = (await self.ask("POST", "/v1/datasets", [201], files=files))["id"]
        self._enough.clear()
        self._working = [asyncio.create_task(self._work()) for _ in range(AT_ONCE)]
        if self._following is None:
            self._following = asyncio.create_task(self._follow())

    async def finish(self) -> None:
        """Until every job has ended."""
        self._enough.set()
        await asyncio.gather(*self._working)

    async def close(self) -> None:
        tasks = [*self._working, *([self._following] if self._following else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._http.aclose()

    async def fresh(self, number: int) -> None:
        """Until so many jobs that were submitted from now on have completed."""
        first = next(self._numbers)
        async with asyncio.timeout(JOB_SECONDS):
            while len([job for job in self._done() if job >= first]) < number:
                for task in (*self._working, self._following):
                    assert task is not None
                    if task.done():
                        task.result()
                await asyncio.sleep(LOOK_EVERY)

    async def until_trained(self, job_of: Callable[[], Awaitable[str | None]]) -> None:
        """Until the trainer that ``job_of`` asks about is in the middle of a job that is long
        enough to be interrupted, which it is then."""
        self.interrupting = True
        async with asyncio.timeout(JOB_SECONDS):
            while not (  # noqa: ASYNC110 (a row sets no Event)
                (job_id := await job_of()) and await self._in_the_middle(job_id)
            ):
                await asyncio.sleep(LOOK_EVERY)
        self.interrupting = False
        self.interrupted.add(job_id)

    async def _in_the_middle(self, job_id: str) -> bool:
        if job_id not in self._steps or job_id in self.cancelled:
            return False
        path = f"/v1/jobs/{job_id}/metrics?since_step={CHECKPOINT_EVERY}"
        points: int = (await self.ask("GET", path, [200]))["count"]
        return self._steps[job_id] == INTERRUPTED and points > 0

    def _done(self) -> list[int]:
        """The numbers of the jobs that have completed."""
        return [
            self._number_of[job_id]
            for job_id, job in self.ended.items()
            if job["status"] == "completed"
        ]

    async def _work(self) -> None:
        while not self._enough.is_set():
            number = next(self._numbers)
            job_id = await (self._submit_run() if number % 3 == 1 else self._submit_job(number))
            self._number_of[job_id] = number
            if number % 8 == 7:
                self.cancelled.add(job_id)
                # One that has ended by then, or by the try before, can't be cancelled.
                await self.ask("POST", f"/v1/jobs/{job_id}/cancel", [200, 409])
            await self._until_ended(job_id)

    async def _submit_run(self) -> str:
        headers = {"Idempotency-Key": str(uuid4())}
        form = run_form(sample_rows(ROWS))
        run: str = (await self.ask("POST", "/api/v1/runs", [201], headers=headers, **form))[
            "run_id"
        ]
        return run

    async def _submit_job(self, number: int) -> str:
        steps = INTERRUPTED if self.interrupting else LONG if number % 3 == 0 else SHORT
        body = {
            "type": "finetune",
            "idempotency_key": str(uuid4()),
            "base_model_id": TINY_LLAMA,
            "dataset_id": self.dataset_id,
            "hyperparams": {"steps": steps, "checkpoint_every": CHECKPOINT_EVERY},
        }
        job: str = (await self.ask("POST", "/v1/jobs", [200, 201], json=body))["id"]
        self._steps[job] = steps
        return job

    async def _until_ended(self, job_id: str) -> None:
        async with asyncio.timeout(JOB_SECONDS):
            while True:
                job = await self.ask("GET", f"/v1/jobs/{job_id}", [200])
                if job["status"] in ENDED:
                    self.ended[job_id] = job
                    return
                await asyncio.sleep(LOOK_EVERY)

    async def _follow(self) -> None:
        """The account's stream, taken up where it broke off."""
        while True:
            try:
                async with self._open(self.last_id) as reader:
                    try:
                        while True:
                            self.seen.append(await reader.next())
                    finally:
                        self.last_id = reader.last_id
            except (httpx.TransportError, StopAsyncIteration, TimeoutError):
                self.reopened += 1
                await asyncio.sleep(RETRY_PAUSE)

    def _open(self, last_id: int | None) -> Any:
        url = self._gateway() + "/v1/stream"
        return reading(self._http, url, self._headers, last_id)

    async def replayed(self, first: int, last: int) -> list[Message]:
        """What the platform has between two messages, asked for anew."""
        messages: list[Message] = []
        async with self._open(first) as reader:
            while not messages or messages[-1].id < last:
                messages.append(await reader.next())
        return messages
