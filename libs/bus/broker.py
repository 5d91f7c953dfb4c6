"""The connection to NATS, with the settings that keep a service alive through an outage."""

import os
from urllib.parse import urlsplit

import structlog
from faststream.nats import NatsBroker

from libs.settings import with_each_password

CONNECT_TIMEOUT = 2  # seconds
RECONNECT_WAIT = 0.25  # seconds; the local server is back within one
REFUSED = "authorization violation"
PING_INTERVAL = 10  # seconds; two lost pings end a dead connection

logger = structlog.get_logger()


def user_of(url: str) -> str:
    """The NATS user in a URL: the service's name, and the name of its inbox."""
    return urlsplit(url).username or "anonymous"


def inbox_prefix(user: str) -> str:
    """Every user has an inbox of its own, so that nobody can read another's answers."""
    return f"_INBOX_{user}"


def make_broker(url: str) -> NatsBroker:
    """A broker that reconnects for ever and hands messages to handlers as they are.

    While the user's password is changed, ``url`` may have both (`with_each_password`).

    Type casting is off: `consume` and `answer` decode with msgspec, once.
    """
    user, addresses = user_of(url), with_each_password(url)

    async def failed(error: Exception) -> None:
        logger.warning("nats error", error=repr(error))
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
        closed_cb=closed,
        error_cb=failed,
        apply_types=False,
        logger=None,
    )
    if len(addresses) > 1:
        # Without FastStream's callback around it: one that is refused is followed by the other.
        broker._connection_kwargs["error_cb"] = failed
    return broker
