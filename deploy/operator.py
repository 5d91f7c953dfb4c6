"""How the operator's commands reach an installation, and what they have in common."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number
from msgspec import Struct

from deploy.local.program import StackError
from deploy.local.services import ROOT
from deploy.local.state import Secrets, admin_dsn, load
from libs.eventlog.connection import Connection, NotTrusted, connect
from libs.eventlog.migrations import ROLES
from services.gateway.access.limits import Limits, LimitsError, read_limits

HERE = Path(".tuneyard")
Data = Annotated[Path, Parameter(name="--data", help="Folder of the local stack.")]
Days = Annotated[int, Parameter(validator=Number(gte=1, lte=3_653))]


def say(line: str) -> None:
    """Print at once; a reader that went away must not end what is running."""
    with suppress(BrokenPipeError):
        print(line, flush=True)


class Installation(Struct, frozen=True, kw_only=True):
    """The superuser's DSN, what new API keys are hashed with, the services' passwords if known, and
    the limits of plans."""

    dsn: str
    key_pepper: bytes
    role_passwords: dict[str, str]
    limits: Limits


def installation(environ: Mapping[str, str], data: Path) -> Installation:
    """From ``TUNEYARD_DATABASE_URL`` and ``TUNEYARD_KEY_PEPPER`` where the first is set, as in a
    container; otherwise the local stack in the folder ``data``."""
    dsn = environ.get("TUNEYARD_DATABASE_URL")
    try:
        limits = read_limits(Path(environ.get("TUNEYARD_LIMITS", ROOT / "limits.toml")))
    except LimitsError as error:
        raise StackError(str(error)) from error
    if dsn is not None:
        pepper = bytes.fromhex(environ.get("TUNEYARD_KEY_PEPPER", ""))
        return Installation(
            dsn=dsn, key_pepper=pepper, role_passwords=role_passwords(environ), limits=limits
        )
    known = load(data / "secrets.json", Secrets)
    if known is None:
        raise StackError(
            f"There is no stack in {data}: name its folder with --data, or set "
            "TUNEYARD_DATABASE_URL."
        )
    return Installation(
        dsn=admin_dsn(data),
        key_pepper=bytes.fromhex(known.key_pepper),
        role_passwords=known.postgres_roles,
        limits=limits,
    )


def role_passwords(environ: Mapping[str, str]) -> dict[str, str]:
    """``TUNEYARD_ROLE_PASSWORD_BILLING`` and so on. Of a role without one, whoever runs PostgreSQL
    sets the password (CloudNativePG does), and `migrate` leaves it as it is. Of two, with a comma
    between them, the next one."""
    named = {role: f"TUNEYARD_ROLE_PASSWORD_{role.upper()}" for role in ROLES}
    return {
        role: environ[name].rpartition(",")[-1] for role, name in named.items() if name in environ
    }


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[Connection]:
    """One connection to the installation's database. `StackError` when it does not answer."""
    try:
        connection = await connect(dsn)
    except NotTrusted as error:
        raise StackError(str(error)) from error
    except (OSError, TimeoutError) as error:
        raise StackError(
            f"PostgreSQL does not answer ({error}): start the stack with `tuneyard-server up`."
        ) from error
    try:
        yield connection
    finally:
        await connection.close()
