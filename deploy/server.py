"""Run the Tuneyard platform on this machine, or one service of it, or look after it."""

import asyncio
import os
import secrets
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated
from uuid import UUID, uuid4

import asyncpg
from cyclopts import App, Parameter
from cyclopts.validators import Number
from stamina.instrumentation import set_on_retry_hooks

from deploy import backup, dead_letters, money, subscribers
from deploy.containers import complete, kubernetes_list
from deploy.local import rotation
from deploy.local.issuer import id_token
from deploy.local.program import StackError
from deploy.local.services import command
from deploy.local.state import issuer_url
from deploy.operator import HERE, Data, Days, connected, installation, say
from deploy.rebuild import rebuild_all, verify_log
from libs.eventlog.migrations import SchemaChanged
from libs.eventlog.migrations import migrate as apply_migrations
from libs.settings import SettingsError
from services.gateway.access import accounts, key_text, keys
from services.gateway.access.rate_limit import MAX_REQUESTS_PER_MINUTE

Port = Annotated[int, Parameter(help="The gateway's port.", validator=Number(gte=1, lte=65535))]
Replicas = Annotated[
    int, Parameter(help="How many of every other service.", validator=Number(gte=1, lte=16))
]
Trainers = Annotated[int, Parameter(help="How many trainers.", validator=Number(gte=1, lte=64))]
PerMinute = Annotated[int, Parameter(validator=Number(gte=1, lte=MAX_REQUESTS_PER_MINUTE))]

app = App(name="tuneyard-server", help=__doc__, version_flags=[])
account = App(name="account", help="Accounts.")
key = App(name="key", help="API keys of an account.")
log = App(name="log", help="The event log.")
made = App(name="secrets", help="Make the secrets of an installation, and make them anew.")
app.command(log)
app.command(made)
app.command(account)
app.command(key)
app.command(dead_letters.app)
app.command(subscribers.app)
app.command(backup.streams)
for name, command_of_money in money.COMMANDS.items():
    app.command(command_of_money, name=name)
for name, command_of_backup in backup.COMMANDS.items():
    app.command(command_of_backup, name=name)


@app.command
def up(
    *, data: Data = HERE, port: Port = 8080, trainers: Trainers = 1, replicas: Replicas = 1
) -> None:
    """Run the whole platform here until Ctrl-C: PostgreSQL, NATS, S3 and every service.

    With several replicas the first gateway has the port, and the others print theirs.
    """
    from deploy.local.up import up as run  # the other commands need no web client

    now = datetime.now(UTC)
    asyncio.run(run(data, port=port, replicas=replicas, trainers=trainers, say=say, now=now))


@app.command
def service(name: str, /) -> None:
    """Run one service, configured by environment variables alone, as in a container."""
    argv = command(name)
    os.execv(argv[0], argv)


@app.command
async def migrate(*, data: Data = HERE) -> None:
    """Bring the database to the current schema."""
    target = installation(os.environ, data)
    async with connected(target.dsn):
        for applied in await apply_migrations(target.dsn, target.role_passwords):
            say(f"applied {applied}")


@made.command(name="compose")
def secrets_compose(file: Path, /) -> None:
    """Write what deploy/compose.yaml needs into FILE; what stands there stays."""
    for name in complete(file):
        say(f"made {name}")


@made.command(name="kubernetes")
def secrets_kubernetes() -> None:
    """Print new Secrets for `kubectl create -f -`, which overwrites none."""
    say(kubernetes_list())


@made.command(name="rotate")
def secrets_rotate(*parts: rotation.Part, data: Data = HERE) -> None:
    """Make secrets of a one-machine stack anew, while it is stopped: all, unless some are named."""
    rotation.rotate(data.resolve(), parts or rotation.PARTS)
    say(f"made anew: {', '.join(parts or rotation.PARTS)}; the next start uses them")


@made.command(name="forget-peppers")
def secrets_forget_peppers(*, data: Data = HERE) -> None:
    """Forget what API keys were hashed with before; void are those that `key stale` shows."""
    rotation.forget_peppers(data.resolve())
    say("API keys are recognised under the pepper of now alone")


@app.command
async def rebuild(*, data: Data = HERE) -> None:
    """Derive every read model from the log again, and say what that changed."""
    for done in await rebuild_all(installation(os.environ, data).dsn):
        say(f"{done.table}: {done.rows} rows, {done.changed} changed")


@log.command(name="verify")
async def log_verify(*, data: Data = HERE) -> None:
    """Check the hash chain of every stream; exit 1 when an event was changed or removed."""
    report = await verify_log(installation(os.environ, data).dsn)
    for damage in report.damages:
        say(f"{damage.stream} version {damage.version}: {damage.reason}")
    if report.damages:
        raise StackError("The log is damaged: restore it from a backup taken before.")
    say(f"{report.events} events in {report.streams} streams: every hash follows")


@account.command(name="create")
async def account_create(
    name: str, /, *, requests_per_minute: PerMinute | None = None, data: Data = HERE
) -> None:
    """Open an account and print its id; without a rate of its own it has its plan's."""
    account_id = uuid4()
    async with connected(installation(os.environ, data).dsn) as connection:
        await accounts.create_account(
            connection,
            account_id=account_id,
            name=name,
            now=datetime.now(UTC),
            requests_per_minute=requests_per_minute,
        )
    say(str(account_id))


@account.command(name="limit")
async def account_limit(
    account_id: UUID, requests_per_minute: PerMinute | None = None, /, *, data: Data = HERE
) -> None:
    """Give an account a rate of its own; without a number, its plan's again."""
    async with connected(installation(os.environ, data).dsn) as connection:
        if not await accounts.limit_account(
            connection, account_id=account_id, requests_per_minute=requests_per_minute
        ):
            raise StackError(f"There is no account {account_id}.")
    rate = f"{requests_per_minute} requests" if requests_per_minute else "its plan's requests"
    say(f"{account_id} may send {rate} a minute")


@key.command(name="create")
async def key_create(
    account_id: UUID,
    /,
    *,
    name: str = "operator's",
    scopes: str = ",".join(accounts.ALL_SCOPES),
    expires_days: Days | None = None,
    data: Data = HERE,
) -> None:
    """Make an API key and print it, this one time."""
    wanted = scopes.split(",")
    if not set(wanted) <= set(accounts.ALL_SCOPES):
        raise StackError(f"--scopes takes some of {','.join(accounts.ALL_SCOPES)}.")
    now, target = datetime.now(UTC), installation(os.environ, data)
    async with connected(target.dsn) as connection:
        try:
            created = await keys.create_key(
                connection,
                account_id=account_id,
                name=name,
                pepper=target.key_pepper,
                secret=secrets.token_bytes(key_text.SECRET_BYTES),
                now=now,
                scopes=[scope for scope in accounts.ALL_SCOPES if scope in wanted],
                expires_at=now + timedelta(days=expires_days) if expires_days else None,
                prefix=target.limits.key_prefix,
            )
        except asyncpg.ForeignKeyViolationError:
            raise StackError(f"There is no account {account_id}.") from None
    say(created)


@key.command(name="list")
async def key_list(account_id: UUID, /, *, data: Data = HERE) -> None:
    """Show an account's keys: id, the beginning of the key, state, scopes, name."""
    now = datetime.now(UTC)
    async with connected(installation(os.environ, data).dsn) as connection:
        for listed in await keys.list_keys(connection, account_id=account_id):
            say(
                f"{listed.id}  {listed.prefix}...  {keys.state_of(listed, now)}"
                f"  {','.join(listed.scopes)}  {listed.name}"
            )


@key.command(name="stale")
async def key_stale(*, data: Data = HERE) -> None:
    """Show the active keys that are hashed with another pepper than that of now: they are void once
    no gateway is given it. A key is hashed anew when it is used."""
    target = installation(os.environ, data)
    async with connected(target.dsn) as connection:
        stale = await keys.stale_keys(connection, pepper=target.key_pepper, now=datetime.now(UTC))
    for one in stale:
        used = f"used last {one.last_used_at:%F}" if one.last_used_at else "never used"
        say(f"{one.id}  of {one.account_id}  {used}")
    say(f"{len(stale)} keys are hashed with another pepper" if stale else "no key is")


@key.command(name="revoke")
async def key_revoke(key_id: UUID, /, *, data: Data = HERE) -> None:
    """Refuse a key from now on; when this has returned, every gateway does."""
    async with connected(installation(os.environ, data).dsn) as connection:
        if not await keys.revoke_key(connection, key_id=key_id, now=datetime.now(UTC)):
            raise StackError(f"There is no active key {key_id}: `key list` shows their ids.")
    say(f"revoked {key_id}")


@app.command
def token(
    *, subject: str, email: str | None = None, name: str | None = None, data: Data = HERE
) -> None:
    """Print an ID token of the local stack's issuer, valid for an hour on /v1."""
    say(id_token(issuer_url(data), subject=subject, email=email, name=name))


def main() -> None:
    set_on_retry_hooks(())  # what a command says is its answer, and a repetition is no part of it
    try:
        app()
    except (StackError, SchemaChanged, SettingsError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except asyncpg.PostgresError as error:
        print(f"PostgreSQL refused: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
