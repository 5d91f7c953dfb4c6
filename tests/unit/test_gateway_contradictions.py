"""What is refused though each part of the request is allowed, and what is said then."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from msgspec.structs import replace

from libs.contracts.base import DatasetKind, DatasetRef, ModelRef
from libs.contracts.scheduler import Checkpoint, JobCheckpointed, JobFailed
from libs.contracts.training import FinetuneParams, TrainParams
from libs.jobstate.checkpoints import KEPT, KEPT_FOR
from libs.jobstate.state import JobState, fold
from services.gateway.contradictions import refuse_contradictions
from services.gateway.http.errors import ApiError
from services.gateway.job_requests import EstimateRequest, StartFrom
from services.gateway.starting_points import starting_point
from tests.support.jobs import NOON, first_append, submission

decode = msgspec.json.Decoder(EstimateRequest).decode
MODEL: ModelRef = submission().model
JOB = UUID(int=77)


def dataset(kind: DatasetKind, number: int = 2) -> DatasetRef:
    known = submission().dataset
    assert known is not None
    return replace(known, kind=kind, id=UUID(int=number))


def asked(job_type: str, **hyperparams: Any) -> EstimateRequest:
    body = {"type": job_type, "base_model_id": "m", "hyperparams": hyperparams}
    data = {} if job_type == "contract" else {"dataset_id": str(UUID(int=2))}
    return decode(msgspec.json.encode(body | data))


def refusal(request: EstimateRequest, kind: DatasetKind = "messages") -> str:
    with pytest.raises(ApiError) as refused:
        refuse_contradictions(request, dataset(kind), None)
    assert refused.value.code == "validation_failed"
    return refused.value.message


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (asked("finetune"), "text"),
        (asked("finetune", method="dpo", beta=0.2, lora_rank=8), "preference"),
        (asked("finetune", method="full", patience=3, lora_rank=32), "messages"),
        (asked("finetune", target_modules=["q_proj"], use_rslora=True, merged_model=True), "text"),
        (asked("train", strategy="width", trainable="all"), "text"),
        (asked("train", layers_per_cycle=2), "messages"),
        (asked("contract", strategy="width", num_layers_to_contract=8), "text"),
    ],
)
def test_what_fits_together_is_taken(request_: EstimateRequest, kind: DatasetKind) -> None:
    refuse_contradictions(request_, dataset(kind), dataset(kind, 3))


def test_a_contraction_needs_no_data_set() -> None:
    refuse_contradictions(asked("contract"), None, None)


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ({"lora_rank": 8}, "lora_rank"),
        ({"lora_alpha": 8}, "lora_alpha"),
        ({"target_modules": ["q_proj"]}, "target_modules"),
        ({"use_rslora": True}, "use_rslora"),
        ({"merged_model": True}, "merged_model"),
        ({"beta": 0.1}, "beta"),
    ],
)
def test_a_full_fine_tune_has_nothing_of_an_adapters(said: dict[str, Any], name: str) -> None:
    assert refusal(asked("finetune", method="full", **said)).startswith(f"hyperparams.{name}: ")


def test_only_preferences_have_a_beta() -> None:
    assert "send method dpo" in refusal(asked("finetune", beta=0.1))


def test_preferences_are_for_dpo_and_dpo_is_for_preferences() -> None:
    assert "of the kind messages" in refusal(asked("finetune", method="dpo"))
    assert "send method dpo" in refusal(asked("finetune"), "preference")
    assert "send method dpo" in refusal(asked("finetune", method="full"), "preference")
    assert "method dpo" in refusal(asked("train"), "preference")
    assert "method dpo" in refusal(asked("contract"), "preference")


def test_what_a_width_has_no_use_for_is_refused() -> None:
    assert "adds no layers" in refusal(asked("train", strategy="width", layers_per_cycle=1))
    narrow = asked("contract", strategy="width", num_layers_to_contract=4)
    assert "all layers alike" in refusal(narrow)


def test_what_is_held_out_is_another_data_set_of_the_same_kind() -> None:
    text = dataset("text")
    for held_out, said in ((text, "another"), (dataset("messages", 3), "of the same kind")):
        with pytest.raises(ApiError, match=said):
            refuse_contradictions(asked("finetune"), text, held_out)


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(
        step=step, key=f"jobs/{JOB}/1/c", sha256="0" * 64, size_bytes=1, tokens_processed=step
    )


def tuned(*steps: int, **changes: Any) -> JobState:
    _, state = first_append(JOB, UUID(int=9), submission(**changes))
    for step in steps:
        state = fold(state, JobCheckpointed(epoch=1, checkpoint=checkpoint(step)), NOON)
    return state


def params(**changes: Any) -> FinetuneParams:
    known = submission().params
    assert known is not None
    return replace(known, **changes)


def begun(job: JobState, step: int | None = None, **changes: Any) -> Checkpoint:
    wanted = StartFrom(job_id=JOB, step=step)
    return starting_point(wanted, job, MODEL, params(**changes), NOON)


def test_a_fine_tune_begins_with_the_newest_checkpoint_or_the_one_it_names() -> None:
    job = tuned(10, 20, 30, 40)
    assert begun(job) == checkpoint(40)
    assert begun(job, 20) == checkpoint(20)
    with pytest.raises(ApiError, match="at the steps 40, 30, 20; name one"):
        begun(job, 10)
    assert len(job.checkpoints) == KEPT


def test_a_job_without_checkpoints_gives_none_to_begin_with() -> None:
    with pytest.raises(ApiError, match="has no checkpoints"):
        begun(tuned())
    job = fold(tuned(10), JobFailed(code="internal_error", message="x"), NOON)
    assert begun(job) == checkpoint(10)
    with pytest.raises(ApiError, match="has no checkpoints"):
        starting_point(StartFrom(job_id=JOB), job, MODEL, params(), NOON + KEPT_FOR)
    assert job.checkpoints_at(NOON + KEPT_FOR - timedelta(seconds=1))


def test_what_differs_is_said_all_at_once() -> None:
    job = tuned(10)
    with pytest.raises(
        ApiError, match=r"its lora_rank \(32, not 8\); its target_modules \(all, not"
    ):
        begun(job, lora_rank=8, target_modules=("q_proj",))
    with pytest.raises(ApiError, match=r"its method \(lora, not full\)"):
        begun(job, method="full", lora_rank=8)
    other = replace(MODEL, id=UUID(int=5), slug="other")
    with pytest.raises(ApiError, match=r"its base model \(tiny-llama, not other\)"):
        starting_point(StartFrom(job_id=JOB), job, other, params(), NOON)


def test_the_rank_says_nothing_of_a_full_fine_tune() -> None:
    job = tuned(10, params=params(method="full"))
    assert begun(job, method="full", lora_rank=8) == checkpoint(10)


def test_only_a_fine_tune_has_a_checkpoint_to_begin_with() -> None:
    grown = TrainParams(learning_rate=1e-3, batch_size=1)
    job = tuned(10, job_type="train", params=None, train_params=grown)
    with pytest.raises(ApiError, match="is a train job"):
        begun(job)
