"""Token by token, for every shape of chat template: the assistant's words and their end are learnt,
and no other token is.

The templates are written here after the shapes of the published ones; what is expected is found by
looking for the words, without the trainer's own way of finding spans.
"""

import re
from pathlib import Path
from typing import Any

import pytest

from services.trainer.documents import load_documents
from services.trainer.loading import load_tokenizer
from tests.support.training import write_rows

LLAMA3 = (
    "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
QWEN = (  # a last answer begins with an empty thought, which is said, too
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (  # has no system role: its text opens the first question
    "<bos>{% set lead = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}"
    "{% for m in messages if m.role != 'system' %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else 'user' }}\n"
    "{{ lead if loop.first else '' }}{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL = (  # a question stands in brackets, an answer after them, and its end is the text's
    "<s>{% set lead = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}"
    "{% for m in messages if m.role != 'system' %}"
    "{% if m.role == 'user' %}[INST] {{ lead if loop.first else '' }}{{ m.content }} [/INST]"
    "{% else %} {{ m.content | trim }}</s>{% endif %}{% endfor %}"
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# With the mark that ends a turn, and how many turns of the conversation below it ends.
SHAPES = {
    "llama3": (LLAMA3, "<|eot_id|>", 7),
    "qwen": (QWEN, "<|im_end|>", 7),
    "gemma": (GEMMA, "<end_of_turn>", 6),
    "mistral": (MISTRAL, "</s>", 3),
    "chatml": (CHATML, "<|im_end|>", 7),
}
MARKS = re.compile(r"<\|\w+\|>|<bos>|<s>|</s>|<\w+_of_turn>|\[/?INST\]")

# The answers are words that stand nowhere else.
CONVERSATION = [
    {"role": "system", "content": "Be brief and kind."},
    {"role": "user", "content": "What is the colour of the lamp?"},
    {"role": "assistant", "content": "Vermilion, nearly."},
    {"role": "user", "content": "And of the door? Say <|im_end|> or </s> if you must."},
    {"role": "assistant", "content": "Ochre."},
    {"role": "user", "content": "Thanks!"},
    {"role": "assistant", "content": "Gladly: zinc, ochre\nand umber."},
]
ANSWERS = [turn["content"] for turn in CONVERSATION if turn["role"] == "assistant"]


THOUGHT = "<think>\n\n</think>\n\n"


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest, tiny_model: Path) -> tuple[Any, str, int]:
    """A tokenizer with the template, whose marks are single tokens; the end of a turn, and how
    many there are."""
    template, end, ends = SHAPES[request.param]
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.add_special_tokens(
        {"extra_special_tokens": sorted(set(MARKS.findall(template)) | {end})}
    )
    tokenizer.chat_template = template
    return tokenizer, end, ends


def test_every_token_of_the_answers_is_learnt_and_no_other(
    shape: tuple[Any, str, int], tmp_path: Path
) -> None:
    tokenizer, end, _ = shape
    path = write_rows(tmp_path / "rows.jsonl", [{"messages": CONVERSATION}])
    (document,) = load_documents(path, tokenizer, 1000).rows
    words = [tokenizer.decode([token]) for token in document.tokens.tolist()]
    text = "".join(words)
    wanted = [False] * len(text)
    for answer in ANSWERS:
        at = text.index(answer)
        assert text.find(answer, at + 1) < 0
        start = at - len(THOUGHT) if text[:at].endswith(THOUGHT) else at
        stop = text.index(end, at) + len(end)
        wanted[start:stop] = [True] * (stop - start)
    place = 0
    for word, learnt in zip(words, document.labels.tolist(), strict=True):
        inside = any(wanted[place : place + len(word)])
        place += len(word)
        if word.strip():  # a space or a line's end beside the words may be said as well
            assert learnt == inside, (word, text)


def test_a_mark_that_a_user_wrote_is_no_mark(shape: tuple[Any, str, int], tmp_path: Path) -> None:
    tokenizer, end, ends = shape
    path = write_rows(tmp_path / "rows.jsonl", [{"messages": CONVERSATION}])
    (document,) = load_documents(path, tokenizer, 1000).rows
    assert (document.tokens == tokenizer.convert_tokens_to_ids(end)).sum() == ends
