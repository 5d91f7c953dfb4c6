"""What API keys are hashed with, now and before: so that it can be changed and no key is void."""

from msgspec import Struct

from services.gateway.access.key_text import mark_of


class PepperError(Exception):
    """A pepper can't be used; the text says which."""


class Peppers(Struct, frozen=True):
    """New keys are hashed with ``current``. One that is hashed with another of them is recognised,
    and hashed anew when it is used."""

    current: bytes
    previous: tuple[bytes, ...] = ()

    @property
    def all(self) -> tuple[bytes, ...]:
        return (self.current, *self.previous)

    @property
    def mark(self) -> str:
        return mark_of(self.current)


def peppers_of(current: str, previous: str | None) -> Peppers:
    """From hex, as they stand in the environment; ``previous`` may name several, with commas
    between them. Raises PepperError."""
    try:
        former = [bytes.fromhex(one) for one in (previous or "").split(",")]
        return Peppers(bytes.fromhex(current), tuple(filter(None, former)))
    except ValueError as error:
        raise PepperError(
            f"A pepper is not hex: set TUNEYARD_KEY_PEPPER and, while it is changed,"
            f" TUNEYARD_KEY_PEPPER_PREVIOUS to hexadecimal digits ({error})."
        ) from error
