"""One part of a list."""

from typing import Generic, TypeVar

from msgspec import Struct

T = TypeVar("T")


class Page(Struct, Generic[T], frozen=True, kw_only=True):
    """Newest first. ``next_cursor`` is None on the last page."""

    data: list[T]
    next_cursor: str | None = None
    has_more: bool = False
