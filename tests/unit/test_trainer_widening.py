"""Growing a model by copies of neurons that change nothing, and that become more than copies."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Gemma3nForCausalLM,
    Gemma3nTextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from services.trainer.depth import Gain
from services.trainer.export import ParityError
from services.trainer.grow import insert, learn, measure_growth
from services.trainer.loading import ModelError
from services.trainer.steps import Learner, gather_gradients, round_weights
from services.trainer.widening import Widening, growth_sizes
from services.trainer.width import say_width
from tests.unit.test_trainer_growth import TINY, reload, said, shaken

WIDE = 64  # of TINY


def learner_of(model: Any, *, lr: float = 1e-3) -> Learner:
    return Learner(model, {}, torch.optim.AdamW([{"params": []}], lr=lr), {})


def widened(model: Any, cycles: int = 2, **how: Any) -> tuple[Widening, Learner]:
    widening, learner = Widening(model, cycles, **how), learner_of(model)
    if how.get("all_learn"):
        learn(learner, [Gain(n, w, w) for n, w in model.named_parameters()])
    for cycle in range(1, cycles + 1):
        insert(widening, learner, widening.size_after(cycle))
    return widening, learner


def rel_l2(after: torch.Tensor, before: torch.Tensor) -> float:
    return ((after.float() - before.float()).norm() / before.float().norm()).item()


@pytest.mark.parametrize(
    ("width", "cycles", "gained"),
    [
        (14336, 4, [3584, 7168, 10752, 14336]),
        (11008, 4, [2816, 5632, 8448, 11008]),
        (160, 4, [64, 96, 128, 160]),
        (160, 10, [32, 32, 64, 64, 96, 96, 128, 128, 160, 160]),
        (100, 3, [60, 92, 100]),
        (16, 2, [16, 16]),
        (64, 1, [64]),
    ],
)
def test_every_neuron_is_duplicated_once_in_even_multiples(
    width: int, cycles: int, gained: list[int]
) -> None:
    assert growth_sizes(width, cycles) == gained


@pytest.mark.parametrize("all_learn", [False, True])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_a_wider_model_saved_and_reloaded_says_the_same_to_rounding(
    dtype: torch.dtype, most: float, all_learn: bool, tiny_model: Path, tmp_path: Path
) -> None:
    model = reload(tiny_model, dtype)
    widening, _ = widened(model, all_learn=all_learn)
    with widening.as_saved():
        model.save_pretrained(tmp_path)
    again = reload(tmp_path, dtype)
    base = reload(tiny_model, dtype)
    assert again.config.intermediate_size == 2 * base.config.intermediate_size
    assert again.num_parameters() > base.num_parameters()
    assert rel_l2(said(again), said(base)) < most
    assert rel_l2(said(model), said(base)) < most  # in parts, as it learns


def test_biases_are_shared_as_well(tmp_path: Path) -> None:
    model = shaken(LlamaForCausalLM(LlamaConfig(**TINY, mlp_bias=True)))
    before = said(model)
    widening, _ = widened(model)
    assert rel_l2(said(model), before) < 1e-5
    with widening.as_saved():
        model.save_pretrained(tmp_path)
    assert rel_l2(said(reload(tmp_path, torch.float32)), before) < 1e-5


def test_a_list_of_the_layers_widths_says_it_of_each() -> None:
    text = Gemma3nTextConfig(vocab_size=97, vocab_size_per_layer_input=97, hidden_size=32)
    text.update({"num_hidden_layers": 2, "intermediate_size": [WIDE, WIDE], "head_dim": 8})
    text.update({"num_attention_heads": 4, "num_key_value_heads": 2, "num_kv_shared_layers": 0})
    text.update({"hidden_size_per_layer_input": 8, "laurel_rank": 4})
    text.update({"layer_types": ["full_attention"] * 2, "activation_sparsity_pattern": [0.0] * 2})
    model = Gemma3nForCausalLM(text)
    say_width(model, 2 * WIDE)
    assert model.config.intermediate_size == [2 * WIDE] * 2


def test_the_base_can_be_asked_at_any_time() -> None:
    model = shaken(LlamaForCausalLM(LlamaConfig(**TINY)))
    before = said(model)
    widening, learner = widened(model)
    with torch.no_grad():
        for weight in learner.params.values():
            weight.add_(0.1)
    after = said(model)
    with widening.without_grown():
        assert torch.equal(said(model), before)
    assert torch.equal(said(model), after)
    assert rel_l2(after, before) > 0.1


def test_only_copies_learn_and_they_move_away_from_their_originals() -> None:
    model = shaken(LlamaForCausalLM(LlamaConfig(**TINY))).requires_grad_(False)
    widening, learner = widened(model)
    frozen = [mlp.down_proj.weight.clone() for mlp in widening.base.modules]
    lessons(learner, steps=3)
    assert all(
        torch.equal(mlp.down_proj.weight, weight)
        for mlp, weight in zip(widening.base.modules, frozen, strict=True)
    )
    assert distance(widening) > 1e-3


@pytest.mark.parametrize(
    ("shared", "least", "most"),
    [("by lot", 1.2, 1.6), ("by halves", 0, 0), ("one to three", 1e-3, 0.2)],
)
def test_where_both_learn_only_a_column_shared_by_lot_lets_them_go_their_own_ways(
    shared: str, least: float, most: float
) -> None:
    """How far they are apart, in parts of the way that one has gone; in fp64, where no rounding
    makes a difference that then grows."""
    model = shaken(LlamaForCausalLM(LlamaConfig(**TINY)).double())
    before = said(model)
    widening, learner = widened(model, 1, all_learn=shared == "by lot")
    if shared != "by lot":
        learner = learner_of(model)
        learn(learner, [Gain(n, w, w) for n, w in model.named_parameters()])
    if shared == "one to three":
        with torch.no_grad():
            for mlp in widening.mlps:
                mlp.parts[0].down_proj.weight.mul_(0.5)
                mlp.parts[1].down_proj.weight.mul_(1.5)
    assert rel_l2(said(model), before) < 1e-5
    gate = widening.mlps[1].parts[0].gate_proj.weight
    start = gate.detach().clone()
    lessons(learner, steps=10)
    assert least <= distance(widening) / rel_l2(gate, start) <= most


def lessons(learner: Learner, steps: int) -> None:
    tokens = torch.randint(90, (3, 40), generator=torch.Generator().manual_seed(3))
    for _ in range(steps):
        loss = learner.network(input_ids=tokens, labels=tokens).loss
        torch.autograd.backward(loss)
        gather_gradients(learner)
        learner.optimizer.step()
        learner.optimizer.zero_grad()
        round_weights(learner)


def distance(widening: Widening) -> float:
    """How far the copies' gate rows are from their originals', relative to these."""
    mlp: Any = widening.mlps[1]
    copies = torch.cat([part.gate_proj.weight for part in mlp.parts[1:]])
    originals = mlp.parts[0].gate_proj.weight
    return ((copies - originals).norm() / originals.norm()).item()


def test_what_is_behind_rounded_weights_is_shared_as_they_are() -> None:
    model = shaken(LlamaForCausalLM(LlamaConfig(**TINY))).bfloat16()
    widening, learner = Widening(model, 1, all_learn=True), learner_of(model)
    learn(learner, [Gain(n, w, w) for n, w in model.named_parameters()])
    name = "model.layers.0.mlp.parts.0.down_proj.weight"
    with torch.no_grad():
        for param in learner.params.values():
            param.add_(1e-5)  # too small to be seen in bf16
    whole = learner.params[name].clone()
    insert(widening, learner, WIDE)
    copy = learner.params["0.0.down_proj.weight"]
    assert torch.equal(learner.params[name] + copy, whole)
    assert torch.equal(widening.mlps[0].parts[0].down_proj.weight, learner.params[name].bfloat16())
    assert 0.4 < (copy == 0).float().mean() < 0.6


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-4), (torch.bfloat16, 1e-2)])
def test_growth_that_changes_more_than_rounding_does_fails_the_job(
    dtype: torch.dtype, most: float
) -> None:
    logits = torch.randn(20, 50)
    off = logits.norm() * most / logits.numel() ** 0.5
    report = measure_growth("neurons", 64, logits, logits + 0.9 * off, dtype)
    assert (report.neurons, report.blocks) == (64, 0)
    assert report.rel_l2 == pytest.approx(0.9 * most, rel=1e-2)
    for changed in (logits + 1.1 * off, logits * float("nan")):
        with pytest.raises(ParityError, match="choose another base model"):
            measure_growth("neurons", 64, logits, changed, dtype)


def test_a_model_with_experts_is_refused_by_name() -> None:
    config = MixtralConfig(**TINY, num_local_experts=2)
    with pytest.raises(ModelError, match=r"MixtralForCausalLM .* use the strategy depth"):
        Widening(MixtralForCausalLM(config), 2)
