"""Who may read the job events beside the services: users of NATS with an account of their own."""

import asyncio
import fcntl
import os
import secrets
import signal
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import nats as client
import nats.errors
import nats.js.errors
import stamina
from msgspec import Struct
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from deploy.local import nats as server
from deploy.local.program import StackError
from deploy.local.state import SECRET_BYTES, Ports, Secrets, load, save
from deploy.local.supervisor import process_of
from libs.bus.broker import inbox_prefix, tls_options
from libs.bus.streams import consumers_of
from libs.subscriber import ACK_WAIT, REFUSED, STREAM
from libs.tls import advice

PREFIX = "sub-"
"""No service is called so: a subscriber's consumer is nobody else's."""

DECLARED = {"ack_wait": ACK_WAIT, "max_deliver": -1}
"""What a release says of a subscriber's consumer, and may say differently: NATS can change these.
Its types it can change too, but they are the subscriber's own choice."""

RELOAD_SECONDS = 30.0  # until the server knows a new user; milliseconds, if the machine is not busy
POLL = 0.05
CONNECT_SECONDS = 10.0  # a server that reads its configuration again is back before


class Subscribers(Struct, frozen=True, kw_only=True):
    """``subscribers.json``: passwords by user."""

    passwords: dict[str, str]


def user(name: str) -> str:
    return PREFIX + name


def new_password() -> str:
    return secrets.token_hex(SECRET_BYTES)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process at a time writes the server's configuration."""
    descriptor = os.open(folder / "subscribers.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def known(folder: Path) -> dict[str, str]:
    """Passwords by user."""
    found = load(folder / "subscribers.json", Subscribers)
    return {} if found is None else found.passwords


def _store(folder: Path, passwords: Mapping[str, str]) -> None:
    """Remember them, and have the running server take them up, with nobody else disturbed."""
    ports, known = _installed(folder)
    save(folder / "subscribers.json", Subscribers(passwords=dict(passwords)))
    server.write_config(
        folder / "nats", port=ports.nats, passwords=known.nats_users, subscribers=passwords
    )
    process = process_of(folder / "run" / "nats.pid", folder)
    if process is not None:
        os.kill(process, signal.SIGHUP)


def names(folder: Path) -> list[str]:
    """`StackError` where there is no installation."""
    _installed(folder)
    return [user.removeprefix(PREFIX) for user in known(folder)]


def _installed(folder: Path) -> tuple[Ports, Secrets]:
    ports, known = load(folder / "ports.json", Ports), load(folder / "secrets.json", Secrets)
    if ports is None or known is None:
        raise StackError(
            f"There is no stack in {folder}: name its folder with --data. For a NATS of your own,"
            " `subscriber create NAME --print` shows what to add to its configuration."
        )
    return ports, known


def _running(folder: Path) -> tuple[Ports, str]:
    """The ports, and the address of NATS's operator."""
    ports, known = _installed(folder)
    password = known.nats_users[server.OPERATOR]
    return ports, server.url(user=server.OPERATOR, password=password, port=ports.nats)


async def add(folder: Path, name: str, types: tuple[str, ...]) -> str:
    """The address of a new subscriber to the events of these types, or all; it can be used when
    this returns. ``folder`` is absolute. `StackError` when there is one of this name, or no NATS.
    """
    ports, operator_url = _running(folder)
    with alone(folder):
        passwords = known(folder)
        if user(name) in passwords:
            raise StackError(f"There is a subscriber {name}: remove it first.")
        await _ask(operator_url, partial(_make_consumer, name=user(name), types=types))
        password = new_password()
        _store(folder, passwords | {user(name): password})
    url = server.url(user=user(name), password=password, port=ports.nats)
    await _until_let_in(url, True)
    await _ask(operator_url, partial(_has_consumer, name=user(name)))
    return url


async def remove(folder: Path, name: str) -> None:
    """Nobody reads as ``name`` any more, and its place in the stream is forgotten."""
    ports, operator_url = _running(folder)
    with alone(folder):
        passwords = known(folder)
        password = passwords.pop(user(name), None)
        if password is None:
            raise StackError(f"There is no subscriber {name}: `subscriber list` shows them.")
        await _ask(operator_url, _answers)
        _store(folder, passwords)
    url = server.url(user=user(name), password=password, port=ports.nats)
    await _until_let_in(url, False)
    await _ask(operator_url, partial(_forget, name=user(name)))


async def _ask(
    operator_url: str,
    question: Callable[[JetStreamContext], Awaitable[object]],
    ca: Path | None = None,
) -> None:
    """While the server reads its configuration again, JetStream may be out of reach: an answer is
    waited for, so that whoever comes after this has one as well. `StackError` without one."""
    try:
        async for attempt in stamina.retry_context(
            on=_unanswered, attempts=None, timeout=RELOAD_SECONDS, wait_initial=POLL, wait_max=1.0
        ):
            with attempt:
                operator = await _operator(operator_url, ca)
                try:
                    await question(operator.jetstream())
                finally:
                    await operator.close()
    except (nats.errors.Error, OSError) as error:
        raise StackError(
            f"JetStream gives no good answer ({error!r}): see the log of nats, and do this again."
        ) from error


def _unanswered(error: Exception) -> bool:
    if isinstance(error, nats.js.errors.APIError):
        return isinstance(error, nats.js.errors.ServiceUnavailableError)
    return isinstance(error, nats.errors.Error | OSError)


async def _answers(jetstream: JetStreamContext) -> None:
    await jetstream.account_info()


async def _has_consumer(jetstream: JetStreamContext, name: str) -> None:
    await jetstream.consumer_info(STREAM, name)


async def _forget(jetstream: JetStreamContext, name: str) -> None:
    with suppress(nats.js.errors.NotFoundError):
        await jetstream.delete_consumer(STREAM, name)


async def _make_consumer(jetstream: JetStreamContext, name: str, types: tuple[str, ...]) -> None:
    """Made here, and not by the subscriber: who makes a consumer may have the server write to any
    subject of the platform."""
    await _forget(jetstream, name)  # a former subscriber's: this one begins anew
    try:
        await jetstream.add_consumer(
            STREAM,
            ConsumerConfig(
                durable_name=name,
                ack_policy=AckPolicy.EXPLICIT,
                deliver_policy=DeliverPolicy.ALL,
                filter_subjects=[f"events.{one}.*" for one in types] or None,
            ).evolve(**DECLARED),
        )
    except nats.js.errors.NotFoundError as error:
        raise StackError("There is no stream of events yet: start the relay first.") from error


async def make_place(
    operator_url: str, name: str, types: tuple[str, ...], ca: Path | None = None
) -> None:
    """Make the consumer of one who was let in by other means; ``ca`` as in `make_broker`.
    `StackError` without NATS."""
    await _ask(operator_url, partial(_make_consumer, name=name, types=types), ca)


async def update_places(operator_url: str, ca: Path | None = None) -> list[str]:
    """Bring the consumers that an older release has made to this one's settings, whoever of the
    subscribers they are. What they have delivered, and what waits for an answer, they still know.
    Names of the subscribers; ``ca`` as in `make_broker`. `StackError` without NATS.
    """
    operator = await _operator(operator_url, ca)
    try:
        return [name async for name in _updated(operator.jetstream())]
    except (nats.errors.Error, OSError, TimeoutError) as error:
        raise StackError(f"The subscribers' places could not be updated: {error!r}.") from error
    finally:
        await operator.close()


async def _updated(jetstream: JetStreamContext) -> AsyncIterator[str]:
    try:
        consumers = await consumers_of(jetstream, STREAM)
    except nats.js.errors.NotFoundError:  # before the relay has ever run
        return
    for there in (one.config for one in consumers):
        name = there.durable_name or ""
        if name.startswith(PREFIX) and any(
            getattr(there, setting) != value for setting, value in DECLARED.items()
        ):
            await jetstream.add_consumer(STREAM, there.evolve(**DECLARED))
            yield name.removeprefix(PREFIX)


async def _operator(url: str, ca: Path | None = None) -> Client:
    """A server that reads its configuration again may let go of who has not been let in yet."""
    try:
        async for attempt in stamina.retry_context(
            on=(nats.errors.Error, OSError),
            attempts=None,
            timeout=CONNECT_SECONDS,
            wait_initial=POLL,
        ):
            with attempt:
                found = await _connect(url, ca)
        return found
    except ssl.SSLError as error:
        raise StackError(f"NATS: {error}. {advice(error)}") from error
    except (nats.errors.Error, OSError, TimeoutError) as error:
        raise StackError(
            f"NATS does not answer ({error}): start it first; on one machine, `tuneyard-server up`."
        ) from error


async def _until_let_in(url: str, wanted: bool) -> None:
    """Wait until the server lets this user in, or does not any more."""
    try:
        async with asyncio.timeout(RELOAD_SECONDS):
            while await _is_let_in(url) is not wanted:  # noqa: ASYNC110 (NATS sets no Event)
                await asyncio.sleep(POLL)
    except TimeoutError:
        raise StackError(
            "NATS has not taken up its new configuration: see its log. `subscriber remove` and"
            " `create` try it again."
        ) from None


async def _is_let_in(url: str) -> bool | None:
    """None where the server says neither."""
    try:
        await (await _connect(url)).close()
    except (nats.errors.Error, OSError, TimeoutError) as error:
        return False if REFUSED in str(error).lower() else None
    return True


async def _connect(url: str, ca: Path | None = None) -> Client:
    return await client.connect(
        url,
        **tls_options(url, ca),
        allow_reconnect=False,
        max_reconnect_attempts=1,
        reconnect_time_wait=0,
        connect_timeout=2,
        inbox_prefix=inbox_prefix(url.split("//")[1].split(":")[0]).encode(),
        error_cb=_quiet,
    )


async def _quiet(_: Exception) -> None:
    """A refused connection is an answer here, not something to log."""
