"""Decode a service's environment into its settings struct, once, in its ``__main__``."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

PREFIX = "TUNEYARD_"

PASSWORDS = re.compile(r"(?P<before>\w+://[^:@/]*:)(?P<passwords>[^@/]*)(?P<after>@.*)")
HUB_ADDRESS = re.compile(r"https?://[^\s/?#][^\s?#]*")

HUB = "https://huggingface.co"
HUB_VARIABLE = "HF_ENDPOINT"
"""As the hub's own client is told: whoever asks the hub for anything, asks the same one."""

S = TypeVar("S", bound=Struct)


class SettingsError(Exception):
    """The environment does not describe a service that can run; the text says what to set."""


def decode_settings(settings: type[S], environ: Mapping[str, str]) -> S:
    """Field ``database_url`` comes from ``TUNEYARD_DATABASE_URL``; strings are converted.

    Raises SettingsError naming the first variable that is missing or malformed.
    """
    values = {
        field.encode_name: environ[PREFIX + field.encode_name.upper()]
        for field in msgspec.structs.fields(settings)
        if PREFIX + field.encode_name.upper() in environ
    }
    try:
        return msgspec.convert(values, settings, strict=False, dec_hook=_path)
    except msgspec.ValidationError as error:
        raise SettingsError(
            f"{settings.__module__}: {error}. Set it in the environment as {PREFIX}<FIELD>."
        ) from error


def with_each_password(url: str) -> list[str]:
    """The address of a server with each of the passwords that it has, with commas between them,
    while one is changed for another: ``nats://gateway:now,next@nats:4222``. A comma that is part
    of a password is written ``%2C``, as in any URL."""
    parts = PASSWORDS.fullmatch(url)
    if parts is None:
        return [url]
    return [
        f"{parts['before']}{password}{parts['after']}" for password in parts["passwords"].split(",")
    ]


def hub_address(environ: Mapping[str, str]) -> str:
    """The Hugging Face hub's, or that of a mirror: scheme, host and path, without a last slash.

    Raises SettingsError for what the hub's client could ask nothing of, as an empty variable.
    """
    told = environ.get(HUB_VARIABLE, HUB)
    if not HUB_ADDRESS.fullmatch(told):
        raise SettingsError(
            f"{HUB_VARIABLE} is no http or https address: set it to that of a mirror of the Hugging"
            " Face hub, such as https://hub.example.com, or do not set it."
        )
    return told.rstrip("/")


def _path(wanted: type, value: Any) -> Path:
    """Fields of type Path, the one type in a settings struct that msgspec leaves to us."""
    if wanted is not Path:
        raise TypeError(f"a setting can't be of type {wanted}")
    return Path(value)
