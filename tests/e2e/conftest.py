"""The platform as it is started by ``just up``, for tests that leave it whole."""

from collections.abc import Iterator

import pytest

from tests.e2e.receiving import Receiver, receiving
from tests.support.journey import User
from tests.support.local_stack import LocalStack, local_stack

PLENTY = 100_000  # cents


@pytest.fixture(scope="package")
def stack() -> Iterator[LocalStack]:
    """It ends before another tier begins."""
    with local_stack(spans=True) as running:
        yield running


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


@pytest.fixture
def user(stack: LocalStack) -> User:
    """A new account with money, so that no test sees another one's balance."""
    return User(stack, stack.new_account(PLENTY)[1])
