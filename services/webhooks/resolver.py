"""Names to addresses, so that a name server that never answers holds up its own names only.

The event loop's own resolver has four threads for everybody, and a question to a silent server
occupies one for half a minute.
"""

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

THREADS = 128  # as many names can be silent at once; a waiting thread costs some 100 KB

LookUp = Callable[[str], list[tuple[Any, ...]]]
"""``socket.getaddrinfo``'s answer for a name. Raises OSError."""


def look_up(host: str) -> list[tuple[Any, ...]]:
    return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)


class Resolver(AbstractResolver):
    """One question a name at a time, however many ask."""

    def __init__(self, ask: LookUp = look_up) -> None:
        self._ask = ask
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="dns")
        self._asked: dict[str, asyncio.Future[list[tuple[Any, ...]]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Raises OSError for a name that has no address."""
        if (asked := self._asked.get(host)) is None:
            loop = asyncio.get_running_loop()
            asked = self._asked[host] = loop.run_in_executor(self._threads, self._ask, host)
            asked.add_done_callback(lambda _: self._asked.pop(host))
        # A thread can't be called back: who gives up leaves the question to whoever asks next.
        return [
            ResolveResult(
                hostname=host,
                host=address[0],
                port=port,
                family=found,
                proto=protocol,
                flags=socket.AI_NUMERICHOST,
            )
            for found, _, protocol, _, address in await asyncio.shield(asked)
        ]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
