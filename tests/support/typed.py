"""Commands that are typed into a shell, in a real terminal, and what they show."""

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
        marker = f"[{len(self.screens)} ended "
        self.shell.type(f'clear; {line}; echo "{marker}$?]"\n')
        if answer:
            await self.shell.until(lambda text: "[y/N]" in text, f"the question of {line}")
            self.shell.type(answer)
        text = await self.shell.until(
            lambda text: f"\n{marker}" in text, f"the end of {line}", seconds=SECONDS
        )
        self.keep(text)
        assert shows in text, text
        assert f"\n{marker}0]" in text, text
        return text

    def keep(self, text: str) -> None:
        self.screens.append(text)
        print(f"\n{'=' * 110}\n{text}")


def word(text: str, label: str) -> str:
    """What stands behind a label."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"{label} ")][:1]
    return line.split()[1]
