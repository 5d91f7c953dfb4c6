"""A plain fine-tune script: the Hugging Face Trainer with a peft adapter, as its examples show.

Prints one JSON object a line: the clock when the first optimizer step ended, then the speed.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

WARM_UP_STEPS = 2  # not part of the speed


class Rows(Dataset[dict[str, Any]]):
    def __init__(self, rows: list[list[int]]) -> None:
        self._rows = rows

    @property
    def longest(self) -> int:
        return max(map(len, self._rows))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self._rows[index]}


class Speed(TrainerCallback):
    """``real_tokens`` is filled by the trainer as it sees batches; padding is not counted."""

    def __init__(self) -> None:
        self.real_tokens = 0
        self._counted = 0
        self._started = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 1:
            print(json.dumps({"first_step_at": time.time()}), flush=True)
        if state.global_step == WARM_UP_STEPS:
            self._started, self._counted = time.perf_counter(), self.real_tokens
        if state.global_step == args.max_steps > WARM_UP_STEPS:
            seconds = time.perf_counter() - self._started
            rate = (self.real_tokens - self._counted) / seconds
            print(json.dumps({"tokens_per_second": rate}), flush=True)


class CountingCollator:
    def __init__(self, collate: Callable[[list[dict[str, Any]]], Any], speed: Speed) -> None:
        self._collate = collate
        self._speed = speed

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        self._speed.real_tokens += sum(len(row["input_ids"]) for row in rows)
        return self._collate(rows)


def tokenized(path: str, tokenizer: Any, seq_len: int, *, packed: bool) -> Rows:
    """Each row's tokens, cut to ``seq_len``; packed: all of them in a line, cut into pieces."""
    with open(path, encoding="utf-8") as file:
        texts = [
            tokenizer.apply_chat_template(json.loads(line)["messages"], tokenize=False)
            for line in file
        ]
    rows: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    if packed:
        stream = [token for row in rows for token in row]
        last = len(stream) - seq_len
        return Rows([stream[at : at + seq_len] for at in range(0, last + 1, seq_len)])
    return Rows([row[:seq_len] for row in rows])


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("dataset")
    parser.add_argument("out")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch-tokens", type=int, required=True, help="with padding, at most")
    parser.add_argument("--seq-len", type=int, required=True)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--packed", action="store_true")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    return parser


def main() -> None:
    asked = arguments().parse_args()
    torch.set_num_threads(asked.threads)
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    rows = tokenized(asked.dataset, tokenizer, asked.seq_len, packed=asked.packed)
    dtype = torch.bfloat16 if asked.bf16 else torch.float32
    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=dtype)
    lora = LoraConfig(
        r=asked.rank, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    speed = Speed()
    Trainer(
        model=get_peft_model(model, lora),
        args=TrainingArguments(
            output_dir=asked.out,
            per_device_train_batch_size=asked.batch_tokens // rows.longest,
            max_steps=asked.steps,
            learning_rate=1e-3,
            lr_scheduler_type="cosine",
            bf16=asked.bf16,
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=rows,
        data_collator=CountingCollator(
            DataCollatorForLanguageModeling(tokenizer, mlm=False), speed
        ),
        callbacks=[speed],
    ).train()


if __name__ == "__main__":
    main()
