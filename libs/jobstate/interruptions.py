"""What a job's interruptions say of it: how often it lost a trainer, and whether it gets further.

A job may be the cause of what interrupts it, as one that fills its machine's memory. It shows in
that the job gets no further, however often it is taken up again.
"""

from msgspec import UNSET, Struct, UnsetType

from libs.contracts.scheduler import JobReclaimed


class Interruptions(Struct, frozen=True, kw_only=True):
    """``losses``: trainers that were lost, and count against the job. ``fruitless``: how often it
    was handed back since it last got further. ``at_step``: the checkpoint that the last
    interruption left, 0 for none."""

    losses: int
    fruitless: int = 0
    at_step: int = 0


Known = Interruptions | UnsetType
"""Unset, and not stored, while the log has no interruption that says what it counts for."""


def losses_of(known: Known, retries: int) -> int:
    return retries if known is UNSET else known.losses


def got_further(known: Known, retries: int, step: int) -> bool:
    """Whether ``step``, of the last checkpoint or 0, is later than the last interruption, as far as
    is known."""
    if known is UNSET:
        return step > 0 and retries == 0
    return step > known.at_step


def after_one_more(
    known: Known, retries: int, event: JobReclaimed, steps: tuple[int, int]
) -> tuple[int, Known]:
    """The job's ``retries``, and what is known then. ``steps``: of the checkpoint that the attempt
    has come to, and of that with which the next one begins, should the former be lost."""
    came_to, begins_at = steps
    further, losses = got_further(known, retries, came_to), losses_of(known, retries)
    if event.interruptions is None:  # of a release that counted all alike
        retries += event.retries - losses
        if known is UNSET:
            return retries, UNSET
    else:
        retries = event.interruptions
    fruitless = 0 if further or known is UNSET else known.fruitless
    return retries, Interruptions(
        losses=event.retries,
        fruitless=fruitless + (event.handed_back and not further),
        at_step=begins_at,
    )
