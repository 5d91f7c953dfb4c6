"""Who one is: login, logout, env, whoami and the keys."""

import shlex
from datetime import datetime
from pathlib import Path
from typing import get_args

import msgspec

from tuneyard._call import checked_header, checked_url
from tuneyard._client import KEY_VARIABLE, URL_VARIABLE
from tuneyard.cli import config
from tuneyard.cli.context import LOCAL_URL, Access, Context
from tuneyard.cli.exits import OK, CliError
from tuneyard.cli.options import Commands, add_page, add_yes, command, group, moment_of
from tuneyard.cli.text import moment, pairs, table
from tuneyard.errors import TuneyardError
from tuneyard.resources.account import Scope
from tuneyard.types import ApiKey, CreatedKey, Me, Page

LOCAL = Path(".tuneyard")


def add(commands: Commands) -> None:
    one = command(commands, "login", login, "keep a key and an address for later commands")
    one.add_argument("--key-stdin", action="store_true", help="read the key from standard input")
    one.add_argument(
        "--local",
        nargs="?",
        type=Path,
        const=LOCAL,
        metavar="DIR",
        help=f"take both from a platform that `just up` runs here; its folder, or {LOCAL}",
    )
    command(commands, "logout", logout, "forget the key and the address")
    command(commands, "env", env, 'print both for other programs: eval "$(tuneyard env)"')
    command(commands, "whoami", whoami, "show the account that the key belongs to")
    keys = group(commands, "keys", "see, make and delete API keys")
    add_page(command(keys, "ls", list_keys, "list the keys"))
    one = command(keys, "create", create_key, "make a key, which is shown this once")
    one.add_argument("name", metavar="NAME", help="for people: what it is for")
    one.add_argument(
        "--scope",
        action="append",
        dest="scopes",
        choices=get_args(Scope),
        help="what it may do; may be repeated; left out: all that your own may",
    )
    one.add_argument("--expires-at", type=moment_of, metavar="TIME", help="as 2027-01-31T00:00:00Z")
    one = command(keys, "rm", delete_key, "delete a key, which ends it at once")
    one.add_argument("key_id", metavar="KEY_ID")
    add_yes(one)


def login(context: Context, *, key_stdin: bool, local: Path | None) -> int:
    access = _of_local(local) if local is not None else _asked_for(context, key_stdin=key_stdin)
    with context.client_of(access) as client:
        raw = client.me.with_raw_response.get()
    path = context.config_path
    config.save(path, config.Config(base_url=access.base_url, api_key=access.api_key))
    context.reply(raw, lambda me: f"logged in to {access.base_url} as {me.name}; kept in {path}")
    return OK


def _of_local(folder: Path) -> Access:
    path = folder / "credentials.json"
    try:
        found = msgspec.json.decode(path.read_bytes(), type=config.Config)
    except (OSError, msgspec.MsgspecError) as error:
        raise CliError(
            f"{path} can't be read: {error}",
            hint="start a platform with `just up`, or name its folder: tuneyard login --local DIR",
            code="no_local",
        ) from error
    return Access(found.base_url, found.api_key, str(path), str(path))


def _asked_for(context: Context, *, key_stdin: bool) -> Access:
    """Raises CliError where nobody can be asked."""
    said = context.said()
    base_url, api_key = said.base_url, said.api_key
    if not base_url and context.asks and not key_stdin:
        base_url = context.ask(f"address [{LOCAL_URL}]: ") or LOCAL_URL
    if key_stdin:
        api_key = context.world.stdin.readline()
    elif not api_key and context.asks:
        from getpass import getpass

        api_key = getpass("API key (not shown): ")
    missing = "--key-stdin" if not api_key.strip() else "--base-url" if not base_url else None
    if missing:
        raise CliError(
            "There is no key or no address to log in with.",
            hint=f"name it with {missing}, or run it in a terminal to be asked",
            code="no_key",
        )
    try:
        return Access(checked_url(base_url), checked_header("api_key", api_key), "said", "said")
    except TuneyardError as error:
        raise CliError(str(error), hint="tuneyard login --help", code="usage") from error


def logout(context: Context) -> int:
    path = context.config_path
    gone = config.remove(path)
    said = f"{path} is gone; the key itself still works" if gone else f"there was no {path}"
    context.answer({"removed": gone, "path": str(path)}, lambda _: said)
    return OK


def env(context: Context) -> int:
    access = context.access()
    said = {URL_VARIABLE: access.base_url, KEY_VARIABLE: access.api_key}
    lines = (f"export {name}={shlex.quote(of)}" for name, of in said.items())
    context.answer(said, lambda _: "\n".join(lines))
    return OK


def whoami(context: Context) -> int:
    with context.client() as client:
        context.reply(client.me.with_raw_response.get(), _me)
    return OK


def _me(me: Me) -> object:
    paused = f"paused: {me.paused_reason}" if me.paused else None
    return pairs(
        [
            ("account", me.id),
            ("name", me.name),
            ("email", me.email),
            ("plan", me.plan),
            ("subscription", me.subscription),
            ("state", paused),
            ("card", "saved" if me.has_card else "none"),
            ("manage", me.portal_url),
            ("since", moment(me.created_at)),
        ]
    )


def list_keys(context: Context, *, limit: int | None, cursor: str | None) -> int:
    with context.client() as client:
        context.page(client.api_keys.with_raw_response.list(limit=limit, cursor=cursor), _keys)
    return OK


def _keys(page: Page[ApiKey]) -> object:
    return table(
        ("id", "name", "begins", "scopes", "last used", "expires"),
        [
            (
                each.id,
                each.name,
                each.prefix,
                ",".join(each.scopes),
                moment(each.last_used_at),
                moment(each.expires_at),
            )
            for each in page.data
        ],
    )


def create_key(
    context: Context, *, name: str, scopes: list[Scope] | None, expires_at: datetime | None
) -> int:
    with context.client() as client:
        raw = client.api_keys.with_raw_response.create(
            name=name, scopes=scopes, expires_at=expires_at
        )
    context.note("Shown this once:")
    context.reply(raw, _created)
    return OK


def _created(key: CreatedKey) -> str:
    return key.key


def delete_key(context: Context, *, key_id: str, yes: bool) -> int:
    context.confirm(f"Delete the key {key_id}?", yes=yes)
    with context.client() as client:
        context.reply(
            client.api_keys.with_raw_response.delete(key_id=key_id),
            lambda gone: f"deleted {gone.id}",
        )
    return OK
