"""Growing a model by blocks that change nothing, and training them behind rounded weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import Parameter
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from libs.contracts.training import TrainParams
from services.trainer.depth import MAX_DEPTH_FACTOR, Tower, blocks_of, growth_places
from services.trainer.export import ParityError
from services.trainer.grow import insert, measure_growth
from services.trainer.loading import ModelError
from services.trainer.steps import Learner, gather_gradients, round_weights

TINY: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def params(cycles: int, layers_per_cycle: int = 1) -> TrainParams:
    return TrainParams(
        cycles=cycles, layers_per_cycle=layers_per_cycle, learning_rate=1e-3, batch_size=1
    )


def tower(model: Any, places: list[int]) -> tuple[Tower, Learner]:
    optimizer = torch.optim.AdamW([{"params": []}], lr=1e-3)
    return Tower(model, places), Learner(model, {}, optimizer, {})


def said(model: Any) -> torch.Tensor:
    tokens = torch.randint(90, (3, 40), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(input_ids=tokens).logits
    return logits


def reload(folder: Path, dtype: torch.dtype) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def shaken(model: Any) -> Any:
    """The model with nothing left at zero or one, biases and norms included."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for param in model.parameters():
            param.add_(0.1 * torch.randn(param.shape, generator=generator))
    return model


@pytest.mark.parametrize(
    ("depth", "cycles", "per_cycle", "places"),
    [
        (8, 4, 1, [7, 5, 3, 1]),
        (8, 2, 2, [7, 3, 5, 1]),
        (32, 1, 8, [31, 27, 23, 19, 15, 11, 7, 3]),
        (4, 3, 1, [3, 2, 1]),
        (2, 1, 3, [1, 1, 0]),
    ],
)
def test_new_blocks_are_evenly_spaced_over_all_cycles_and_within_each(
    depth: int, cycles: int, per_cycle: int, places: list[int]
) -> None:
    assert growth_places(depth, params(cycles, per_cycle)) == places


@pytest.mark.parametrize("per_cycle", [1, 3, 64])
def test_however_many_cycles_the_depth_stays_bounded(per_cycle: int) -> None:
    assert len(growth_places(5, params(1000, per_cycle))) == (MAX_DEPTH_FACTOR - 1) * 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 3])
def test_a_grown_model_saved_and_reloaded_says_exactly_the_same(
    count: int, dtype: torch.dtype, tiny_model: Path, tmp_path: Path
) -> None:
    model = reload(tiny_model, dtype)
    grown, learner = tower(model, growth_places(2, params(count)))
    insert(grown, learner, count)
    model.save_pretrained(tmp_path)
    again = reload(tmp_path, dtype)
    assert again.config.num_hidden_layers == 2 + count
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert (said(again) - said(reload(tiny_model, dtype))).abs().max() == 0


def test_biases_are_silenced_as_well() -> None:
    model = shaken(LlamaForCausalLM(LlamaConfig(**TINY, attention_bias=True, mlp_bias=True)))
    before = said(model)
    insert(*tower(model, [3, 1]), 2)
    assert torch.equal(said(model), before)


def test_what_a_configuration_says_of_each_block_grows_with_it(tmp_path: Path) -> None:
    kinds = ["sliding_attention", "full_attention"] * 2
    config = Gemma3TextConfig(**TINY, head_dim=8, layer_types=kinds, sliding_window=8)
    model = shaken(Gemma3ForCausalLM(config))
    before = said(model)
    insert(*tower(model, [3, 0]), 2)
    assert [block.self_attn.layer_idx for block in model.model.layers] == list(range(6))
    model.save_pretrained(tmp_path)
    again = reload(tmp_path, torch.float32)
    assert again.config.layer_types == [kinds[0], kinds[0], *kinds[1:], kinds[3]]
    assert torch.equal(said(again), before)


def test_the_base_can_be_asked_at_any_time() -> None:
    model = shaken(LlamaForCausalLM(LlamaConfig(**TINY)))
    before = said(model)
    grown, learner = tower(model, [3, 1])
    insert(grown, learner, 2)
    with torch.no_grad():
        for weight in learner.params.values():
            weight.add_(0.1)
    after = said(model)
    with grown.without_grown():
        assert torch.equal(said(model), before)
    assert torch.equal(said(model), after)
    assert not torch.equal(after, before)


def test_growth_that_changes_anything_fails_the_job() -> None:
    logits = torch.randn(20, 50)
    assert measure_growth("blocks", 2, logits, logits.clone(), torch.float32).mean_kl == 0
    other = logits.clone()
    other[3, 4] += 1e-6
    for changed in (other, logits * float("nan")):
        with pytest.raises(ParityError, match="choose another base model"):
            measure_growth("blocks", 2, logits, changed, torch.float32)


def test_a_model_that_is_no_such_stack_is_refused_by_name() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=97))
    with pytest.raises(ModelError, match="GPT2LMHeadModel"):
        blocks_of(model)


def test_updates_too_small_for_the_rounded_weight_add_up() -> None:
    weight, param = Parameter(torch.ones(4, dtype=torch.bfloat16)), Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([param], lr=1.0)
    learner = Learner(None, {"w": param}, optimizer, {"w": weight})
    for _ in range(10):
        for _ in range(2):  # two micro-batches, whose gradients add up
            torch.autograd.backward((weight * 5e-4).sum())
            gather_gradients(learner)
        optimizer.step()
        optimizer.zero_grad()
        round_weights(learner)
    assert weight.detach().float().tolist() == pytest.approx([0.99] * 4, abs=4e-3)
    assert param.detach().tolist() == pytest.approx([0.99] * 4, abs=1e-4)
