"""Which neurons a narrower model keeps, and that these say what all of them said."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from services.trainer import attention
from services.trainer.documents import Document
from services.trainer.loading import ModelError
from services.trainer.narrowing import activity, narrowed, narrower, refit, strongest
from services.trainer.width import mlps_of, say_width
from tests.unit.test_trainer_growth import TINY, said, shaken

CPU, FP32 = torch.device("cpu"), torch.float32
WIDE = 64  # of TINY


def texts(count: int = 6, length: int = 30) -> list[Document]:
    rng = np.random.default_rng(4)
    return [
        Document(n, rng.integers(0, 97, length + n).astype(np.int32), np.ones(length + n, np.bool_))
        for n in range(count)
    ]


def model_of(**config: Any) -> Any:
    torch.manual_seed(0)
    model: Any = shaken(LlamaForCausalLM(LlamaConfig(**TINY, **config))).requires_grad_(False)
    model.set_attn_implementation(attention.NAME)
    return model


def halved(model: Any, width: int = WIDE // 2) -> None:
    mlps = mlps_of(model)
    now = list(mlps.modules)
    for number, mlp in enumerate(mlps.modules):
        seen = activity(model, mlp, texts(), CPU, FP32)
        kept = strongest(seen.score, width)
        now[number] = narrowed(mlp, kept, refit(mlp.down_proj.weight, seen.gram, kept))
        mlps.put(now)
    say_width(model, width)
    model.set_attn_implementation("sdpa")


@pytest.mark.parametrize(
    ("width", "ratio", "left"),
    [
        (14336, 0.5, 7168),
        (14336, 0.25, 10752),
        (11008, 0.3, 7680),
        (4864, 1.0, 256),
        (4864, 0.001, 4608),
        (160, 0.5, 96),
        (100, 0.01, 96),
        (64, 1.0, 32),
    ],
)
def test_a_width_is_a_multiple_and_something_stays_and_something_goes(
    width: int, ratio: float, left: int
) -> None:
    assert narrower(width, ratio) == left


def test_an_mlp_of_the_fewest_neurons_is_not_narrowed() -> None:
    with pytest.raises(ModelError, match="only 32 neurons"):
        narrower(32, 0.5)


def test_a_neuron_counts_by_its_mean_activation_in_each_text() -> None:
    """Against the definition, one text at a time, through transformers' own attention."""
    model = model_of()
    mlp = model.model.layers[2].mlp
    seen = activity(model, mlp, texts(), CPU, FP32)
    inputs: list[torch.Tensor] = []
    mlp.down_proj.register_forward_pre_hook(lambda _, args: inputs.append(args[0][0].double()))
    model.set_attn_implementation("sdpa")
    for text in texts():
        model(input_ids=torch.from_numpy(text.tokens.astype(np.int64))[None])
    squares = torch.stack([h.abs().mean(0).square() for h in inputs]).sum(0)
    h = torch.cat(inputs)
    assert torch.allclose(seen.score, squares.sqrt(), rtol=1e-4)
    assert torch.allclose(seen.gram, h.T @ h, rtol=1e-3, atol=1e-5)


def test_the_strongest_are_kept_in_their_order() -> None:
    assert strongest(torch.tensor([0.1, 5.0, 0.2, 3.0, 5.0]), 3).tolist() == [1, 3, 4]


def test_what_others_can_say_is_not_lost_with_a_neuron() -> None:
    """Every neuron twice, at different strengths: half of them can say all of it."""
    generator = torch.Generator().manual_seed(1)
    h = torch.randn(500, 8, generator=generator).double()
    both = torch.cat((3 * h, h), dim=1)
    weight = torch.randn(5, 16, generator=generator)
    kept = torch.arange(8)
    meant = both @ weight.double().T
    fitted = both[:, kept] @ refit(weight, both.T @ both, kept).T
    cut = both[:, kept] @ weight[:, kept].double().T
    assert (fitted - meant).norm() < 0.02 * meant.norm()
    assert (cut - meant).norm() > 0.2 * meant.norm()


def test_the_refit_is_the_ridge_regression_of_the_formula() -> None:
    generator = torch.Generator().manual_seed(2)
    h = torch.randn(40, 12, generator=generator).double()
    weight = torch.randn(3, 12, generator=generator).double()
    gram, kept = h.T @ h, torch.tensor([1, 4, 5, 9])
    ridge = 0.01 * gram[kept, kept].mean()
    system = gram[kept][:, kept] + ridge * torch.eye(4)
    meant = weight @ gram[:, kept] + ridge * weight[:, kept]
    assert torch.allclose(refit(weight, gram, kept) @ system, meant)


def test_of_neurons_that_nothing_was_heard_of_the_weights_stay() -> None:
    gram = torch.zeros(6, 6, dtype=torch.float64)
    weight = torch.randn(2, 6, generator=torch.Generator().manual_seed(6))
    assert torch.allclose(
        refit(weight, gram, torch.tensor([0, 2, 5])), weight[:, [0, 2, 5]].double()
    )


@pytest.mark.parametrize("biases", [False, True])
def test_neurons_that_say_nothing_can_go_without_a_trace(biases: bool) -> None:
    model = model_of(mlp_bias=biases)
    generator = torch.Generator().manual_seed(5)
    for layer in model.model.layers:
        for neuron in torch.randperm(WIDE, generator=generator)[: WIDE // 2].tolist():
            layer.mlp.up_proj.weight[neuron] = 0
            if biases:
                layer.mlp.up_proj.bias[neuron] = 0
    model.set_attn_implementation("sdpa")
    before = said(model)
    model.set_attn_implementation(attention.NAME)
    halved(model)
    assert model.config.intermediate_size == model.model.layers[0].mlp.intermediate_size == 32
    assert model.model.layers[3].mlp.gate_proj.weight.shape == (32, 32)
    assert (said(model) - before).norm() < 0.03 * before.norm()
