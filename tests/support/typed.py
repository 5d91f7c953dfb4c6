"""Commands that are typed into a shell, in a real terminal, and what they show."""

import re
from dataclasses import dataclass, field

from tests.support.terminal import Terminal

SECONDS = 240.0  # for a command that waits for a job, on a busy machine


@dataclass
class Typed:
    """Types commands into a shell, and keeps each screen as text."""

    shell: Terminal
    screens: list[str] = field(default_factory=list)

    async def run(self, line: str, *, answer: str = "", shows: str = "") -> str:
        """Until the prompt is back; ``answer`` to a question, ``shows`` what must be seen."""
        number = len(self.screens)
        ended = re.compile(rf"^\[{number} ended (\d+)\]", re.MULTILINE)
        # Quoted so that the line that is typed, which a terminal breaks anywhere, is no end itself.
        self.shell.type(f'clear; {line}; echo "[{number}" "ended $?]"\n')
        if answer:
            await self.shell.until(lambda text: "[y/N]" in text, f"the question of {line}")
            self.shell.type(answer)
        text = await self.shell.until(ended.search, f"the end of {line}", seconds=SECONDS)
        self.keep(text)
        assert shows in text, text
        code = ended.search(text)
        assert code is not None
        assert code[1] == "0", text
        return text

    def keep(self, text: str) -> None:
        self.screens.append(text)
        print(f"\n{'=' * 110}\n{text}")


def word(text: str, label: str) -> str:
    """What stands behind a label."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"{label} ")][:1]
    return line.split()[1]
