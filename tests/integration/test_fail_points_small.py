"""Deaths at a few of the points of billing's verbs; `just chaos` dies at every one."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.failpoint_event_verbs import EVENT_VERBS
from tests.support.failpoint_rooms import Place
from tests.support.failpoint_runs import House, kill_at
from tests.support.failpoint_verbs import VERBS, Verb
from tests.support.sandbox import Sandbox, running_sandbox
from tests.support.stack import Database

POINTS = {
    "reserve": (3,),
    "reserve, and nobody asks again": (3,),
    "capture": (19, 33),
    "void": (33,),
    "extend": (21, 31),
    "extend, and nobody asks again": (31,),
    "charge": (31, 45, 61),
    "refund to the card": (25, 75),
    "take a top-up": (31,),
    "take a saved card, and charge it": (81,),
}
"""Of each verb, some that lie around its commits and its call to the provider."""


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


@pytest.mark.parametrize(
    "verb",
    [verb for verb in (*VERBS, *EVENT_VERBS) if verb.name in POINTS],
    ids=lambda verb: verb.name,
)
def test_a_death_at_an_await_leaves_the_money_right(house: House, verb: Verb) -> None:
    row = kill_at(house, verb, POINTS[verb.name])
    assert row.wrong == []
    assert (row.killed, row.double) == (len(POINTS[verb.name]), 0)
