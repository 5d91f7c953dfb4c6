"""A data set whose rows are as different in length as people's are, made from our own prose."""

import json
import random
from pathlib import Path

from services.trainer.samples.corpus import documents

ROWS = 1500

# Characters of an answer: half are shorter than MEDIAN, one in fifteen is longer than five times
# that. A log-normal is the usual finding for chats (the shape of ShareGPT's and Dolly's answers).
MEDIAN = 170.0
SIGMA = 1.1
LONGEST = 1000  # some 256 tokens: beyond, every trainer would cut them


def write_varied_rows(path: Path) -> Path:
    """The same rows each time."""
    rng = random.Random(23)
    prose = [text for text in documents(ROWS) if isinstance(text, str)]
    with path.open("w", encoding="utf-8") as file:
        for number in range(ROWS):
            wanted = min(LONGEST, max(8, round(rng.lognormvariate(0, SIGMA) * MEDIAN)))
            text = rng.choice(prose)
            while len(text) < wanted:
                text += " " + rng.choice(prose)
            start = rng.randrange(len(text) - wanted + 1)
            question = f"Text {number}, please: {wanted} characters."
            turns = [("user", question), ("assistant", text[start : start + wanted])]
            row = {"messages": [{"role": role, "content": said} for role, said in turns]}
            file.write(json.dumps(row) + "\n")
    return path
