"""A peer that takes nothing of what is sent to it."""

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # most who import this send nothing over HTTP
    import aiohttp


def end_when_silent(one: socket.socket, seconds: float) -> None:
    """Let the kernel end a connection when nothing that was sent is taken for so long: nobody else
    would, who waits for a hanging server's buffer.

    TCP_USER_TIMEOUT (RFC 5482), which Linux has; since 5.11 also for a peer whose process hangs
    and whose machine still answers.
    """
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(seconds * 1000))


def sockets_that_end(seconds: float) -> "Callable[[aiohttp.AddrInfoType], socket.socket]":
    """The same for a connector of aiohttp, which has no deadline for what it sends."""

    def make_socket(place: "aiohttp.AddrInfoType") -> socket.socket:
        family, kind, protocol, *_ = place
        one = socket.socket(family, kind, protocol)
        end_when_silent(one, seconds)
        return one

    return make_socket
