"""More verbs whose process dies at a point: what the provider tells, and what follows from it."""

from msgspec.structs import replace

from services.billing import write_offs
from tests.support.failpoint_events import (
    approved,
    asked_for_approval,
    asked_then_new_card,
    declined_then_card_saved,
    given_back_there,
    subscribed,
    tell,
    tell_again,
    tell_again_and_work,
    tell_and_work,
    topped_up,
    topped_up_and_given_back,
)
from tests.support.failpoint_rooms import CARDS, GRANTED, TOP_UP, Case, Found, Room
from tests.support.failpoint_steps import work, work_later
from tests.support.failpoint_verbs import BILLED, OWING, PAID, Verb

PRO = 9_900  # cents a month
TOPPED_UP = Found(available=GRANTED + TOP_UP, kinds=(), charges=(TOP_UP,))
ASKED = (*BILLED, "charge_started", "action_required")


async def write_off(room: Room, case: Case) -> None:
    await write_offs.write_off(room.billing, case.job_id, "gone")


EVENT_VERBS = (
    Verb(
        name="take a top-up",
        needs=CARDS,
        prepare=topped_up,
        do=tell,
        again=tell_again,
        right=(TOPPED_UP,),
    ),
    Verb(
        name="take back a top-up",
        needs=CARDS,
        prepare=topped_up_and_given_back,
        do=tell,
        again=tell_again,
        right=(replace(TOPPED_UP, available=GRANTED + TOP_UP - 100, refunds=(100,)),),
    ),
    Verb(
        name="take a subscription",
        needs=CARDS,
        prepare=subscribed("pro"),
        do=tell,
        again=tell_again,
        right=(Found(available=GRANTED, kinds=(), charges=(PRO,), subscription="pro"),),
    ),
    Verb(
        name="take a saved card, and charge it",
        needs=CARDS,
        prepare=declined_then_card_saved,
        do=tell_and_work,
        again=tell_again_and_work,
        right=(
            replace(
                PAID,
                kinds=(*BILLED, "charge_started", "declined", "charge_started", "charged"),
            ),
        ),
    ),
    Verb(
        name="take an approval",
        needs=CARDS,
        prepare=approved,
        do=tell,
        again=tell_again,
        right=(replace(PAID, kinds=(*ASKED, "charged")),),
    ),
    Verb(
        name="take a refund that was made there",
        needs=CARDS,
        prepare=given_back_there,
        do=tell,
        again=tell_again,
        right=(replace(PAID, kinds=(*PAID.kinds, "refunded"), refunds=(100,)),),
    ),
    Verb(
        name="charge, with another card saved meanwhile",
        needs=CARDS,
        prepare=asked_then_new_card,
        do=work,
        again=work_later,
        right=(
            replace(
                PAID,
                kinds=(*BILLED, "charge_started", "declined", "charge_started", "charged"),
            ),
        ),
    ),
    Verb(
        name="write off",
        needs=CARDS,
        prepare=asked_for_approval,
        do=write_off,
        again=write_off,
        right=(replace(OWING, owed=0, kinds=(*ASKED, "written_off")),),
    ),
)
