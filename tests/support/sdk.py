"""The SDK's two clients behind one call, so that one test proves both."""

import asyncio
import inspect
from collections.abc import Callable, Iterator
from contextlib import aclosing, closing
from typing import Any, Literal

from tuneyard import AsyncTuneyard, Tuneyard
from tuneyard._seams import Seams

Kind = Literal["blocking", "asynchronous"]
KINDS: tuple[Kind, ...] = ("blocking", "asynchronous")
KEY = "tuneyard_secret"


class Sleeps(list[float]):
    """Seconds that were to be slept, and were not."""

    def seams(self, **others: Any) -> Seams:
        return Seams(sleep=self.append, random=lambda: 0.0, **others)


async def ask(
    kind: Kind,
    url: str,
    work: Callable[[Any], Any],
    *,
    seams: Seams | None = None,
    api_key: str = KEY,
    **options: Any,
) -> Any:
    """What ``work`` makes of a client: a result, or the list of what it iterates over."""
    if kind == "blocking":

        def blocking() -> Any:
            with Tuneyard(api_key=api_key, base_url=url, seams=seams, **options) as client:
                return _all(work(client))

        return await asyncio.to_thread(blocking)
    async with AsyncTuneyard(api_key=api_key, base_url=url, seams=seams, **options) as client:
        result = work(client)
        if inspect.isawaitable(result):
            return await result
        if hasattr(result, "__aiter__"):
            async with aclosing(result.__aiter__()) as items:
                return [item async for item in items]
        return result


def _all(result: Any) -> Any:
    if not isinstance(result, Iterator):
        return list(result) if hasattr(result, "pages") else result
    with closing(result) as items:  # type: ignore[type-var]
        return list(items)
