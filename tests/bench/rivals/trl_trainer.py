"""A plain fine-tune script: TRL's SFTTrainer with packing, as its documentation shows it.

The library's defaults, but for what the comparison fixes: precision, batch tokens, and no
activation checkpointing unless asked for (the default here; memory does not ask for it). Packing
fits whole rows into sequences and flattens a batch of them, so that no row sees another. Prints
what `hf_trainer` prints.
"""

from typing import Any

import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from tests.bench.rivals.hf_trainer import CountingCollator, Speed, arguments


def main() -> None:
    parser = arguments()
    parser.add_argument("--checkpointing", action="store_true", help="TRL's default")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    dtype = torch.bfloat16 if asked.bf16 else torch.float32
    speed = Speed()
    trainer: Any = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(asked.model, dtype=dtype),
        args=SFTConfig(
            output_dir=asked.out,
            packing=asked.packed,
            max_length=asked.seq_len,
            per_device_train_batch_size=asked.batch_tokens // asked.seq_len,
            max_steps=asked.steps,
            learning_rate=1e-3,
            lr_scheduler_type="cosine",
            bf16=asked.bf16,
            gradient_checkpointing=asked.checkpointing,
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=load_dataset("json", data_files=asked.dataset, split="train"),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=asked.rank, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        callbacks=[speed],
    )
    trainer.data_collator = CountingCollator(trainer.data_collator, speed)
    trainer.train()


if __name__ == "__main__":
    main()
