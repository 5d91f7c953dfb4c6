"""A subscriber's user on the real NATS: what it may, what it may not, and how long."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import nats.errors
import nats.js.errors
import pytest

from deploy.local.state import save
from deploy.local.subscribers import Subscribers, add, new_password, remove
from libs.contracts.base import Envelope
from libs.contracts.scheduler import JobCancelRequested, JobReclaimed
from libs.subscriber import Refused, Subscriber
from tests.support.jobs import envelope
from tests.support.subscribers import House, connected, house
from tests.support.waiting import eventually, patient

API = "$JS.API"
MANY = 2_000
TIMES = 5
OTHERS = ("billing-job-completed-v1", "sub-other", "sub-ada-2")

MAY_NOT_PUBLISH = (
    *("events.job.completed.v1.x", "reports.finished.x", "telemetry.metrics.x", "nudge.outbox"),
    *("rpc.scheduler.cancel", "rpc.billing.reserve", "_INBOX_billing.x", "_INBOX_sub-other.x"),
    *("$SYS.REQ.SERVER.PING", "$SYS.REQ.ACCOUNT.PING.INFO", "anything"),
    *(f"{API}.INFO", f"{API}.STREAM.LIST", f"{API}.STREAM.NAMES", f"{API}.STREAM.CREATE.MINE"),
    *(
        f"{API}.STREAM.{verb}.{stream}"
        for verb in ("INFO", "CREATE", "UPDATE", "DELETE", "PURGE", "MSG.GET", "MSG.DELETE")
        for stream in ("EVENTS", "REPORTS", "TELEMETRY")
    ),
    *(
        f"{API}.CONSUMER.{verb}.{stream}.{consumer}"
        for verb in ("INFO", "CREATE", "DURABLE.CREATE", "DELETE", "MSG.NEXT", "PAUSE")
        for stream in ("EVENTS", "REPORTS", "TELEMETRY")
        for consumer in (*OTHERS, "sub-ada")
    ),
    *(f"tuneyard.CONSUMER.{verb}.EVENTS.{one}" for verb in ("INFO", "MSG.NEXT") for one in OTHERS),
    *(f"tuneyard.CONSUMER.{verb}.EVENTS.sub-ada" for verb in ("DELETE", "DURABLE.CREATE")),
    *(f"tuneyard.STREAM.{verb}.EVENTS" for verb in ("INFO", "PURGE", "DELETE")),
    *(f"$JS.ACK.EVENTS.{consumer}.1.1.1.1.1" for consumer in OTHERS),
    "$JS.ACK.REPORTS.scheduler-reports.1.1.1.1.1",
)
MAY_NOT_SUBSCRIBE = (
    *(">", "events.>", "reports.>", "telemetry.>", "rpc.>", "nudge.outbox", "$JS.API.>"),
    *("$JS.ACK.>", "$JS.EVENT.>", "$SYS.>", "_INBOX.>", "_INBOX_billing.>", "_INBOX_sub-other.>"),
)


@pytest.fixture(scope="module")
async def stack() -> AsyncIterator[House]:
    async with house() as running:
        yield running


def event(job: UUID | None = None) -> Envelope:
    return envelope(job or uuid4(), uuid4(), JobReclaimed(epoch=1, reason="lost", retries=1))


async def read_nothing(url: str) -> None:
    async with asyncio.timeout(90), Subscriber(url):
        pass


async def read_on(events: Subscriber) -> None:
    async with asyncio.timeout(90):
        async for received in events:
            await received.ack()


async def test_it_reads_every_event_and_is_known_again_after_a_restart(stack: House) -> None:
    first, second = event(), event()
    await stack.publish(first)
    url = await stack.create("ada")
    again = await stack.command("create", "ada")
    async with Subscriber(url) as events:
        got = await anext(events)
        await got.ack()
    await stack.restart()
    await stack.publish(second)
    async with Subscriber(url) as events:
        later = await anext(events)
        await later.ack()

    assert url.startswith("nats://sub-ada:")
    assert got.envelope == first
    assert got.data == JobReclaimed(epoch=1, reason="lost", retries=1)
    assert later.envelope == second
    assert again.returncode == 1
    assert "There is a subscriber ada: remove it first." in again.stderr
    assert (await stack.command("list")).stdout.splitlines() == ["ada"]


async def test_it_may_do_nothing_else(stack: House) -> None:
    url = await stack.create("bob")
    subjects = [subject.replace("sub-ada-2", "sub-bob-2") for subject in MAY_NOT_PUBLISH]
    refused = {f'publish to "{subject.lower()}"' for subject in subjects}
    refused |= {f'subscription to "{subject.lower()}"' for subject in MAY_NOT_SUBSCRIBE}
    async with connected(url) as client:
        for subject in subjects:
            await client.connection.publish(subject, b"{}", reply=client.connection.new_inbox())
        for subject in MAY_NOT_SUBSCRIBE:
            await client.connection.subscribe(subject)
        await client.connection.flush()

        async def untold() -> list[str]:
            told = "\n".join(client.refusals).lower()
            return [one for one in refused if one not in told]

        await eventually(untold, lambda left: not left)


async def test_its_questions_are_answered_to_nobody_on_the_platform(stack: House) -> None:
    """NATS asks nobody's leave for where an answer goes, so a subscriber has another account."""
    url = await stack.create("carl")
    heard: list[str] = []
    targets = ("rpc.scheduler.cancel", "reports.finished.x", "nudge.outbox", "_INBOX_billing.x")
    client = await stack.operator.connect()

    async def hear(message: object) -> None:
        heard.append(repr(message))

    listeners = [await client.subscribe(target, cb=hear) for target in targets]
    await client.flush()
    for _ in range(2 * len(targets)):
        await stack.publish(event())
    async with connected(url) as carl:
        await asyncio.sleep(0)
        for target in (*targets, "events.job.completed.v1.x", "$JS.API.STREAM.PURGE.EVENTS"):
            await carl.connection.publish(
                "tuneyard.CONSUMER.MSG.NEXT.EVENTS.sub-carl", b"1", reply=target
            )
        await carl.connection.flush()
        jetstream = patient(client)
        async with asyncio.timeout(90):
            while (await jetstream.consumer_info("EVENTS", "sub-carl")).num_ack_pending == 0:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    await client.flush()
    for listener in listeners:
        await listener.unsubscribe()
    assert heard == []
    assert (await jetstream.stream_info("REPORTS")).state.messages == 0


async def test_it_reads_only_the_types_that_it_was_made_for(stack: House) -> None:
    url = await stack.create("dora", "--types", "job.cancel_requested.v1")
    wanted = envelope(uuid4(), uuid4(), JobCancelRequested(epoch=1))
    await stack.publish(event())
    await stack.publish(wanted)
    async with Subscriber(url) as events:
        assert (await anext(events)).envelope == wanted
    unknown = await stack.command("create", "eve", "--types", "job.made_up.v1")
    assert unknown.returncode == 1
    assert "There are no events job.made_up.v1: choose from " in unknown.stderr


async def test_one_that_was_removed_is_out_at_once_and_others_do_not_notice(stack: House) -> None:
    service = await stack.operator.connect()
    reconnects = service.stats["reconnects"]
    url = await stack.create("finn")
    async with connected(await stack.create("gina")) as other:
        subscriber = Subscriber(url)
        async with subscriber as events:
            await stack.publish(event())
            await (await anext(events)).ack()
            done = await stack.command("remove", "finn")
            with pytest.raises(Refused):
                await read_on(events)
        with pytest.raises(Refused):
            await read_nothing(url)
        assert other.connection.is_connected
        assert service.stats["reconnects"] == reconnects
    assert (done.returncode, done.stdout) == (0, "removed finn\n")
    with pytest.raises(nats.js.errors.NotFoundError):
        await patient(service).consumer_info("EVENTS", "sub-finn")
    assert "There is no subscriber finn" in (await stack.command("remove", "finn")).stderr


@pytest.mark.parametrize("name", ["A", "a.b", "-a", "a" * 32])
async def test_a_name_is_a_word(stack: House, name: str) -> None:
    refused = await stack.command("create", "--", name)
    assert refused.returncode == 1
    assert "A name is up to 31 lower-case letters" in refused.stderr


async def test_for_a_nats_of_ones_own_the_accounts_are_printed_and_nothing_is_changed(
    stack: House,
) -> None:
    printed = (await stack.command("create", "hal", "--print")).stdout
    assert 'user: "sub-hal"' in printed
    assert '"tuneyard.CONSUMER.MSG.NEXT.EVENTS.sub-hal"' in printed
    assert "hal" not in (await stack.command("list")).stdout.split()


async def test_nats_is_done_with_a_change_when_the_command_returns() -> None:
    """Of many subscribers, for it to take its time. While it reads its configuration again,
    JetStream answers nobody, and whoever was removed is still let in."""
    async with house() as stack:
        jetstream = patient(await stack.operator.connect())
        others = {f"sub-{n}": new_password() for n in range(MANY)}
        save(stack.stack.folder / "subscribers.json", Subscribers(passwords=others))
        for _ in range(TIMES):
            url = await add(stack.stack.folder, "eve", ())
            await jetstream.consumer_info("EVENTS", "sub-eve")
            await remove(stack.stack.folder, "eve")
            await jetstream.account_info()
            with pytest.raises(nats.errors.Error, match=r"(?i)authorization violation"):
                async with connected(url):
                    pass
