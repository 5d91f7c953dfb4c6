"""A platform that knows one job, and tells its story as it is told to: whole, or in pieces."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tests.integration.test_sdk_failures import job
from tests.support.failing_http import RESETS, Answer, Asked, says
from tests.support.jobs import finished_result

JOB_ID = "6f2c1f0e-5a0b-4c57-9d53-2f7c4a1e8b01"
MOMENT = "2026-11-27T12:00:00Z"
TOTAL = 60


def told_job(status: str, **changes: Any) -> dict[str, Any]:
    return job(JOB_ID, status=status, steps_total=TOTAL, tokens_planned=60_000, **changes)


def notice(status: str, **changes: Any) -> dict[str, Any]:
    return {"type": f"job.{status}", "timestamp": MOMENT, "data": told_job(status, **changes)}


def points(*steps: int, phase: str = "train") -> dict[str, Any]:
    made = [
        {
            "ts": MOMENT,
            "step": step,
            "cycle": 0,
            "phase": phase,
            "loss": 4 - step / 20,
            "lr": 0.1,
            "throughput": 1000.0,
            "vram_gb": 0.0,
            "grad_norm": 1.0,
        }
        for step in steps
    ]
    return {"job_id": JOB_ID, "points": made}


def line(seq: int, text: str) -> dict[str, Any]:
    return {
        "job_id": JOB_ID,
        "lines": [{"seq": seq, "ts": MOMENT, "stream": "stdout", "text": text}],
    }


def story(end: str = "completed", **changes: Any) -> list[tuple[str, Any]]:
    return [
        ("state", notice("queued")),
        ("state", notice("running")),
        ("metrics", points(0, phase="eval")),
        ("log", line(1, "step 20/60")),
        ("metrics", points(*range(1, 31))),
        ("log", line(2, "half of it \x1b[2J is done")),
        ("metrics", points(*range(31, 61))),
        ("state", notice(end, **changes)),
        ("done", notice(end, **changes)),
    ]


@dataclass
class ScriptedJob:
    """``pieces``: how many events each connection brings before it breaks off; afterwards, all."""

    events: Sequence[tuple[str, Any]]
    pieces: list[int] = field(default_factory=list)
    away: int = 0
    """So many connections are reset between two pieces."""
    back: asyncio.Event | None = None
    """Until it is set, all connections behind the first piece are reset."""
    gate: asyncio.Event | None = None
    """Until it is set, the story stops after the last piece."""
    _away_now: int = 0

    async def __call__(self, asked: Asked) -> Answer:
        path = asked.path.partition("?")[0]
        if path.endswith("/stream"):
            return await self._stream(int(asked.headers.get("last-event-id", "0")))
        if path.endswith("/result"):
            result = msgspec.to_builtins(finished_result())
            money = {"job_id": JOB_ID, "cost_usd": 0.26, "charge_cents": 26, "currency": "USD"}
            return says({**result, **money})
        return says(told_job("running"))

    async def _stream(self, after: int) -> Answer:
        kind = {"Content-Type": "text/event-stream"}
        if self._away_now:
            if self.back is None or self.back.is_set():
                self._away_now -= 1
            return RESETS
        if self.pieces:
            upto = after + self.pieces.pop(0)
            self._away_now = self.away
        else:
            if self.gate is not None:
                await self.gate.wait()
            upto = len(self.events)
        body = b"retry: 0\n\n" + b"".join(
            b"id: %d\nevent: %s\ndata: %s\n\n" % (n, name.encode(), msgspec.json.encode(data))
            for n, (name, data) in enumerate(self.events, 1)
            if after < n <= upto
        )
        return Answer("200 OK", kind, body, then="close", measured=False)
