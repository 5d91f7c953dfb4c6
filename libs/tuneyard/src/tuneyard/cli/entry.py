"""From a command line to an exit code."""

import argparse
import os
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from tuneyard._version import VERSION
from tuneyard.cli import (
    account,
    billing,
    completion,
    datasets,
    doctor,
    exits,
    jobs,
    logs,
    models,
    submit,
    watch,
    webhooks,
)
from tuneyard.cli.context import Context, World
from tuneyard.cli.options import Parser
from tuneyard.cli.text import plain

# Not among a command's own arguments.
COMMON = ("api_key", "base_url", "json", "field", "run")
GROUPS = (
    account,
    billing,
    models,
    datasets,
    submit,
    jobs,
    watch,
    logs,
    webhooks,
    doctor,
    completion,
)


def parser() -> Parser:
    codes = "\n".join(f"  {code:<4} {meaning}" for code, meaning in exits.MEANINGS.items())
    made = Parser(
        prog="tuneyard",
        description="Tune, grow and shrink models on a Tuneyard platform.",
        epilog=f"exit codes:\n{codes}\n\n`tuneyard COMMAND --help` says more of each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=f"tuneyard {VERSION}")
    commands = made.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for each in GROUPS:
        each.add(commands)
    return made


def run(argv: Sequence[str], world: World) -> int:
    """Returns what the process is to end with."""
    json = "--json" in argv
    try:
        if argv[:2] == [completion.ASK, "--"]:
            return _complete(argv[2:], world)
        said = vars(parser().parse_args(argv))
        context = Context(world, **{name: said[name] for name in COMMON if name != "run"})
        code: int = said["run"](context, **{k: v for k, v in said.items() if k not in COMMON})
        world.stdout.flush()
        return code
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except BrokenPipeError:
        # What is still in the buffer has nowhere to go, and must not fail at the interpreter's end.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), world.stdout.fileno())
        return exits.READER_GONE
    except Exception as error:
        problem = exits.problem_of(error)
        if problem is None:
            raise
        if json:
            world.stderr.write(msgspec.json.encode({"error": problem}).decode() + "\n")
        else:
            world.stderr.write(plain("\n".join(exits.lines_of(problem))) + "\n")
        return problem.exit


def _complete(words: Sequence[str], world: World) -> int:
    for name, meaning in completion.candidates(parser(), words):
        world.stdout.write(f"{name}\t{meaning}\n")
    return exits.OK
