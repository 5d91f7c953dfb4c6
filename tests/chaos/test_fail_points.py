"""A process that dies at every await and commit of every verb of billing: money ends up right.

Nothing in the product knows of it: `tests.support.failpoints` counts the awaits from outside.
"""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.failpoint_event_verbs import EVENT_VERBS
from tests.support.failpoint_rooms import Place
from tests.support.failpoint_runs import House, Row, kill_everywhere, table
from tests.support.failpoint_verbs import VERBS, Verb
from tests.support.sandbox import Sandbox, running_sandbox
from tests.support.stack import Database


@pytest.fixture(scope="module")
async def sandbox(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sandbox]:
    async with running_sandbox(tmp_path_factory.mktemp("sandbox")) as running:
        yield running


@pytest.fixture(scope="module")
def house(database: Database, sandbox: Sandbox) -> Iterator[House]:
    place = Place(
        billing_dsn=database.dsn("billing"),
        scheduler_dsn=database.dsn("scheduler"),
        sandbox_url=sandbox.url,
    )
    with House(place, database.admin_dsn) as house:
        yield house


@pytest.fixture(scope="module")
def rows() -> Iterator[list[Row]]:
    done: list[Row] = []
    yield done
    print("\n" + table(done))


@pytest.mark.parametrize("verb", [*VERBS, *EVENT_VERBS], ids=lambda verb: verb.name)
def test_a_death_at_any_await_leaves_the_money_right(
    house: House, verb: Verb, rows: list[Row]
) -> None:
    row = kill_everywhere(house, verb)
    rows.append(row)
    assert row.wrong == []
    assert row.double == 0
    assert row.killed > 0
    assert row.right == row.killed
