"""Lists that fetch their next page by themselves."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Generic, TypeVar

from tuneyard.types import Page

T = TypeVar("T")


class Pages(Generic[T]):
    """Iterate over it for its items, or over `pages`. Nothing is fetched before."""

    def __init__(self, walk: Callable[[], Iterator[Page[T]]]) -> None:
        self.pages = walk

    def __iter__(self) -> Iterator[T]:
        for page in self.pages():
            yield from page.data

    def page(self) -> Page[T]:
        """The first page, or the one that ``cursor`` names."""
        return next(self.pages())


class AsyncPages(Generic[T]):
    """Iterate over it (``async for``) for its items, or over `pages`. Nothing is fetched before."""

    def __init__(self, walk: Callable[[], AsyncIterator[Page[T]]]) -> None:
        self.pages = walk

    async def __aiter__(self) -> AsyncIterator[T]:
        async for page in self.pages():
            for item in page.data:
                yield item

    async def page(self) -> Page[T]:
        """The first page, or the one that ``cursor`` names."""
        return await anext(self.pages())
