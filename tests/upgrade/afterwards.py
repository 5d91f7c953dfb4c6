"""What must hold when releases have worked side by side: nothing failed, nothing was done twice,
nothing was lost on the way to anybody."""

import asyncio
from collections import Counter
from pathlib import Path

import msgspec
from standardwebhooks import Webhook

from deploy.local.state import admin_dsn
from libs.eventlog.connection import connect
from tests.e2e.receiving import Receiver
from tests.support.after_storm import assert_completed_once, assert_stored_once, settled
from tests.support.customer import Customer
from tests.support.journey import User
from tests.support.local_stack import LocalStack, eventually
from tests.upgrade.clients import Clients
from tests.upgrade.house import House

RECEIVED_SECONDS = 60.0  # the third try of a delivery
TOLD = ("job.queued", "job.running", "job.completed", "job.cancelled")

LAST_SQL = "SELECT last FROM telemetry.sequence WHERE account_id = $1"
LOUD = ("warning", "error", "critical")


async def check_all(house: House, clients: Clients, books: "Books") -> list[str]:
    """Every check, one after another; a line about each."""
    stack = house.stack
    assert house.fell == [], house.fell
    assert clients.wrong == [], clients.wrong
    await asyncio.to_thread(stack.recovered)
    await settled(stack)
    lines = await asyncio.to_thread(check_jobs, clients, books)
    await assert_stored_once(stack)
    lines.append("the database: nothing stored twice, every event in JetStream once")
    lines.append(await check_stream(clients, books))
    lines.append(await asyncio.to_thread(check_webhook, clients, books))
    lines.append(await asyncio.to_thread(check_cards, books))
    # By this tree's command: an older one's does not know all that the newer one has recorded.
    await asyncio.to_thread(LocalStack(stack.folder).assert_the_log_holds)
    lines.append("rebuild: 0 changed; log verify: every hash follows")
    return lines


class Books:
    """What was there before, and who was told: an account with its webhook, and another's card."""

    def __init__(self, user: User, account_id: object, customer: Customer) -> None:
        self.user, self.account_id, self.customer = user, account_id, customer
        self.balance = user.balance()
        self.paid_in = 0
        self.card_jobs: list[str] = []
        self.card_dataset_id = ""
        self.receiver: Receiver | None = None
        self.secret = ""
        self._told: list[tuple[str, str]] = []

    def told(self) -> set[tuple[str, str]]:
        """What came to the webhook: types, and jobs. To be asked for every few minutes: a signature
        that is older than five is refused."""
        assert self.receiver is not None
        for headers, body in self.receiver.came[len(self._told) :]:
            event = Webhook(self.secret).verify(body, headers)
            self._told.append((event["type"], event["data"]["id"]))
        return set(self._told)


def check_jobs(clients: Clients, books: Books) -> list[str]:
    """Each ended as it was asked to, once, and was paid for once."""
    charged = 0
    for job_id in clients.ended:
        now = books.user.job(job_id)
        if now["status"] == "completed":
            assert_completed_once(now, books.user.kinds(job_id))
            assert now["retries"] or job_id not in clients.interrupted, now
        else:
            assert job_id in clients.cancelled, now
            assert now["status"] == "cancelled", now
        charged += now["charge_cents"] or 0
    assert books.user.balance() == books.balance - charged
    ends = Counter(job["status"] for job in clients.ended.values())
    retries = Counter(job["retries"] for job in clients.ended.values())
    return [
        f"jobs: {dict(ends)}, {charged} cents, each once; by retries: {dict(retries)}",
        f"requests: {clients.asked} answered, {clients.again} repeated since a connection closed",
    ]


async def check_stream(clients: Clients, books: Books) -> str:
    """What was seen live is what there is."""
    connection = await connect(admin_dsn(books.customer.stack.folder))
    try:
        last: int = await connection.fetchval(LAST_SQL, books.account_id)
    finally:
        await connection.close()
    async with asyncio.timeout(RECEIVED_SECONDS):
        while clients.seen[-1].id < last:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    seen = [message.id for message in clients.seen]
    assert seen == sorted(set(seen)), "the stream repeated something"
    replayed = [message.id for message in await clients.replayed(seen[0], last)]
    assert seen[1:] == replayed, f"missing in the stream: {sorted(set(replayed) - set(seen))}"
    return f"the stream: {len(seen)} messages without a gap, opened again {clients.reopened} times"


def check_webhook(clients: Clients, books: Books) -> str:
    """Every change of every job arrived, signed."""
    receiver = books.receiver
    if receiver is None:
        return "webhooks: the old release has none"

    wanted = set()
    for job_id, job in clients.ended.items():
        kinds = books.user.kinds(job_id)
        wanted |= {("job.queued", job_id), (f"job.{job['status']}", job_id)}
        if "job.started" in kinds:
            wanted.add(("job.running", job_id))
    eventually(books.told, lambda came: wanted <= came, RECEIVED_SECONDS, "every webhook")
    ids = {headers["webhook-id"] for headers, _ in receiver.came}
    return f"webhooks: {len(ids)} events arrived, in {len(receiver.came)} requests"


def check_cards(books: Books) -> str:
    """Each job that a card pays was charged once, by us and at the provider."""
    customer = books.customer
    for job_id in books.card_jobs:
        kinds = customer.user.kinds(job_id)
        assert Counter(kinds)["payment.charged"] == 1, kinds
    assert customer.user.balance() == books.paid_in
    moved = Counter(
        one["metadata"].get("job_id", "top-up")
        for one in customer.moved_at_provider()
        if one["kind"] == "charge"
    )
    assert {job: moved[job] for job in books.card_jobs} == dict.fromkeys(books.card_jobs, 1), moved
    return f"cards: {len(books.card_jobs)} jobs charged once each, {books.paid_in} cents paid in"


def complaints(stack: LocalStack) -> Counter[tuple[str, str, str]]:
    """What processes logged that is no information, by service, level and event."""
    found: Counter[tuple[str, str, str]] = Counter()
    for path in sorted((stack.folder / "logs").glob("*.log")):
        for line in path.read_bytes().splitlines():
            level, event = loudness(line)
            if level in LOUD:
                found[(service_of(path), level, event)] += 1
    return found


def loudness(line: bytes) -> tuple[str, str]:
    try:
        said = msgspec.json.decode(line)
        return said["level"], str(said["event"])[:120]
    except (msgspec.DecodeError, KeyError, TypeError):
        return ("error", "Traceback") if line.startswith(b"Traceback") else ("", "")


def service_of(path: Path) -> str:
    return path.stem.rpartition("-")[0] or path.stem
