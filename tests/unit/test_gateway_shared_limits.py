"""Rate limits of several replicas, with time in hand: what each knows of the others."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.access.rate_limit import MINUTE, SECOND, Rate, RateLimiter, Taken, rate_of
from services.gateway.access.shared_limits import packed, unpacked

FREE = rate_of(600, 100)  # ten a second, a hundred at once
START = 1_000 * SECOND
MILLISECOND = SECOND // 1_000
LAG = 30 * MILLISECOND
KEEPER = UUID(int=7)


class Replicas:
    """Some limiters on one clock; what is taken at one is told to the others ``lag`` later. Each
    has a clock that began at another time, as machines do."""

    def __init__(self, count: int, lag: int) -> None:
        self.now = START
        self.lag = lag
        self.limiters = [
            RateLimiter(lambda began=number * MINUTE: self.now + began)  # type: ignore[misc]
            for number in range(count)
        ]
        self.under_way: list[tuple[int, int, dict[int, int]]] = []

    def wait(self, nanoseconds: int) -> None:
        until = self.now + nanoseconds
        while self.under_way and self.under_way[0][0] <= until:
            self.now, sender, amounts = self.under_way.pop(0)
            for number, limiter in enumerate(self.limiters):
                if number != sender:
                    limiter.take_elsewhere(amounts.items())
        self.now = until

    def take(self, number: int, rate: Rate) -> Taken:
        taken = self.limiters[number].take(KEEPER, rate)
        if amounts := self.limiters[number].untold():
            self.under_way.append((self.now + self.lag, number, amounts))
        return taken

    def spent(self, number: int) -> int:
        return self.limiters[number].spent().get(KEEPER.int, 0)


@given(
    st.integers(1, 4),
    st.integers(60, 6_000),
    st.integers(1, 200),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, SECOND)), max_size=80),
)
def test_replicas_that_have_heard_of_all_are_as_one_but_for_the_time_it_took(
    count: int, requests_per_minute: int, burst: int, sent: list[tuple[int, int]]
) -> None:
    """Where what was let pass by all of them is put into one bucket, each replica's is as full, or
    fuller by what drains of a bucket in that time, or emptier by as much."""
    rate = rate_of(requests_per_minute, burst)
    replicas, one = Replicas(count, LAG), RateLimiter(lambda: replicas.now)
    for number, gap in sent:
        replicas.wait(gap)
        if not replicas.take(number % count, rate).retry_after:
            one.take_elsewhere([(KEEPER.int, rate.interval)])
    replicas.wait(LAG)
    truly = one.spent().get(KEEPER.int, 0)
    for number in range(count):
        assert truly - LAG <= replicas.spent(number) <= truly + LAG


@given(
    st.integers(1, 4),
    st.integers(60, 6_000),
    st.integers(1, 100),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 200 * MILLISECOND)), max_size=120),
)
def test_more_passes_than_the_limit_only_within_the_lag_and_is_owed_afterwards(
    count: int, requests_per_minute: int, burst: int, sent: list[tuple[int, int]]
) -> None:
    """Over whatever time: the burst, what time gives, and what others let pass unheard of, which
    is at most what passed within one lag."""
    rate = rate_of(requests_per_minute, burst)
    replicas = Replicas(count, LAG)
    passed: list[int] = []
    unheard = 0
    for number, gap in sent:
        replicas.wait(gap)
        if not replicas.take(number % count, rate).retry_after:
            passed.append(replicas.now)
            lately = sum(at > replicas.now - LAG for at in passed)
            unheard = max(unheard, lately)
    elapsed = replicas.now - START
    drained = LAG // rate.interval + 1
    assert len(passed) <= burst + elapsed // rate.interval + unheard + drained


def test_what_replicas_let_pass_beyond_the_burst_is_waited_for() -> None:
    replicas = Replicas(2, LAG)
    for number in (0, 1):
        assert not any(replicas.take(number, FREE).retry_after for _ in range(100))
    replicas.wait(LAG)

    refused = replicas.take(0, FREE)
    assert (refused.remaining, refused.retry_after, refused.reset) == (0, 11, 20)
    replicas.wait(10 * SECOND)
    assert replicas.take(1, FREE).retry_after == 1
    replicas.wait(SECOND)
    assert replicas.take(1, FREE).retry_after == 0


def test_a_replica_is_told_what_is_spent_and_not_when() -> None:
    here, there = RateLimiter(lambda: START), RateLimiter(lambda: 5 * START)
    for _ in range(40):
        here.take(KEEPER, FREE)
    for _ in range(10):
        there.take(KEEPER, FREE)

    from_there = list(there.spent().items())
    there.spend_up_to(here.spent().items())
    here.spend_up_to(from_there)

    assert here.take(KEEPER, FREE).remaining == there.take(KEEPER, FREE).remaining == 59


def test_a_refused_request_is_not_told() -> None:
    limiter = RateLimiter(lambda: START)
    for _ in range(150):
        limiter.take(KEEPER, FREE)

    assert limiter.untold() == {KEEPER.int: 100 * FREE.interval}
    assert limiter.untold() == {}
    assert not limiter.anything_untold.is_set()


@given(st.dictionaries(st.integers(0, 2**128 - 1), st.integers(0, 2**70), max_size=20))
def test_a_message_says_the_same_to_whoever_reads_it(amounts: dict[int, int]) -> None:
    message = packed(bytes(16), amounts)

    assert dict(unpacked(message)) == {
        account: min(amount, 2**64 - 1) for account, amount in amounts.items()
    }
    assert len(message) == 16 + 24 * len(amounts)


def test_a_message_has_a_bound_and_leaves_out_those_that_have_spent_least() -> None:
    message = packed(bytes(16), {account: account for account in range(50_000)})

    assert len(message) < 1024**2 / 2
    assert {account for account, _ in unpacked(message)} == set(range(30_000, 50_000))


@pytest.mark.parametrize("size", [0, 15, 17, 39])
def test_what_no_gateway_sends_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"{size} bytes"):
        unpacked(bytes(size))
