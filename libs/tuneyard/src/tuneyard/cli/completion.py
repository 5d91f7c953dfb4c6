"""Completion: each shell's short script asks this command what may come next."""

import argparse
from collections.abc import Iterable, Sequence

from tuneyard.cli.context import Context
from tuneyard.cli.exits import OK
from tuneyard.cli.options import Commands, Parser, command

ASK = "__complete"

# What has no candidates is left to the shell, which knows files.
SCRIPTS = {
    "bash": """\
_tuneyard() {
    local IFS=$'\\n'
    COMPREPLY=($(tuneyard __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null | cut -f1))
}
complete -o default -o bashdefault -F _tuneyard tuneyard
""",
    "zsh": """\
#compdef tuneyard
_tuneyard() {
    local -a found
    local line
    for line in ${(f)"$(tuneyard __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)"}; do
        found+=("${${line%%$'\\t'*}//:/\\\\:}:${line#*$'\\t'}")
    done
    if (( ${#found} )); then _describe tuneyard found; else _files; fi
}
if [ "$funcstack[1]" = "_tuneyard" ]; then _tuneyard "$@"; else compdef _tuneyard tuneyard; fi
""",
    "fish": """\
function __tuneyard_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l found (tuneyard __complete -- $words[2..-1] 2>/dev/null)
    if test (count $found) -gt 0
        string join \\n -- $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c tuneyard -f -a '(__tuneyard_complete)'
""",
}


def add(commands: Commands) -> None:
    one = command(
        commands,
        "completion",
        script,
        "print what makes a shell complete this command",
        epilog='bash: add  eval "$(tuneyard completion bash)"  to ~/.bashrc;  zsh: the same with'
        " zsh, to ~/.zshrc;  fish: tuneyard completion fish"
        " > ~/.config/fish/completions/tuneyard.fish",
    )
    one.add_argument("shell", choices=tuple(SCRIPTS))


def script(context: Context, *, shell: str) -> int:
    context.answer(
        {"shell": shell, "script": SCRIPTS[shell]}, lambda said: said["script"].rstrip("\n")
    )
    return OK


def candidates(parser: Parser, words: Sequence[str]) -> list[tuple[str, str]]:
    """What the last word may become, with what it means; the others stand before it."""
    *before, begun = words or [""]
    place, waiting, positionals = _place(parser, before)
    if waiting is not None:
        found = _choices(waiting)
    elif begun.startswith("-"):
        found = [
            (name, action.help or "")
            for action in place._actions
            for name in action.option_strings
            if action.help is not argparse.SUPPRESS
        ]
    else:
        found = _choices(positionals[0]) if positionals else []
    return [(name, meaning) for name, meaning in found if name.startswith(begun)]


def _place(
    parser: Parser, before: Iterable[str]
) -> tuple[Parser, argparse.Action | None, list[argparse.Action]]:
    """The command that the words lead to, the option that waits for its value, if one does, and the
    arguments that are still to come."""
    place, waiting = parser, None
    positionals = _positionals(place)
    for word in before:
        if waiting is not None:
            waiting = None
            continue
        action = place._option_string_actions.get(word)
        if action is not None:
            waiting = action if action.nargs is None else None
        elif not word.startswith("-") and positionals:
            taken = positionals.pop(0)
            if isinstance(taken, argparse._SubParsersAction):
                if word not in taken.choices:
                    return place, None, []
                place = taken.choices[word]
                positionals = _positionals(place)
    return place, waiting, positionals


def _positionals(parser: Parser) -> list[argparse.Action]:
    return [action for action in parser._actions if not action.option_strings]


def _choices(action: argparse.Action) -> list[tuple[str, str]]:
    if isinstance(action, argparse._SubParsersAction):
        return [(each.dest, each.help or "") for each in action._choices_actions]
    return [(str(choice), "") for choice in action.choices or ()]
