"""The key and the address that ``login`` keeps in the user's config."""

import json
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from tuneyard.cli.exits import CliError

OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Config(Struct, frozen=True, kw_only=True):
    base_url: str
    api_key: str


def path_of(environ: Mapping[str, str]) -> Path:
    """By the XDG Base Directory specification, which has relative paths ignored."""
    named = environ.get("XDG_CONFIG_HOME", "")
    home = Path(named) if Path(named).is_absolute() else Path("~/.config").expanduser()
    return home / "tuneyard" / "config.toml"


def load(path: Path) -> Config | None:
    """None where there is none. Raises CliError for one that can't be read."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Config)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CliError(
            f"{path} can't be read: {error}",
            hint=f"correct it, or: rm {path} && tuneyard login",
            code="config",
        ) from error


def is_open(path: Path) -> bool:
    """Whether others than its owner may do anything with it. Never on Windows, which has no such
    bits."""
    return os.name == "posix" and path.exists() and bool(path.stat().st_mode & OTHERS)


def save(path: Path, config: Config) -> None:
    """In one step, and never readable for others, not even for a moment. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            # Printable ASCII is quoted alike in JSON and in TOML.
            for name in Config.__struct_fields__:
                file.write(f"{name} = {json.dumps(getattr(config, name))}\n")
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def remove(path: Path) -> bool:
    """Whether there was one."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True
