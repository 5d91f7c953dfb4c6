"""Lives of the state machine, one after the other."""

import asyncio
from pathlib import Path
from uuid import uuid4

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from libs.eventlog.connection import Pool, create_pool
from services.billing.payments import Billing
from services.billing.pricing import read_prices
from tests.support.jobs import NOON
from tests.support.ledger_checks import open_books
from tests.support.ledger_disputes import WholeMachine
from tests.support.stack import Database


def run_machine(
    database: Database, *, examples: int, steps: int, derandomize: bool = False
) -> None:
    """Raises what Hypothesis has found; ``derandomize``: the same lives each time. Call it while no
    event loop runs in this thread."""
    with asyncio.Runner() as runner:
        pool = runner.run(_opened(database))
        billing = Billing(
            pool=pool,
            prices=read_prices(Path(__file__).parents[2] / "prices.toml"),
            now=lambda: NOON,
            new_id=uuid4,
            committed=lambda: None,
        )
        books = runner.run(open_books(billing, database.admin_dsn))

        class Machine(WholeMachine):
            pass

        Machine.books, Machine.runner = books, runner
        try:
            run_state_machine_as_test(  # type: ignore[no-untyped-call]
                Machine,
                settings=settings(
                    max_examples=examples,
                    stateful_step_count=steps,
                    deadline=None,
                    derandomize=derandomize,
                    database=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            pool.terminate()
            books.admin.terminate()
            books.reader.terminate()


async def _opened(database: Database) -> Pool:
    return await create_pool(database.dsn("billing"), size=4)
