"""A service's settings come from its environment, once, or it says what is missing."""

from pathlib import Path

import pytest
from msgspec import Struct

from libs.settings import HUB, SettingsError, decode_settings, hub_address, with_each_password


class Settings(Struct, frozen=True, kw_only=True):
    database_url: str
    threads: int = 2
    work_dir: Path = Path("work")


def test_variables_are_converted_and_others_ignored() -> None:
    environ = {
        "TUNEYARD_DATABASE_URL": "postgresql://x",
        "TUNEYARD_THREADS": "4",
        "TUNEYARD_WORK_DIR": "/srv/work",
        "PATH": "/bin",
    }
    assert decode_settings(Settings, environ) == Settings(
        database_url="postgresql://x", threads=4, work_dir=Path("/srv/work")
    )


def test_a_missing_variable_is_named() -> None:
    with pytest.raises(SettingsError, match="database_url"):
        decode_settings(Settings, {})


def test_a_malformed_variable_is_named() -> None:
    with pytest.raises(SettingsError, match="threads"):
        decode_settings(Settings, {"TUNEYARD_DATABASE_URL": "x", "TUNEYARD_THREADS": "many"})


@pytest.mark.parametrize(
    ("url", "each"),
    [
        ("nats://gateway:a@nats:4222", ["nats://gateway:a@nats:4222"]),
        ("nats://u:now,next@h:1", ["nats://u:now@h:1", "nats://u:next@h:1"]),
        ("postgresql://u:a%2Cb,c@h/d", ["postgresql://u:a%2Cb@h/d", "postgresql://u:c@h/d"]),
        ("nats://127.0.0.1:4222", ["nats://127.0.0.1:4222"]),
        ("postgresql://u@a:1,b:2/d", ["postgresql://u@a:1,b:2/d"]),
        (
            "postgresql://u:x,y@a:1,b:2/d",
            ["postgresql://u:x@a:1,b:2/d", "postgresql://u:y@a:1,b:2/d"],
        ),
    ],
)
def test_an_address_may_have_two_passwords_while_one_is_changed(url: str, each: list[str]) -> None:
    assert with_each_password(url) == each


@pytest.mark.parametrize(
    ("told", "asked"),
    [
        ({}, HUB),
        ({"HF_ENDPOINT": "https://hub.example.com/"}, "https://hub.example.com"),
        ({"HF_ENDPOINT": "http://hub:8090/api/models"}, "http://hub:8090/api/models"),
    ],
)
def test_the_model_hub_is_the_one_that_its_own_client_is_told_of(
    told: dict[str, str], asked: str
) -> None:
    assert hub_address(told) == asked


@pytest.mark.parametrize(
    "told", ["", "hub.example.com", "https://", "https:///models", "ftp://hub"]
)
def test_an_address_at_which_there_can_be_no_hub_is_refused_by_name(told: str) -> None:
    with pytest.raises(SettingsError, match="HF_ENDPOINT"):
        hub_address({"HF_ENDPOINT": told})
