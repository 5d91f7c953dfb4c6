"""Questions over NATS, cancelled at every moment."""

import asyncio
from uuid import uuid4

from faststream.nats import NatsBroker
from msgspec import Struct

from libs.bus.broker import make_broker
from libs.bus.rpc import answer, ask
from libs.contracts.rpc import Rpc

QUESTIONS = 1_500  # one in some thirty is cancelled in the very moment of its answer
LONGEST = 0.002  # seconds; most answers are there by then


class Question(Struct, frozen=True, kw_only=True):
    pass


class Answer(Struct, frozen=True, kw_only=True):
    pass


async def test_whoever_is_cancelled_while_asking_ends_also_when_the_answer_comes_just_then(
    operator: NatsBroker, nats_url: str
) -> None:
    rpc: Rpc[Question, Answer] = Rpc("operator", f"echo_{uuid4().hex}", Question, Answer)

    async def echo(_: Question) -> Answer:
        return Answer()

    async def ask_for_ever() -> None:
        while True:
            await ask(asking, rpc, Question())

    answering, asking = make_broker(nats_url), make_broker(nats_url)
    answer(answering, rpc, echo)
    await answering.start()
    await asking.connect()
    for number in range(QUESTIONS):
        task = asyncio.create_task(ask_for_ever())
        await asyncio.sleep(LONGEST * number / QUESTIONS)
        task.cancel()
        _, pending = await asyncio.wait({task}, timeout=60)
        assert not pending, f"question {number} goes on"
    await asking.stop()
    await answering.stop()
