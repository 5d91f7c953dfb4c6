"""The tests' servers in containers: what an engine is asked for, and that it is enough to work.

No real engine is here: see `tests.support.docker_engine` for what answers instead.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import nats as nats_py
import pytest
import yaml
from testcontainers.core.config import testcontainers_config

from deploy.containers import nats_variable
from deploy.local import nats
from deploy.local.program import StackError, free_port
from libs.objectstore.store import ObjectStore
from tests.support.containers import DEPLOY, SERVICES, Containers
from tests.support.docker_engine import Engine, engine
from tests.support.objects import store_settings
from tests.support.stack import SERVERS, Nats, Postgres, Servers, chosen

NAMES = ("postgres", "nats", "s3")


@pytest.fixture(scope="module")
async def asked_engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engine]:
    folder = tmp_path_factory.mktemp("engine")
    folder.chmod(0o755)
    former = testcontainers_config.ryuk_disabled
    async with engine(folder) as running:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DOCKER_HOST", running.address)
            # A container that removes what a killed session leaves; it asks the engine's socket.
            testcontainers_config.ryuk_disabled = True
            yield running
            testcontainers_config.ryuk_disabled = former


@pytest.fixture(scope="module")
async def contained(
    asked_engine: Engine, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Servers]:
    folder = tmp_path_factory.mktemp("servers")
    servers = Servers(folder, chosen({SERVERS: "containers"}))
    yield servers
    await servers.stop()
    removed = [number for what, number in asked_engine.done if what.startswith("remove")]
    assert removed == list(range(len(asked_engine.asked)))
    assert all('"v": "True"' in what for what, _ in asked_engine.done if what.startswith("remove"))


@pytest.fixture(scope="module")
async def three(contained: Servers) -> tuple[Postgres, Nats, Any]:
    return await contained.postgres(), await contained.nats(), await contained.s3()


def asked_for(asked_engine: Engine, name: str) -> dict[str, Any]:
    """The body of the request for this container."""
    image = SERVICES[name]["image"]
    (found,) = [asked for asked in asked_engine.asked if asked["Image"] == image]
    return found


async def test_postgres_takes_the_migrations_and_the_roles_passwords(
    three: tuple[Postgres, Nats, Any],
) -> None:
    database = await three[0].fresh_database()
    connection = await asyncpg.connect(database.dsn("scheduler"))
    assert await connection.fetchval("SELECT current_user") == "scheduler"
    await connection.close()
    await three[0].drop(database)


async def test_nats_knows_the_users_of_the_permission_table_and_nobody_else(
    contained: Servers, three: tuple[Postgres, Nats, Any]
) -> None:
    server = three[1]
    assert await nats.answers(server.url(nats.OPERATOR))
    assert not await nats.answers(nats.url(user="operator", password="wrong", port=server.port))
    for user in nats.PERMISSIONS:
        await (await nats_py.connect(server.url(user))).close()


async def test_a_server_that_is_killed_is_started_again_with_what_it_had(
    contained: Servers, three: tuple[Postgres, Nats, Any], asked_engine: Engine
) -> None:
    store = ObjectStore(store_settings(three[2]))
    async with store:
        await store.put("kept", b"whole")
    count = len(asked_engine.done)
    await contained.kill("s3")
    await contained.answers_again("s3")
    assert [what for what, _ in asked_engine.done[count:]] == ["kill", "start"]
    async with ObjectStore(store_settings(three[2])) as store:
        assert await store.size("kept") == 5


@pytest.mark.parametrize("name", NAMES)
async def test_a_container_is_what_compose_defines_but_for_its_port(
    name: str, three: tuple[Postgres, Nats, Any], asked_engine: Engine
) -> None:
    asked, part = asked_for(asked_engine, name), SERVICES[name]
    host = asked["HostConfig"]
    assert part["image"] in asked_engine.pulled
    assert part["image"] in (DEPLOY / "compose.yaml").read_text()
    assert asked.get("Entrypoint") == part.get("entrypoint")
    assert [each.partition("=")[0] for each in asked["Env"]] == list(part["environment"])
    assert host["ReadonlyRootfs"] is part["read_only"]
    assert host.get("CapDrop") == part.get("cap_drop")
    assert host["SecurityOpt"] == part["security_opt"]
    assert host["Tmpfs"] == dict.fromkeys(part["tmpfs"], "")
    assert [each["Target"] for each in host["Mounts"]] == [
        each.split(":")[1] if isinstance(each, str) else each["target"] for each in part["volumes"]
    ]
    ((_, bound),) = host["PortBindings"].items()
    assert [each["HostIp"] for each in bound] == ["127.0.0.1"]
    assert "${" not in yaml.safe_dump(asked)


async def test_the_configuration_of_nats_is_the_checkouts_and_cannot_be_written(
    three: tuple[Postgres, Nats, Any], asked_engine: Engine
) -> None:
    asked = asked_for(asked_engine, "nats")
    folder, subscribers, data = asked["HostConfig"]["Mounts"]
    for file in (folder, subscribers):
        assert (file["Type"], file["ReadOnly"]) == ("bind", True)
    assert (Path(folder["Source"]) / "users.conf").is_file()
    assert subscribers["Source"] == f"{folder['Source']}/subscribers.conf"
    assert (data["Type"], data.get("Source")) == ("volume", None)
    given = dict(each.split("=", 1) for each in asked["Env"])
    for user, password in three[1].passwords.items():
        assert given[nats_variable(user)] == password


async def test_without_an_engine_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{free_port()}")
    servers = Servers(tmp_path, Containers())
    with pytest.raises(StackError, match=r"^postgres cannot .+ Start a Docker engine, or say by"):
        await servers.postgres()
    await servers.stop()


def test_the_servers_are_embedded_unless_something_else_that_exists_is_asked_for() -> None:
    assert chosen({}) is None
    assert chosen({SERVERS: "embedded"}) is None
    with pytest.raises(StackError, match=r"'docker': it can be embedded or containers\.$"):
        chosen({SERVERS: "docker"})
