"""The command line's grammar: argparse, with one way to add a command."""

import argparse
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NoReturn, TypeAlias

import msgspec

from tuneyard.cli.exits import CliError

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"

Run = Callable[..., int]
"""Called with the context, and what the command line says under the names of its options."""


class Parser(argparse.ArgumentParser):
    """Raises what is wrong instead of printing it, so that it can be said as JSON, too."""

    def error(self, message: str) -> NoReturn:
        raise CliError(message, hint=f"{self.prog} --help", code="usage")


def command(commands: Commands, name: str, run: Run, help: str, **options: Any) -> Parser:
    """A command that does something."""
    made = commands.add_parser(
        name, help=help, description=f"{help[0].upper()}{help[1:]}.", allow_abbrev=False, **options
    )
    made.set_defaults(run=run)
    common = made.add_argument_group("everywhere")
    common.add_argument("--json", action="store_true", help="answer in JSON, errors too")
    common.add_argument(
        "--field",
        metavar="NAME",
        help="only this of the answer in JSON, bare, for scripts; as id, or data.0.id",
    )
    common.add_argument("--api-key", metavar="KEY", help="instead of TUNEYARD_API_KEY or login's")
    common.add_argument("--base-url", metavar="URL", help="instead of TUNEYARD_BASE_URL or login's")
    return made


def group(commands: Commands, name: str, help: str) -> Commands:
    """A command that has commands."""
    made = commands.add_parser(
        name, help=help, description=f"{help[0].upper()}{help[1:]}.", allow_abbrev=False
    )
    return made.add_subparsers(title="commands", metavar="COMMAND", required=True)


def add_job(parser: Parser) -> None:
    parser.add_argument("job_id", metavar="JOB", help="its id; a run's, too")


def add_yes(parser: Parser) -> None:
    parser.add_argument("-y", "--yes", action="store_true", help="don't ask")


def add_page(parser: Parser) -> None:
    parser.add_argument("--limit", type=int, metavar="N", help="at most so many, 1 to 100")
    parser.add_argument("--cursor", help="where the page before said that it goes on")


def add_idempotency_key(parser: Parser) -> None:
    parser.add_argument(
        "--idempotency-key",
        metavar="TEXT",
        help="what was done under it before is not done again, but told",
    )


def types_of(known: Sequence[str]) -> Callable[[str], list[str]]:
    """Reads some of what is known, with commas between. It raises ArgumentTypeError."""

    def read(text: str) -> list[str]:
        types = [each.strip() for each in text.split(",") if each.strip()]
        unknown = [each for each in types if each not in known]
        if unknown or not types:
            raise argparse.ArgumentTypeError(f"{text!r}: choose from {', '.join(known)}")
        return types

    return read


def moment_of(text: str) -> datetime:
    """RFC 3339. Raises ArgumentTypeError, also without a time zone."""
    try:
        at = msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        at = None
    if at is None or at.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 2027-01-31T00:00:00Z")
    return at
