"""The secrets of a one-machine stack, made anew while it is stopped."""

import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import msgspec

from deploy.local import postgres
from deploy.local.program import StackError
from deploy.local.state import SECRET_BYTES, Secrets, load, lock, save

Part = Literal["owner", "roles", "nats", "s3", "sandbox", "pepper"]
PARTS: tuple[Part, ...] = get_args(Part)
ALTER_SECONDS = 60.0  # PostgreSQL after a kill -9 replays its journal first


def rotate(folder: Path, parts: tuple[Part, ...]) -> None:
    """Make these parts' secrets anew; the next start gives them to servers and services.

    `StackError` while the stack runs, or where there is none. Broken off at any point, it is
    completed by another call.
    """
    with _stopped(folder) as known:
        for part in parts:
            known = MAKE[part](known)
        save(folder / "secrets.json", known)
        cluster = folder / "postgres"
        if "owner" in parts and cluster.exists():
            tell_postgres(cluster, known.postgres_admin)


def forget_peppers(folder: Path) -> None:
    """Recognise no more keys that are hashed with a former pepper. `StackError` as above."""
    with _stopped(folder) as known:
        save(folder / "secrets.json", msgspec.structs.replace(known, key_pepper_previous=()))


@contextmanager
def _stopped(folder: Path) -> Iterator[Secrets]:
    """The secrets of a stack that nobody starts meanwhile."""
    known = load(folder / "secrets.json", Secrets)
    if known is None:
        raise StackError(f"There is no stack in {folder}: name its folder with --data.")
    try:
        held = lock(folder)
    except StackError as error:
        raise StackError(f"{error} Secrets are changed while the stack is stopped.") from error
    try:
        yield known
    finally:
        os.close(held)


def _secret() -> str:
    return secrets.token_hex(SECRET_BYTES)


def _owner(known: Secrets) -> Secrets:
    return msgspec.structs.replace(known, postgres_admin=_secret())


def _roles(known: Secrets) -> Secrets:
    """`migrate` sets them when the stack starts."""
    return msgspec.structs.replace(
        known, postgres_roles={role: _secret() for role in known.postgres_roles}
    )


def _nats(known: Secrets) -> Secrets:
    return msgspec.structs.replace(known, nats_users={user: _secret() for user in known.nats_users})


def _s3(known: Secrets) -> Secrets:
    return msgspec.structs.replace(
        known, s3_access_key=secrets.token_hex(10), s3_secret_key=_secret()
    )


def _sandbox(known: Secrets) -> Secrets:
    """Each is made where there is none."""
    return msgspec.structs.replace(
        known, sandbox_api_key="", sandbox_webhook_secret="", sandbox_control_token=""
    )


def _pepper(known: Secrets) -> Secrets:
    """Keys that are hashed with the former ones are recognised until these are forgotten."""
    previous = (known.key_pepper, *known.key_pepper_previous)
    return msgspec.structs.replace(known, key_pepper=_secret(), key_pepper_previous=previous)


MAKE: dict[Part, Callable[[Secrets], Secrets]] = {
    "owner": _owner,
    "roles": _roles,
    "nats": _nats,
    "s3": _s3,
    "sandbox": _sandbox,
    "pepper": _pepper,
}


def tell_postgres(cluster: Path, password: str) -> None:
    """Set the owner's password without knowing the former one: by PostgreSQL's single-user mode,
    which whoever owns the files may use while no server does. `StackError` when it fails."""
    run_as = postgres.identity((cluster, postgres.binaries()))
    done = subprocess.run(
        [
            *run_as.prefix,
            *(str(postgres.binaries() / "postgres"), "--single", "-D", str(cluster)),
            # Nobody else can be waited for: an archive gets what is written when it streams again.
            *("-c", "synchronous_standby_names=", "-c", "log_statement=none", "postgres"),
        ],
        input=f"ALTER ROLE {postgres.ADMIN} PASSWORD '{password}'\n",
        user=run_as.user,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env=dict(os.environ),
        timeout=ALTER_SECONDS,
    )
    if done.returncode != 0 or "ERROR" in done.stderr:
        raise StackError(
            "PostgreSQL did not take its owner's new password; run this again before the next"
            f" start: {done.stderr.strip()}"
        )
