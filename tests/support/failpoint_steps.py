"""What is done to the one job of a case, by whoever does it: the verbs themselves, and what
repeats them."""

from contextlib import suppress
from datetime import timedelta
from uuid import uuid4

from libs.contracts.billing_rpc import ExtendStorage, ExtensionKey, Quote, Reserve
from libs.contracts.events import decode_payment_event
from libs.contracts.scheduler_rpc import ExtendRetention
from libs.eventlog.read import load
from libs.eventlog.record import AlreadyHandled, Context
from services.billing import charges, extensions, handlers, ledger, refunds
from services.billing.payments import stream_of
from services.scheduler import retention
from tests.support.failpoint_rooms import (
    CANCELLED,
    CLAIMED,
    COMPLETED,
    FAILED,
    GRANTED,
    RUN,
    START,
    SWEPT,
    Case,
    Room,
)
from tests.support.jobs import envelope, submission
from tests.support.sandbox import customer_with


async def granted(room: Room) -> Case:
    case = Case(account_id=uuid4(), job_id=uuid4(), other_id=uuid4())
    async with room.billing.pool.acquire() as connection:
        await ledger.grant(
            connection,
            account_id=case.account_id,
            amount_cents=GRANTED,
            entry_id=uuid4(),
            memo="test",
            now=START,
        )
    return case


async def with_card(room: Room, case: Case, token: str = "pm_card_visa") -> None:
    customer, card = await customer_with(room.stripe.v1, token)
    await room.billing.pool.execute(
        "INSERT INTO billing.account (account_id, customer_id, payment_method_id, provider)"
        " VALUES ($1, $2, $3, $4)",
        *(case.account_id, customer, card, room.billing.provider and room.billing.provider.name),
    )


def _request(case: Case, surface: str, *, priority: bool = False) -> Reserve:
    return Reserve(
        job_id=case.job_id,
        quote=Quote(
            account_id=case.account_id,
            surface=surface,  # type: ignore[arg-type]
            job_type="finetune",
            model_params=8_000_000_000,
            dataset_bytes=1_000_000,
            tokens=10_000_000,
            lora_rank=32,
            priority=priority,
        ),
    )


async def reserve(room: Room, case: Case) -> None:
    await handlers.reserve(room.billing, _request(case, "runs"))


async def reserve_with_priority(room: Room, case: Case) -> None:
    await handlers.reserve(room.billing, _request(case, "runs", priority=True))


async def pledge(room: Room, case: Case) -> None:
    await handlers.reserve(room.billing, _request(case, "jobs"))


async def sweep(room: Room, _: Case) -> None:
    await handlers.void_orphans(room.at(SWEPT).billing)


async def deliver(room: Room, case: Case) -> None:
    """The job's event, as the bus delivers it, again and again until it is handled."""
    assert case.sent is not None
    with suppress(AlreadyHandled):
        match case.sent.type:
            case "job.completed.v1":
                await handlers.capture_payment(room.billing, case.sent, COMPLETED)
            case "job.failed.v1":
                await handlers.void_payment(room.billing, case.sent, FAILED)
            case "job.cancelled.v1":
                await handlers.charge_partly(room.billing, case.sent, CANCELLED)
            case _:
                event = submission(price_cents=RUN)
                await handlers.restore_payment(room.billing, case.sent, event)


async def work(room: Room, _: Case) -> None:
    await charges.work(room.billing)


async def work_later(room: Room, _: Case) -> None:
    await charges.work(room.at(CLAIMED).billing)
    await charges.work(room.at(2 * CLAIMED).billing)


async def extend(room: Room, case: Case) -> None:
    await extensions.extend_storage(
        room.billing,
        ExtendStorage(
            account_id=case.account_id,
            job_id=case.job_id,
            extension_id=case.other_id,
            key=ExtensionKey(
                text=f"key {case.other_id}",
                request_sha256="a" * 64,
                generation=0,
                expires_at=START + timedelta(days=1),
            ),
        ),
    )


async def move_expiry(room: Room, case: Case) -> None:
    await retention.extend_retention(
        room.scheduler,
        ExtendRetention(job_id=case.job_id, extension_id=case.other_id, days=30),
    )


async def extend_and_move(room: Room, case: Case) -> None:
    """What the gateway does of it."""
    await extend(room, case)
    await move_expiry(room, case)


async def extended_event(room: Room, case: Case) -> None:
    """Nobody asks again: billing's event reaches the scheduler, if there is one."""
    async with room.billing.pool.acquire() as connection:
        _, events = await load(connection, stream_of(case.job_id), decode_payment_event)
    for stored in events:
        sent = envelope(case.job_id, case.account_id, stored.event)
        for _ in range(2):
            with suppress(AlreadyHandled):
                await retention.keep_longer(room.scheduler, sent, stored.event)  # type: ignore[arg-type]


async def give_back(room: Room, case: Case) -> None:
    async with room.billing.pool.acquire() as connection:
        await refunds.refund(
            connection,
            case.job_id,
            100,
            refund_id=case.other_id,
            reason="as agreed",
            context=Context(now=START, new_id=uuid4),
        )


async def give_back_and_work(room: Room, case: Case) -> None:
    await give_back(room, case)
    await work(room, case)


async def give_back_and_work_later(room: Room, case: Case) -> None:
    await give_back(room, case)
    await work_later(room, case)


async def new_card(room: Room, case: Case) -> None:
    """The card is saved already; its event comes, and comes again."""
    await charges.card_changed(room.billing, case.account_id)
    await work(room, case)


async def new_card_later(room: Room, case: Case) -> None:
    await charges.card_changed(room.billing, case.account_id)
    await work_later(room, case)


async def dispute(room: Room, case: Case) -> None:
    await refunds.dispute_opened(room.billing, case.owner, f"dp_{case.job_id}", 50, "fraudulent")


async def dispute_won(room: Room, case: Case) -> None:
    await refunds.dispute_closed(room.billing, case.owner, f"dp_{case.job_id}", 50, won=True)
