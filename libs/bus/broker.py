"""The connection to NATS, with the settings that keep a service alive through an outage."""

import asyncio
import os
import socket
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog
from faststream.nats import NatsBroker, NatsSecurity
from nats.aio.client import Client
from nats.aio.transport import TcpTransport

from libs.settings import SettingsError, with_each_password
from libs.silence import end_when_silent
from libs.tls import advice, trust_anew, trusting

CONNECT_TIMEOUT = 2  # seconds
RECONNECT_WAIT = 0.25  # seconds; the local server is back within one
NOBODY_THERE = (ConnectionRefusedError, socket.gaierror)  # before any handshake; nats-py goes on
REFUSED = "authorization violation"
PING_INTERVAL = 10  # seconds; two lost pings end a dead connection
JETSTREAM_PATIENCE = 20.0
"""Seconds for what JetStream is asked: a consumer is made in milliseconds, but on a busy disk takes
longer than the five that nats-py waits, and whoever has no answer as it starts, ends."""
SILENCE = 2.0 * PING_INTERVAL
"""Seconds in which a server takes nothing of what was sent to it; then the connection ends. nats-py
would not begin another one before the rest was sent on this one: never, if the server hangs."""

logger = structlog.get_logger()


def user_of(url: str) -> str:
    """The NATS user in a URL: the service's name, and the name of its inbox."""
    return urlsplit(url).username or "anonymous"


def inbox_prefix(user: str) -> str:
    """Every user has an inbox of its own, so that nobody can read another's answers."""
    return f"_INBOX_{user}"


def tls_options(url: str, ca: Path | None) -> dict[str, Any]:
    """How nats-py is to connect to a ``tls://`` address: as an argument for each of its names.

    TLS from the first byte: by the scheme alone nats-py would begin in plain text, and go on in it,
    password included, with whoever does not ask for TLS. The name is that of the address for every
    server that it hears of, which it knows by number only. Raises SettingsError.
    """
    parts = urlsplit(url)
    if parts.scheme != "tls":
        if ca is not None:
            raise SettingsError(
                "There is a CA for NATS's certificate, but its address is not for TLS: begin it"
                " with tls:// instead of nats://."
            )
        return {}
    return {"tls": trusting(ca), "tls_hostname": parts.hostname, "tls_handshake_first": True}


def leave_when_silent(client: Client, seconds: float) -> None:
    """End the connection that there is now, to a server that takes nothing for so long."""
    assert isinstance(client._transport, TcpTransport)
    writer = client._transport._io_writer
    assert writer is not None
    of_loop = writer.get_extra_info("socket")  # uvloop's can't be given options
    with socket.socket(fileno=os.dup(of_loop.fileno())) as same:
        end_when_silent(same, seconds)


def make_broker(url: str, ca: Path | None = None, *, silence: float = SILENCE) -> NatsBroker:
    """A broker that reconnects for ever and hands messages to handlers as they are.

    While the user's password is changed, ``url`` may have both (`with_each_password`). Where it
    begins with ``tls://``, ``ca`` is the file of the CAs that may have signed the server's
    certificate (the machine's own without it); while that one is changed, it may have both as well,
    and is read again when a certificate is refused. Raises SettingsError, and so does connecting
    for the first time to a server that can't prove who it is.

    Type casting is off: `consume` and `answer` decode with msgspec, once.
    """
    user, addresses, options = user_of(url), with_each_password(url), tls_options(url, ca)

    async def failed(error: Exception) -> None:
        known = advice(error)
        logger.warning("nats error", error=repr(error), **({"advice": known} if known else {}))
        broken_off = isinstance(error, OSError) and not isinstance(error, NOBODY_THERE)
        if options and broken_off and broker._connection is None:
            # A first connection whose handshake fails is closed by nats-py, which then waits for
            # that for ever. Later ones are tried again.
            raise SettingsError(
                f"NATS at {options['tls_hostname']}: {error!r}."
                f" {known or 'It broke off the handshake: start this again.'}"
            ) from error
        if ca is not None and isinstance(error, ssl.SSLCertVerificationError):
            trust_anew(options["tls"], ca)
        if REFUSED in str(error).lower() and len(addresses) == 1 and broker.running:
            # FastStream's callback raises on this, which ends nats-py's reconnecting: a process
            # whose password was changed would wait for ever. One that is started anew reads it.
            logger.critical("nats takes the password no more; exiting")
            os._exit(70)

    async def closed() -> None:
        # nats-py gave up for good; a subscriber would spin on the dead connection (DESIGN 7).
        # After broker.stop() nothing runs any more: then the close is our own.
        if broker.running:
            logger.critical("nats connection closed for good; exiting")
            os._exit(70)

    connecting = asyncio.Lock()

    async def connected() -> Client:
        # FastStream gives each of those who ask at once for a first connection one of their own,
        # and forgets all but one.
        async with connecting:
            if broker._connection is None:
                broker._connection = await connect()
                leave_when_silent(broker._connection, silence)
            return broker._connection

    async def reconnected() -> None:
        if broker._connection is not None:
            leave_when_silent(broker._connection, silence)

    broker = NatsBroker(
        addresses,
        name=user,
        inbox_prefix=inbox_prefix(user),
        allow_reconnect=True,
        max_reconnect_attempts=-1,
        connect_timeout=CONNECT_TIMEOUT,
        reconnect_time_wait=RECONNECT_WAIT,  # type: ignore[arg-type]
        ping_interval=PING_INTERVAL,
        max_outstanding_pings=2,
        js_options={"timeout": JETSTREAM_PATIENCE},
        closed_cb=closed,
        reconnected_cb=reconnected,
        error_cb=failed,
        security=NatsSecurity(
            ssl_context=options.get("tls"),
            tls_hostname=options.get("tls_hostname"),
            tls_handshake_first="tls" in options,
        ),
        apply_types=False,
        logger=None,
    )
    # The one place through which every first connection goes.
    connect = broker._connect
    broker._connect = connected  # type: ignore[method-assign]
    if len(addresses) > 1:
        # Without FastStream's callback around it: one that is refused is followed by the other.
        broker._connection_kwargs["error_cb"] = failed
    return broker
