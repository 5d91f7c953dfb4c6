"""Finds out why the platform can't be used from here, and says what to do."""

import socket
import ssl
from collections.abc import Callable, Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from msgspec import Struct

from tuneyard._call import checked_url
from tuneyard._version import VERSION
from tuneyard.cli import config, exits
from tuneyard.cli.context import Access, Context
from tuneyard.cli.exits import CliError
from tuneyard.cli.options import Commands, command
from tuneyard.errors import APIError, TuneyardError

if TYPE_CHECKING:
    from tuneyard import Tuneyard

PATIENCE = 5.0  # seconds for each step: a platform that is well answers in far less
# Seconds: signatures of webhooks allow five minutes, and a clock that is right is off by under one.
SKEW = 60.0


class Check(Struct, frozen=True, kw_only=True):
    """``next`` says what to do about it; empty where nothing is to be done."""

    name: str
    ok: bool
    found: str
    next: str = ""


def add(commands: Commands) -> None:
    command(commands, "doctor", doctor, "check address, key, clock and versions")


def doctor(context: Context) -> int:
    checks: list[Check] = []
    for check in _checks(context):
        checks.append(check)
        if not context.json:
            mark = "ok  " if check.ok else "FAIL"
            context.show(f"{mark} {check.name}: {check.found}")
            if check.next:
                context.show(f"     {check.next}")
    well = all(check.ok for check in checks)
    if context.json:
        context.answer({"ok": well, "checks": checks}, str)
    return exits.OK if well else exits.REFUSED


def _checks(context: Context) -> Iterator[Check]:
    """Stops where what follows can only fail, too."""
    yield Check(name="version", ok=True, found=f"tuneyard {VERSION}")
    yield _permissions(context)
    try:
        access = context.access()
        url = checked_url(access.base_url)
    except CliError as error:
        yield Check(name="settings", ok=False, found=error.message, next=error.hint)
        return
    except TuneyardError as error:
        yield Check(name="settings", ok=False, found=str(error), next="tuneyard login")
        return
    found = f"{access.base_url} from {access.url_from}, the key from {access.key_from}"
    yield Check(name="settings", ok=True, found=found)
    reached = _reach(url)
    yield reached
    if not reached.ok:
        return
    yield from _asked(context, access)


def _permissions(context: Context) -> Check:
    path = context.config_path
    if not path.exists():
        return Check(name="config", ok=True, found=f"there is no {path}")
    if config.is_open(path):
        return Check(
            name="config",
            ok=False,
            found=f"others may read {path}",
            next=f"chmod 600 {path}; and a new key, if one of them did: tuneyard keys create",
        )
    return Check(name="config", ok=True, found=f"only you may read {path}")


def _reach(url: str) -> Check:
    """DNS, TCP and TLS, each with its own advice."""
    parts = urlsplit(url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    where = f"{host}:{port}"
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]
        with socket.create_connection((host, port), timeout=PATIENCE) as connection:
            if secure:
                context = ssl.create_default_context()
                context.wrap_socket(connection, server_hostname=host).close()
    except socket.gaierror as error:
        found, following = f"{host} has no address ({error})", "correct the name: tuneyard login"
    except ssl.SSLError as error:
        found = f"{where} has no certificate that is trusted ({error.reason or error})"
        following = "name the host as its certificate does, or have SSL_CERT_FILE name its issuer"
    except ConnectionRefusedError:
        found = f"nothing listens on {where}"
        following = "start the platform (on this machine: just up), or correct the port"
    except OSError as error:
        found = f"{where} can't be reached ({error})"
        following = "look at the network, proxies and firewalls between"
    else:
        return Check(name="network", ok=True, found=f"{where} is {address}, and answers")
    return Check(name="network", ok=False, found=found, next=following)


def _asked(context: Context, access: Access) -> Iterator[Check]:
    import httpx

    dates: list[tuple[datetime, str]] = []

    def note_date(response: httpx.Response) -> None:
        dates.append((context.world.now(), response.headers.get("date", "")))

    with (
        httpx.Client(event_hooks={"response": [note_date]}) as http,
        context.client_of(access, http_client=http) as whole,
    ):
        client = whole.with_options(timeout=PATIENCE, max_retries=0)
        alive = _tried("platform", lambda: f"it is {client.platform.health().status}")
        yield alive
        if not alive.ok:
            return
        yield _tried("its parts", lambda: f"all are {client.platform.readiness().status}")
        yield _tried("its version", lambda: _version(client))
        yield _clock(dates[0])
        yield _tried("key", lambda: _key(client))


def _tried(name: str, ask: Callable[[], str]) -> Check:
    try:
        return Check(name=name, ok=True, found=ask())
    except TuneyardError as error:
        problem = exits.problem_of(error)
        following = problem.next if problem else ""
        if isinstance(error, APIError) and error.status >= 500:
            following = "the operator sees which part is down: /v1/readyz, and the services' logs"
        elif name == "platform":
            following = "is it a Tuneyard platform that this address leads to? tuneyard login"
        return Check(name=name, ok=False, found=str(error), next=following)


def _version(client: "Tuneyard") -> str:
    return f"{client.platform.openapi()['info']['version']} of the API; this command speaks v1"


def _key(client: "Tuneyard") -> str:
    me = client.me.get()
    paused = f", PAUSED: {me.paused_reason}" if me.paused else ""
    return f"it is {me.name}'s, plan {me.plan}{paused}"


def _clock(noted: tuple[datetime, str]) -> Check:
    here, said = noted
    try:
        there = parsedate_to_datetime(said)
    except ValueError:
        return Check(name="clock", ok=True, found="the platform does not say its time")
    off = (here - there).total_seconds()
    if abs(off) > SKEW:
        return Check(
            name="clock",
            ok=False,
            found=f"this machine's is {abs(off):.0f} s {'ahead' if off > 0 else 'behind'}",
            next="set it by NTP: signatures and links are refused by their time",
        )
    return Check(name="clock", ok=True, found=f"{abs(off):.0f} s apart")
