"""How many requests an account may send: a token bucket, kept as one number (GCRA).

The number is the moment at which the bucket would be full again. Time is whole nanoseconds of a
monotonic clock, so the arithmetic is exact. What is taken at another replica is taken here as well,
a moment later (`shared_limits`): as a duration, so that no two clocks are compared.
"""

import asyncio
from collections.abc import Callable, Iterable
from functools import lru_cache
from uuid import UUID

from msgspec import Struct

from libs.observability.metrics import RATE_LIMITED

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
MAX_REQUESTS_PER_MINUTE = 1_000_000_000  # a bucket gains at most a token in 60 ns
MOST_BUCKETS = 100_000  # some 20 MB; above it, buckets that are full again are forgotten
POLICIES = 256  # plans, and the few accounts with limits of their own

Header = tuple[bytes, bytes]


class Rate(Struct, frozen=True):
    """``burst`` requests at once, and one more every ``interval`` nanoseconds; after ``window``
    nanoseconds, the whole burst. ``policy`` says so in the header RateLimit-Policy
    (draft-ietf-httpapi-ratelimit-headers)."""

    requests_per_minute: int
    burst: int
    interval: int
    window: int
    policy: Header


class Taken(Struct, frozen=True):
    """The bucket after a request: full at ``full_at``, ``remaining`` more may be sent at once, all
    of the burst in ``reset`` seconds. ``retry_after`` seconds is 0 for a request that may pass."""

    full_at: int
    remaining: int
    reset: int
    retry_after: int


@lru_cache(maxsize=POLICIES)
def rate_of(requests_per_minute: int, burst: int) -> Rate:
    interval = MINUTE // requests_per_minute
    window = burst * interval
    policy = b'"default";q=%d;w=%d' % (burst, -(-window // SECOND))
    return Rate(requests_per_minute, burst, interval, window, (b"ratelimit-policy", policy))


def take(rate: Rate, full_at: int, now: int) -> Taken:
    """Take one request out of the bucket; one that is refused takes nothing."""
    spent = full_at - now if full_at > now else 0
    after = spent + rate.interval
    room = rate.window - after
    if room < 0:
        return Taken(now + spent, 0, -(-spent // SECOND), -(room // SECOND))
    return Taken(now + after, room // rate.interval, -(-after // SECOND), 0)


def header_of(taken: Taken) -> Header:
    """The header RateLimit, of the same draft."""
    return b"ratelimit", b'"default";r=%d;t=%d' % (taken.remaining, taken.reset)


class RateLimiter:
    """The buckets of this process. ``monotonic_ns`` is its clock. What an account has spent is so
    many nanoseconds until its bucket is full; more than its window where replicas that had not
    heard of one another let more pass than one would have."""

    def __init__(self, monotonic_ns: Callable[[], int]) -> None:
        self._now = monotonic_ns
        self._full_at: dict[int, int] = {}
        self._untold: dict[int, int] = {}
        self._sweep_above = MOST_BUCKETS
        self.anything_untold = asyncio.Event()

    def take(self, account_id: UUID, rate: Rate) -> Taken:
        now = self._now()
        account = account_id.int  # hashed without a call into Python
        taken = take(rate, self._full_at.get(account, 0), now)
        self._full_at[account] = taken.full_at
        if taken.retry_after:
            RATE_LIMITED.add(1)
        else:
            self._untold[account] = self._untold.get(account, 0) + rate.interval
            self.anything_untold.set()
        if len(self._full_at) > self._sweep_above:
            self._sweep(now)
        return taken

    def untold(self) -> dict[int, int]:
        """What each account has taken here since this was last asked."""
        untold, self._untold = self._untold, {}
        self.anything_untold.clear()
        return untold

    def take_elsewhere(self, taken: Iterable[tuple[int, int]]) -> None:
        """Take what accounts have taken at another replica."""
        now = self._now()
        for account, amount in taken:
            self._full_at[account] = max(self._full_at.get(account, 0), now) + amount
        if len(self._full_at) > self._sweep_above:
            self._sweep(now)

    def spent(self) -> dict[int, int]:
        """What accounts have spent, those left out whose buckets are full."""
        now = self._now()
        return {account: at - now for account, at in self._full_at.items() if at > now}

    def spend_up_to(self, spent: Iterable[tuple[int, int]]) -> None:
        """Have each account spent as much as another replica says, or what it has if that is more:
        both count, for the most part, the same requests."""
        now = self._now()
        for account, amount in spent:
            self._full_at[account] = max(self._full_at.get(account, 0), now + amount)
        if len(self._full_at) > self._sweep_above:
            self._sweep(now)

    def _sweep(self, now: int) -> None:
        """Forget the buckets that are full: an unknown one is full as well."""
        self._full_at = {account: at for account, at in self._full_at.items() if at > now}
        self._sweep_above = max(MOST_BUCKETS, 2 * len(self._full_at))
