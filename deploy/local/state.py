"""What the stack keeps in its folder: the lock, secrets, ports, and the user's credentials."""

import fcntl
import os
import secrets
from pathlib import Path
from typing import TypeVar
from uuid import UUID, uuid4

import msgspec
from msgspec import Struct

from deploy.local import issuer, nats, postgres
from deploy.local.program import StackError, free_port, port_is_free
from libs.eventlog.migrations import ROLES

SECRET_BYTES = 24

T = TypeVar("T", bound=Struct)


class Secrets(Struct, frozen=True, kw_only=True):
    """Made once, and anew by `rotation`. ``key_pepper`` (hex) is what API keys are hashed with;
    those of before are recognised under ``key_pepper_previous``."""

    postgres_admin: str
    postgres_roles: dict[str, str]
    nats_users: dict[str, str]
    s3_access_key: str
    s3_secret_key: str
    key_pepper: str
    key_pepper_previous: tuple[str, ...] = ()
    account_id: UUID
    sandbox_api_key: str = ""
    sandbox_webhook_secret: str = ""
    sandbox_control_token: str = ""


class Ports(Struct, frozen=True, kw_only=True):
    """Where the servers of this folder listen, on loopback. One that is newer than the file is
    given its port at the next start."""

    postgres: int
    nats: int
    s3: int
    issuer: int = 0
    sandbox: int = 0


class Credentials(Struct, frozen=True, kw_only=True):
    """``credentials.json``: what a client of the local stack needs."""

    base_url: str
    api_key: str
    account_id: UUID


def open_folder(folder: Path) -> Path:
    """Make the folder if needed; its absolute path. `StackError` if it can't be written."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StackError(f"{folder} cannot be written: {error.strerror}.") from error
    return folder.resolve()


def lock(folder: Path) -> int:
    """Take the folder for this process, until it ends; the lock's file descriptor.

    Raises `StackError` when another process has it. The lock dies with its process, however that
    ends, so there is no stale one.
    """
    descriptor = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 32).decode().strip() or "unknown"
        os.close(descriptor)
        raise StackError(
            f"{folder} is in use by process {holder}: stop it, or choose another --data folder."
        ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def load(path: Path, kind: type[T]) -> T | None:
    """The struct in a JSON file; None when there is no file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise StackError(f"{path} cannot be read: {error}.") from error


def save(path: Path, value: Struct) -> None:
    """Replace the file in one step; only its owner may read it."""
    unfinished = path.with_suffix(".unfinished")
    descriptor = os.open(unfinished, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    with open(descriptor, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)


def load_secrets(folder: Path) -> Secrets:
    """The folder's secrets, made and saved at the first call.

    Roles, users and the sandbox, when they are newer than the file, get their secrets now.
    """
    path = folder / "secrets.json"
    known = load(path, Secrets) or Secrets(
        postgres_admin=_secret(),
        postgres_roles={},
        nats_users={},
        s3_access_key=secrets.token_hex(10),
        s3_secret_key=_secret(),
        key_pepper=_secret(),
        account_id=uuid4(),
    )
    whole = msgspec.structs.replace(
        known,
        postgres_roles={role: known.postgres_roles.get(role) or _secret() for role in ROLES},
        nats_users={user: known.nats_users.get(user) or _secret() for user in nats.PERMISSIONS},
        sandbox_api_key=known.sandbox_api_key or f"sk_test_{_secret()}",
        sandbox_webhook_secret=known.sandbox_webhook_secret or f"whsec_{_secret()}",
        sandbox_control_token=known.sandbox_control_token or _secret(),
    )
    save(path, whole)
    return whole


def load_ports(folder: Path) -> Ports:
    """The ports of last time, except those that somebody else has taken since."""
    path = folder / "ports.json"
    former = load(path, Ports)
    ports = Ports(
        **{
            name: port if (port := getattr(former, name, 0)) and port_is_free(port) else free_port()
            for name in Ports.__struct_fields__
        }
    )
    save(path, ports)
    return ports


def admin_dsn(folder: Path, database: str = postgres.DATABASE) -> str:
    """The superuser's address of a running stack's database."""
    ports, known = load(folder / "ports.json", Ports), load(folder / "secrets.json", Secrets)
    if ports is None or known is None:
        raise StackError(f"{folder} holds no stack: start one with `tuneyard-server up` first.")
    return postgres.dsn(
        role=postgres.ADMIN, password=known.postgres_admin, port=ports.postgres, database=database
    )


def issuer_url(folder: Path) -> str:
    """The address of a running stack's issuer."""
    ports = load(folder / "ports.json", Ports)
    if ports is None:
        raise StackError(f"{folder} holds no stack: start one with `tuneyard-server up` first.")
    return issuer.url(ports.issuer)


def _secret() -> str:
    return secrets.token_hex(SECRET_BYTES)
