"""What the command ends with, and what it says when something went wrong."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deploy.local.program import free_port
from deploy.local.s3 import S3Settings
from tests.integration.gateway_app import ROWS, Gateway, running_gateway
from tests.integration.test_sdk_failures import BUSY, job
from tests.support.command import Command
from tests.support.failing_http import Answer, failing_server, says
from tests.support.stack import Database, Nats


@pytest.fixture(scope="module")
async def gateway(
    database: Database, nats_server: Nats, s3: S3Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    async with running_gateway(
        database, nats_server, s3, tmp_path_factory.mktemp("models")
    ) as running:
        yield running


@pytest.fixture
def cli(gateway: Gateway, tmp_path: Path) -> Command:
    return Command(tmp_path / "xdg", gateway.url, gateway.key)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(ROWS)
    return file


async def test_every_refusal_says_what_and_what_next_and_the_request(
    gateway: Gateway, cli: Command, rows: Path
) -> None:
    _, poor = await gateway.account(cents=0)
    submit = ("submit", "finetune", "--model", "tiny-llama", "--dataset", rows)
    cases: list[tuple[int, str, tuple[str | Path, ...]]] = [
        (1, "model_not_available", ("submit", "contract", "--model", "llama-3.1-8b")),
        (3, "invalid_api_key", ("ls", "--api-key", "tuneyard_wrong")),
        (4, "not_found", ("status", "6f2c1f0e-5a0b-4c57-9d53-2f7c4a1e8b99")),
        (5, "insufficient_balance", (*submit, "--api-key", poor)),
    ]
    for code, name, arguments in cases:
        said = (await cli(*arguments, "--json", code=code)).problem
        assert (said["code"], said["exit"]) == (name, code)
        assert said["request_id"]
        assert said["next"]
        lines = (await cli(*arguments, code=code)).err.splitlines()
        what, following, request = [line for line in lines if "data set" not in line]
        assert what.startswith("error: ")
        assert following.startswith("  next: ")
        assert request.startswith("  request: ")


async def test_a_key_without_the_scope_is_a_matter_of_keys(cli: Command) -> None:
    key = (await cli("keys", "create", "reader", "--scope", "read")).out.strip()

    assert (await cli("ls", "--api-key", key)).code == 0
    refused = await cli("submit", "contract", "--model", "tiny-llama", "--api-key", key, code=3)
    assert "tuneyard keys" in refused.err


async def test_a_wrong_command_line_is_said_as_text_and_as_json(cli: Command) -> None:
    for arguments in (["nothing"], ["status"], ["ls", "--limit", "many"], []):
        text = await cli(*arguments, code=2)
        assert text.out == ""
        assert "--help" in text.err
        assert (await cli(*arguments, "--json", code=2)).problem["exit"] == 2
    missing = await cli("datasets", "add", "/no/such/file.jsonl", code=2)
    assert "/no/such/file.jsonl: No such file" in missing.err
    neither = await cli("recommend", "train", "--dataset", "no-file-no-id", code=2)
    assert "no such file" in neither.err


async def test_without_a_key_or_an_address_login_is_what_to_do(tmp_path: Path) -> None:
    done = await Command(tmp_path)("ls", code=3)

    assert "tuneyard login" in done.err


async def test_bad_lines_of_a_data_set_are_named(cli: Command, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "good"}\n{"nothing": 1}\n')

    text = await cli("datasets", "add", bad, code=1)

    assert "  line 2: " in text.err
    said = (await cli("datasets", "add", bad, "--json", code=1)).problem
    assert said["details"]["errors"][0]["line"] == 2


async def test_a_platform_that_is_not_there_is_told_from_one_that_refuses(tmp_path: Path) -> None:
    nowhere = Command(tmp_path, f"http://127.0.0.1:{free_port()}", "tuneyard_key")

    assert "tuneyard doctor" in (await nowhere("ls", code=8)).err
    assert (await nowhere("ls", "--json", code=8)).problem["code"] == "unreachable"
    async with failing_server(lambda _: Answer("200 OK", {}, b"<html>login</html>")) as portal:
        other = Command(tmp_path, portal.url, "tuneyard_key")
        assert (await other("ls", "--json", code=8)).problem["code"] == "unreadable"
    async with failing_server(lambda _: BUSY) as busy:
        other = Command(tmp_path, busy.url, "tuneyard_key")
        assert (await other("ls", "--json", code=1)).problem["code"] == "service_unavailable"


async def test_ctrl_c_ends_a_command_without_a_traceback(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def never(_: object) -> Answer:
        asked.set()
        await asyncio.sleep(30)
        return says(job("j"))

    async with failing_server(never) as silent:
        process = await Command(tmp_path, silent.url, "k").start("status", "j")
        await asyncio.wait_for(asked.wait(), 120)
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()

    assert process.returncode == 130
    assert b"Traceback" not in out + err


async def test_a_reader_that_went_away_is_no_error(cli: Command) -> None:
    process = await cli.start("ls")
    assert process.stdout is not None
    process.stdout._transport.close()  # type: ignore[attr-defined]
    _, err = await process.communicate()

    assert process.returncode == 141
    assert err == b""


async def test_one_field_of_an_answer_is_said_bare_for_scripts(
    cli: Command, gateway: Gateway, rows: Path
) -> None:
    dataset_id = (await cli("datasets", "add", rows, "--field", "id")).out.strip()

    listed = ("datasets", "ls", "--field")
    assert (await cli(*listed, "data.0.id")).out == f"{dataset_id}\n"
    assert (await cli(*listed, "has_more")).out == "false\n"
    missing = await cli(*listed, "data.0.nmae", code=1)
    assert missing.out == ""
    assert "no data.0.nmae" in missing.err
    assert "name" in missing.err.splitlines()[1]
    for beyond in ("data.1", "data.0.id.x", "", "data.-1"):
        await cli(*listed, beyond, code=1)
    assert (await cli("status", "nothing", "--field", "id", code=4)).err.startswith("error: ")
