"""How the command gets its key and address, and keeps them to itself."""

import asyncio
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deploy.local.s3 import S3Settings
from tests.integration.gateway_app import Gateway, running_gateway
from tests.support.command import COMMAND, Command
from tests.support.failing_http import failing_server, refuses
from tests.support.stack import Database, Nats
from tests.support.terminal import terminal


@pytest.fixture(scope="module")
async def gateway(
    database: Database, nats_server: Nats, s3: S3Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    async with running_gateway(
        database, nats_server, s3, tmp_path_factory.mktemp("models")
    ) as running:
        yield running


@pytest.fixture
def nobody(tmp_path: Path) -> Command:
    return Command(tmp_path / "xdg")


async def test_login_keeps_the_key_for_its_owner_alone_and_never_says_it(
    gateway: Gateway, nobody: Command
) -> None:
    done = await nobody("login", "--key-stdin", "--base-url", gateway.url, stdin=f"{gateway.key}\n")

    assert gateway.key not in done.out + done.err
    assert stat.S_IMODE(nobody.config.stat().st_mode) == 0o600
    assert stat.S_IMODE(nobody.config.parent.stat().st_mode) == 0o700
    assert [path.name for path in nobody.config.parent.iterdir()] == ["config.toml"]
    me = (await nobody("whoami", "--json")).json
    assert me["id"] == str(gateway.account_id)


async def test_login_in_a_terminal_asks_and_shows_nothing_of_the_key(
    gateway: Gateway, nobody: Command
) -> None:
    async with terminal([*COMMAND, "login"], nobody.environ()) as shown:
        await shown.until(lambda text: "address [" in text, "the question for the address")
        shown.type(f"{gateway.url}\n")
        await shown.until(lambda text: "API key (not shown)" in text, "the question for the key")
        shown.type(f"{gateway.key}\n")
        assert await shown.end() == 0

    assert gateway.key.encode() not in shown.written
    assert gateway.key in nobody.config.read_text()


async def test_a_wrong_key_is_not_kept(gateway: Gateway, nobody: Command) -> None:
    done = await nobody(
        "login", "--key-stdin", "--base-url", gateway.url, stdin="tuneyard_wrong", code=3
    )

    assert "next: tuneyard login" in done.err
    assert "tuneyard_wrong" not in done.out + done.err
    assert not nobody.config.exists()


async def test_login_takes_both_from_a_platform_that_runs_here(
    gateway: Gateway, nobody: Command, tmp_path: Path
) -> None:
    folder = tmp_path / ".tuneyard"
    folder.mkdir()
    said = f'{{"base_url": "{gateway.url}", "api_key": "{gateway.key}", "account_id": "x"}}'
    (folder / "credentials.json").write_text(said)

    await nobody("login", "--local", folder)

    assert (await nobody("whoami", "--json")).json["id"] == str(gateway.account_id)
    missing = await nobody("login", "--local", tmp_path / "nowhere", code=2)
    assert "just up" in missing.err


async def test_the_command_line_goes_before_the_environment_and_that_before_the_config(
    gateway: Gateway, nobody: Command
) -> None:
    others = [await gateway.account(cents=0) for _ in range(2)]
    (second, second_key), (third, third_key) = others
    await nobody("login", "--key-stdin", "--base-url", gateway.url, stdin=gateway.key)

    async def who(*arguments: str, **environ: str) -> str:
        me: str = (await nobody("whoami", "--json", *arguments, **environ)).json["id"]
        return me

    assert await who() == str(gateway.account_id)
    assert await who(TUNEYARD_API_KEY=second_key) == str(second)
    assert await who("--api-key", third_key, TUNEYARD_API_KEY=second_key) == str(third)


async def test_a_kept_key_goes_to_its_own_platform_alone(gateway: Gateway, nobody: Command) -> None:
    await nobody("login", "--key-stdin", "--base-url", gateway.url, stdin=gateway.key)
    async with failing_server(lambda _: refuses("401 Unauthorized", "invalid_api_key")) as other:
        done = await nobody("whoami", "--base-url", other.url, code=3)

    assert other.asked == []
    assert f"tuneyard login --base-url {other.url}" in done.err


async def test_a_config_that_others_may_read_is_warned_of(
    gateway: Gateway, nobody: Command
) -> None:
    await nobody("login", "--key-stdin", "--base-url", gateway.url, stdin=gateway.key)
    assert (await nobody("whoami")).err == ""
    nobody.config.chmod(0o644)

    assert "warning: others may read" in (await nobody("whoami")).err
    assert "FAIL config" in (await nobody("doctor", code=1)).out
    await nobody("login", "--key-stdin", "--base-url", gateway.url, stdin=gateway.key)
    assert stat.S_IMODE(nobody.config.stat().st_mode) == 0o600


async def test_a_broken_config_is_named(nobody: Command) -> None:
    nobody.config.parent.mkdir(parents=True)
    nobody.config.write_text("base_url = ")

    done = await nobody("whoami", code=2)

    assert f"rm {nobody.config} && tuneyard login" in done.err


async def test_logout_forgets(gateway: Gateway, nobody: Command) -> None:
    await nobody("login", "--key-stdin", "--base-url", gateway.url, stdin=gateway.key)

    assert (await nobody("logout", "--json")).json["removed"]
    assert not (await nobody("logout", "--json")).json["removed"]
    assert "tuneyard login" in (await nobody("whoami", code=3)).err


async def test_programs_get_the_kept_key_and_address_by_a_shells_eval(
    gateway: Gateway, nobody: Command
) -> None:
    assert "tuneyard login" in (await nobody("env", code=3)).err
    await nobody("login", "--key-stdin", "--base-url", gateway.url, stdin=gateway.key)
    said = (await nobody("env")).out

    script = said + 'echo "$TUNEYARD_BASE_URL $TUNEYARD_API_KEY"'
    shell = await asyncio.create_subprocess_exec("sh", "-c", script, stdout=asyncio.subprocess.PIPE)
    out, _ = await shell.communicate()
    assert out.decode().split() == [gateway.url, gateway.key]
