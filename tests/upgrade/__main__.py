"""Replace a release by this one while jobs run, process by process, and go back:
``just upgrade FROM [--no-back]``."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from cyclopts import App

from tests.e2e.receiving import Receiver, receiving
from tests.support.customer import WORKS, Customer
from tests.support.journey import User, sample_rows
from tests.support.local_stack import LocalStack
from tests.support.release import HERE, Release, taken
from tests.upgrade.afterwards import Books, check_all, complaints
from tests.upgrade.clients import ROWS, Clients
from tests.upgrade.house import PLACES, SERVICES, TRAINER, House, place

ORDER = (
    *("relay", "telemetry", "webhooks", "artifact"),
    *("gateway", "scheduler", "billing", TRAINER),
)
"""The same on the way back, so that of two services each is once the new one beside the old."""

Service = Literal[ORDER]

MOST_SECONDS = 2_400.0  # all of it; a quarter of an hour on two idle cores
CENTS = 10_000_000  # no job ends because its money did
TOP_UP_CENTS = 700
FRESH = 1  # job from its submission to its end after each replacement, beside those under way
COUNTED = ("jobs", "requests", "closed")
PAYING = ("gateway", "billing")
MOST_COMPLAINTS = 40

app = App(name="just upgrade", help=__doc__, version_flags=[])


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


class Proof:
    """Two releases in one house. ``rows`` is the table of what ran beside what."""

    def __init__(
        self, old: Release, house: House, clients: Clients, books: Books, only: Sequence[str]
    ) -> None:
        self.old = old
        self.order = [service for service in ORDER if service in (only or ORDER)]
        self.house = house
        self.clients = clients
        self.books = books
        self.rows = [("stage", *ORDER, *COUNTED)]

    async def stage(self, name: str, *, paid: bool = False) -> None:
        """Have work go on, from its submission to its end, and put down who did it."""
        before = len(self.clients.ended), self.clients.asked, self.clients.again
        if paid:
            await asyncio.to_thread(pay, self.books)
        await self.clients.fresh(FRESH)
        if self.books.receiver is not None:
            await asyncio.to_thread(self.books.told)
        after = len(self.clients.ended), self.clients.asked, self.clients.again
        did = [str(now - then) for now, then in zip(after, before, strict=True)]
        who = ["+".join(self._names(service)) for service in ORDER]
        self.rows.append((name, *who, *did))
        say(f"{name}: " + ", ".join(f"{n} {of}" for n, of in zip(did, COUNTED, strict=True)))

    def _names(self, service: str) -> list[str]:
        held = [release for release in self.house.releases(service) if release is not None]
        return ["new" if release is HERE else "old" for release in held]

    async def replace(self, service: str, release: Release) -> None:
        """One process, then the other; in between both releases serve."""
        places = places_of(release, service)
        into = "new" if release is HERE else "old"
        # Where the old release has one process, the new one stands beside it first.
        first, second = (1, 0) if release is HERE else (0, 1)
        await self.fill(service, first, release)
        await self.stage(f"{service} half {into}", paid=service in PAYING)
        if second in places:
            await self.fill(service, second, release)
        else:
            await self.house.empty(service, second)
        await self.stage(f"{service} {into}", paid=service in PAYING)

    async def fill(self, service: str, number: int, release: Release) -> None:
        if service == TRAINER:  # it has a job to hand over, to a trainer of whichever release
            await self.clients.until_trained(partial(self.house.job_of, place(service, number)))
        await self.house.fill(service, number, release)

    async def forth(self) -> None:
        stack, house = self.house.stack, self.house
        house.describe(HERE)
        say("migrating under the old release")
        new = LocalStack(stack.folder, release=HERE)
        print(await asyncio.to_thread(new.run, "migrate"), end="")
        house.tell_nats()
        await house.replace_outside(HERE)
        await self.stage("old on the new schema", paid=True)
        for service in self.order:
            await self.replace(service, HERE)

    async def back(self) -> None:
        for service in self.order:
            await self.replace(service, self.old)
        # Last: the new release would do without what the old one has no need of.
        self.house.describe(self.old)
        self.house.tell_nats()
        await self.stage("old again, NATS too")

    async def judge(self, release: Release) -> None:
        """All jobs are ended, and everything is looked at; the log by this release, too."""
        await self.clients.finish()
        for line in await check_all(self.house, self.clients, self.books):
            say(f"  {line}")
        own = LocalStack(self.house.stack.folder, release=release)
        await asyncio.to_thread(own.run, "log", "verify")


def pay(books: Books) -> None:
    """A payment on a page, and a job that the saved card pays."""
    customer = books.customer
    customer.use_card(customer.top_up_page(TOP_UP_CENTS), WORKS)
    books.paid_in += TOP_UP_CENTS
    customer.until_balance(books.paid_in)
    answer = customer.send_job(books.card_dataset_id, steps=2, priority=True)
    assert answer.status_code == 201, answer.text
    books.card_jobs.append(answer.json()["id"])
    customer.until_kind(books.card_jobs[-1], "payment.charged")


def places_of(release: Release, service: str) -> tuple[int, ...]:
    """Before `just up` had replicas, two of one service were not promised to work."""
    many = service == TRAINER or "--replicas" in release.read("justfile")
    return PLACES if many else PLACES[:1]


async def move_in(old: Release, house: House) -> None:
    say(f"starting {old.name}: {', '.join((*SERVICES, TRAINER))}")
    await house.start_servers(old)
    await house.replace_outside(old)
    for service in (*SERVICES, TRAINER):
        for number in places_of(old, service):
            await house.fill(service, number, old)
    await asyncio.to_thread(house.stack.recovered)


def open_books(stack: LocalStack, receiver: Receiver) -> tuple[str, Books]:
    """An account with money and a webhook, and one with a card; the first one's key."""
    account_id, key = stack.new_account(CENTS)
    customer = Customer(stack)
    customer.use_card(customer.card_page(), WORKS)
    books = Books(User(stack, key), account_id, customer)
    books.card_dataset_id = customer.user.upload(sample_rows(ROWS))
    made = books.user.api.post("/v1/webhooks", json={"url": receiver.url})
    if made.status_code == 201:
        books.receiver, books.secret = receiver, made.json()["secret"]
    return key, books


async def prove(
    old: Release, stack: LocalStack, receiver: Receiver, only: Sequence[str], *, back: bool
) -> None:
    house = House(stack, say)
    proof: Proof | None = None
    try:
        await move_in(old, house)
        key, books = await asyncio.to_thread(open_books, stack, receiver)
        proof = Proof(old, house, Clients(key, lambda: house.gateways), books, only)
        await proof.clients.start()
        await proof.stage("old", paid=True)
        await proof.forth()
        await proof.judge(HERE)
        if back:
            await proof.clients.start()
            await proof.back()
            await proof.judge(old)
    finally:
        if proof is not None:
            print("\n".join(table(proof.rows)))
            await proof.clients.close()
        for (service, level, event), number in complaints(stack).most_common(MOST_COMPLAINTS):
            say(f"  {service} logged {number} times: {level}: {event}")
        await house.stop()


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


@app.default
def upgrade(since: str, /, *only: Service, back: bool = True) -> None:
    """Replace the release of a revision by this tree under load, and go back to it; all services
    are replaced, or only those that are named."""
    parent = Path(tempfile.mkdtemp(prefix="tuneyard-upgrade-"))
    parent.chmod(0o755)  # PostgreSQL runs as another user when this one is root
    old = taken(since, parent)
    say(f"from {old.name} to this tree, in {parent}")
    say(f"the old release runs by {old.python}")
    stack = LocalStack(parent / "data", release=old)
    stack.start()  # its own `up` makes the installation
    stack.stop()

    async def bounded() -> None:
        async with asyncio.timeout(MOST_SECONDS):
            await prove(old, stack, receiver, only, back=back)

    with receiving() as receiver:
        asyncio.run(bounded())
    shutil.rmtree(parent)
    say("passed")


if __name__ == "__main__":
    app()
