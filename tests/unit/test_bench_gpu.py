"""The arithmetic by which a card is judged, against torch's own count of a real step."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from services.trainer.memory import Shape
from tests.bench.gpu import SHAPES, flops_per_token
from tests.unit.test_trainer_memory import SMALL


def test_the_flops_of_a_full_step_are_those_that_torch_counts() -> None:
    tokens = 24
    model: Any = LlamaForCausalLM(LlamaConfig(**SMALL, attn_implementation="eager"))
    with FlopCounterMode(display=False) as counter:
        ids = torch.randint(0, 300, (1, tokens))
        torch.autograd.backward(model(input_ids=ids).logits.sum())
    shape = Shape(**SMALL)
    # That attention is not causal: every token's scores are computed with all of them.
    seen = 3 * shape.num_hidden_layers * 4 * shape.query_size * (tokens - (tokens + 1) / 2)
    assert tokens * (flops_per_token(shape, tokens, None) + seen) == counter.get_total_flops()


def test_an_adapter_takes_two_thirds_of_a_full_step_and_little_more() -> None:
    for shape in SHAPES.values():
        full, lora = (flops_per_token(shape, 1, rank) for rank in (None, 16))
        assert 2 / 3 < lora / full < 0.69


def test_an_8b_model_takes_six_flops_a_parameter_and_token() -> None:
    shape = SHAPES["8B"]
    without_table = shape.parameters - shape.vocab_size * shape.hidden_size
    assert flops_per_token(shape, 1, None) == pytest.approx(6 * without_table, rel=0.001)


def test_without_a_card_it_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.gpu"],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "no CUDA device" in done.stderr
