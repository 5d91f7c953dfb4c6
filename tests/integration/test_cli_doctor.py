"""``doctor`` finds what is wrong, says what to do, and fails if anything is."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.local.program import free_port
from tests.support.command import Command
from tests.support.failing_http import Answer, Asked, failing_server, refuses, says

ME = {
    "id": "a",
    "name": "Ada",
    "email": None,
    "plan": "free",
    "subscription": "none",
    "paused": False,
    "paused_reason": None,
    "has_card": False,
    "portal_url": None,
    "notification_preferences": dict.fromkeys(
        ("job_completed", "job_failed", "billing", "product_news"), True
    ),
    "limits": {"requests_per_minute": 60, "burst": 10, "max_api_keys": 3},
    "created_at": "2026-11-27T12:00:00Z",
}
WELL: dict[str, Answer] = {
    "/v1/healthz": says({"status": "ok"}),
    "/v1/readyz": says({"status": "ready"}),
    "/openapi.json": says({"info": {"version": "1.2.0"}}),
    "/v1/me": says(ME),
}


def platform(**changed: Answer) -> Callable[[Asked], Answer]:
    named = {"healthz": "/v1/healthz", "readyz": "/v1/readyz", "me": "/v1/me"}
    answers = WELL | {named[name]: of for name, of in changed.items()}
    return lambda asked: answers[asked.path]


async def checked(command: Command, code: int) -> dict[str, dict[str, Any]]:
    done = (await command("doctor", "--json", code=code)).json
    assert done["ok"] == (code == 0)
    return {check["name"]: check for check in done["checks"]}


async def test_where_all_is_well_it_says_so(tmp_path: Path) -> None:
    async with failing_server(platform()) as server:
        command = Command(tmp_path, server.url, "k")
        text = (await command("doctor")).out
        checks = await checked(command, 0)

    assert "FAIL" not in text
    assert {"network", "platform", "its parts", "its version", "clock", "key", "config"} <= set(
        checks
    )
    assert "1.2.0" in checks["its version"]["found"]
    assert "Ada" in checks["key"]["found"]


@pytest.mark.parametrize(
    ("changed", "fails", "advice"),
    [
        ({"me": refuses("401 Unauthorized", "invalid_api_key")}, "key", "tuneyard login"),
        ({"me": refuses("403 Forbidden", "missing_scope")}, "key", "tuneyard keys ls"),
        (
            {"readyz": refuses("503 Service Unavailable", "service_unavailable")},
            "its parts",
            "operator",
        ),
        (
            {"healthz": says({"status": "ok"}, Date="Fri, 27 Nov 2020 12:00:00 GMT")},
            "clock",
            "NTP",
        ),
        ({"healthz": Answer("404 Not Found", {}, b"nginx")}, "platform", "Tuneyard platform"),
    ],
)
async def test_what_is_wrong_is_named_with_what_to_do(
    tmp_path: Path, changed: dict[str, Answer], fails: str, advice: str
) -> None:
    async with failing_server(platform(**changed)) as server:
        checks = await checked(Command(tmp_path, server.url, "k"), 1)

    assert [name for name, check in checks.items() if not check["ok"]] == [fails]
    assert advice in checks[fails]["next"]


async def test_the_way_there_is_looked_at_step_by_step(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        plain_port = silent.getsockname()[1]
        cases = {
            f"http://127.0.0.1:{free_port()}": ("nothing listens", "just up"),
            "http://no-such-host.invalid": ("has no address", "correct the name"),
            f"https://127.0.0.1:{plain_port}": ("can't be reached", "network"),
        }
        for url, (found, advice) in cases.items():
            network = (await checked(Command(tmp_path, url, "k"), 1))["network"]
            assert found in network["found"]
            assert advice in network["next"]


async def test_a_server_without_tls_is_told_from_one_that_is_not_there(tmp_path: Path) -> None:
    async with failing_server(platform()) as server:
        secure = Command(tmp_path, server.url.replace("http:", "https:"), "k")
        network = (await checked(secure, 1))["network"]

    assert "certificate" in network["found"] or "can't be reached" in network["found"]


async def test_without_settings_there_is_nothing_to_look_at_but_what_to_do(tmp_path: Path) -> None:
    checks = await checked(Command(tmp_path), 1)

    assert "tuneyard login" in checks["settings"]["next"]
    assert "network" not in checks
