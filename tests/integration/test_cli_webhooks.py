"""A webhook's secret in the command: shown when it is made, and never again."""

from pathlib import Path
from typing import Any

from tests.support.command import Command
from tests.support.failing_http import RESETS, failing_server, says

MADE: dict[str, Any] = {
    "id": "0b5f2b0e-54c1-5b0e-8d7e-0a8e1c6d2f11",
    "url": "https://example.com/hooks",
    "enabled": True,
    "created_at": "2026-11-28T12:00:00Z",
    "updated_at": "2026-11-28T12:00:00Z",
    "secret": "whsec_bmV3",
}


async def test_a_secret_is_rotated_once_however_often_it_is_tried_and_shown_this_once(
    tmp_path: Path,
) -> None:
    answers = [RESETS, says(MADE)]
    async with failing_server(lambda _: answers.pop(0)) as server:
        cli = Command(tmp_path, server.url, "tuneyard_key")
        done = await cli("webhooks", "rotate-secret", MADE["id"])

    assert MADE["secret"] in done.out
    assert MADE["secret"] not in done.err
    assert "shown this once" in done.err
    path = f"/v1/webhooks/{MADE['id']}/rotate-secret"
    assert [(one.method, one.path) for one in server.asked] == [("POST", path)] * 2
    assert len({one.headers["idempotency-key"] for one in server.asked}) == 1
