"""Completion in the shells that are here, with real keys; bash is everywhere."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command import Command
from tests.support.terminal import terminal

BIN = Path(sys.executable).parent  # where the command is installed
SHELLS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}
BEGIN = {
    "bash": 'eval "$(tuneyard completion bash)"',
    "zsh": 'autoload -Uz compinit && compinit -D; eval "$(tuneyard completion zsh)"',
    "fish": "tuneyard completion fish | source",
}
COMPLETED = (
    ("tuneyard compl", "tuneyard completion"),
    ("tuneyard datasets prev", "tuneyard datasets preview"),
    ("tuneyard submit finetune --lora-r", "--lora-rank"),
    ("tuneyard submit finetune --method d", "--method dpo"),
    ("tuneyard datasets add ro", "add rows.jsonl"),
)
HERE = [name for name in SHELLS if shutil.which(name)]


@pytest.mark.parametrize("shell", HERE)
async def test_tab_completes_commands_options_choices_and_files(shell: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").touch()
    path = f"{BIN}:/usr/local/bin:/usr/bin:/bin"
    environ = Command(tmp_path / "xdg").environ(PATH=path, PS1="ready> ", HOME=str(tmp_path))
    async with terminal(["env", "-C", str(tmp_path), *SHELLS[shell]], environ) as shown:
        shown.type(f"{BEGIN[shell]}; echo begun-'42'\n")
        await shown.until(lambda text: "\nbegun-42" in text, "the shell")
        for typed, whole in COMPLETED:
            shown.type(f"{typed}\t")
            seen = await shown.until(last_line_has(whole), f"{typed} and tab")
            shown.type("\x15")  # Ctrl-U: the line is empty again
        print(seen)


def last_line_has(whole: str) -> Callable[[str], bool]:
    return lambda text: whole in text.rpartition("\n")[2]


async def test_every_script_is_one_that_its_shell_can_read(tmp_path: Path) -> None:
    command = Command(tmp_path)
    for shell in SHELLS:
        said = (await command("completion", shell)).out
        assert (await command("completion", shell, "--json")).json == {
            "shell": shell,
            "script": said,
        }
        assert "tuneyard __complete --" in said
