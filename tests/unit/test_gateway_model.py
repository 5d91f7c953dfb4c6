"""What a key means, what a run is planned as, what is shown of an event: the pure parts."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.contracts.artifact import ArtifactPublished
from libs.contracts.base import ArtifactFile, ModelSource
from libs.contracts.events import type_of
from libs.contracts.scheduler import Checkpoint, JobCheckpointed, JobCompleted, JobTrained
from libs.contracts.training import ContractParams, FinetuneParams, TrainParams
from libs.eventlog.read import TimelineEntry
from libs.eventlog.record import Meta
from libs.jobstate.view import StartedFrom
from services.gateway.access.key_text import hash_of, key_of, well_formed
from services.gateway.bases import catalog_facts
from services.gateway.catalog import CatalogError, FinetuneDefaults, read_catalog
from services.gateway.http.errors import ApiError
from services.gateway.http.pages import Place, cursor_of, page, place_of
from services.gateway.job_requests import (
    ContractHyperparams,
    FinetuneHyperparams,
    TrainHyperparams,
)
from services.gateway.model import (
    RUN_STEPS_MAX,
    RUN_STEPS_MIN,
    Conflict,
    Earlier,
    Fresh,
    Key,
    digest,
    job_id_of,
    run_params,
    standing,
)
from services.gateway.orders import going_on, params_of
from services.gateway.recommend import Settled, recommend_finetune, recommend_train
from services.gateway.recommend_rules import DataFacts, ModelFacts
from services.gateway.timeline import moment, payload_of
from tests.support.jobs import NOON, finished_result, submission

ROOT = Path(__file__).parents[2]
DEFAULTS = FinetuneDefaults(learning_rate=1e-3, seq_len=128, batch_size=8)
FACTS = ModelFacts(params=10**9, advised=DEFAULTS)
PLENTY = DataFacts(tokens=10**6, examples=4_000)
ACCOUNT = UUID(int=7)
DAY = timedelta(days=1)


def earlier(*, expires_at: datetime | None = NOON + DAY) -> Earlier:
    return Earlier(
        request_sha256="1" * 64,
        generation=3,
        expires_at=expires_at,
        job_id=UUID(int=1),
        event=submission(),
        submitted_at=NOON,
    )


def test_an_unknown_key_begins_its_first_life() -> None:
    assert standing(None, "1" * 64, NOON) == Fresh(1)


def test_a_known_key_with_the_same_request_is_replayed() -> None:
    assert standing(earlier(), "1" * 64, NOON) == earlier()


def test_a_known_key_with_another_request_conflicts() -> None:
    assert standing(earlier(), "2" * 64, NOON) == Conflict()


@pytest.mark.parametrize("request_sha256", ["1" * 64, "2" * 64])
def test_an_expired_key_begins_its_next_life(request_sha256: str) -> None:
    assert standing(earlier(), request_sha256, NOON + 2 * DAY) == Fresh(4)


def test_a_key_without_an_end_never_expires() -> None:
    known = earlier(expires_at=None)
    assert standing(known, "1" * 64, NOON + 10_000 * DAY) == known


def test_job_ids_differ_by_account_scope_key_and_generation() -> None:
    key = Key(scope="runs", text="k", life=None)
    ids = {
        job_id_of(ACCOUNT, key, 1),
        job_id_of(UUID(int=8), key, 1),
        job_id_of(ACCOUNT, Key(scope="jobs", text="k", life=None), 1),
        job_id_of(ACCOUNT, Key(scope="runs", text="k2", life=None), 1),
        job_id_of(ACCOUNT, key, 2),
    }
    assert len(ids) == 5
    assert job_id_of(ACCOUNT, key, 1) == job_id_of(ACCOUNT, key, 1)


def test_the_request_digest_does_not_depend_on_the_order_of_names() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


@given(st.integers(min_value=0, max_value=2**50))
def test_a_run_makes_about_three_passes_within_its_plans_bounds(tokens: int) -> None:
    steps = run_params(DEFAULTS, tokens).steps
    assert RUN_STEPS_MIN <= steps <= RUN_STEPS_MAX
    if RUN_STEPS_MIN < steps < RUN_STEPS_MAX:
        assert 3 * tokens <= steps * 8 * 128 < 3 * tokens + 8 * 128


def test_a_jobs_hyperparameters_come_from_the_request_then_the_recommendation() -> None:
    model = read_catalog(ROOT / "catalog.toml")[0]

    found = params_of(FinetuneHyperparams(lr=2e-4, seed=3), catalog_facts(model), PLENTY)

    chosen = found.params
    assert isinstance(chosen, FinetuneParams)
    assert found.recommended == ("seq_len", "batch_size")
    assert (chosen.learning_rate, chosen.seed) == (2e-4, 3)
    assert (chosen.steps, chosen.lora_rank) == (2000, 32)
    advice = recommend_finetune(catalog_facts(model), PLENTY).recommended
    assert (chosen.seq_len, chosen.batch_size) == (advice.seq_len, advice.batch_size)


def test_a_growth_has_the_documented_turns_and_the_rest_as_recommended_for_them() -> None:
    found = params_of(TrainHyperparams(), FACTS, PLENTY)
    advice = recommend_train(FACTS, PLENTY, Settled(turns=1)).recommended
    assert found.params == TrainParams(
        turns=1,
        cycles=advice.cycles,
        steps_per_cycle=advice.steps_per_cycle,
        learning_rate=advice.lr,
        seq_len=advice.seq_len,
        batch_size=advice.batch_size,
    )
    assert found.recommended == ("lr", "cycles", "steps_per_cycle", "seq_len", "batch_size")


def test_what_is_recommended_fits_what_was_asked_for() -> None:
    asked = TrainHyperparams(turns=3, steps_per_cycle=50, batch_size=2, seq_len=64)
    params = params_of(asked, FACTS, PLENTY).params
    assert isinstance(params, TrainParams)
    assert (params.turns, params.steps_per_cycle, params.batch_size) == (3, 50, 2)
    lone = params_of(FinetuneHyperparams(batch_size=2), FACTS, PLENTY).params
    many = params_of(FinetuneHyperparams(batch_size=32), FACTS, PLENTY).params
    assert isinstance(lone, FinetuneParams)
    assert isinstance(many, FinetuneParams)
    assert many.learning_rate == pytest.approx(4 * lone.learning_rate, rel=0.06)


def test_every_method_has_its_learning_rate() -> None:
    def rate(**said: Any) -> float:
        params = params_of(FinetuneHyperparams(**said), FACTS, PLENTY).params
        assert isinstance(params, FinetuneParams)
        return params.learning_rate

    assert rate(method="full") == pytest.approx(rate() / 10, rel=0.06)
    assert rate(method="dpo") == 1e-5
    assert params_of(FinetuneHyperparams(method="dpo"), FACTS, PLENTY).recommended[-1] == "beta"


def test_an_adapter_goes_on_in_its_own_shape_and_in_no_other() -> None:
    adapter = FinetuneParams(
        steps=1,
        learning_rate=1e-3,
        seq_len=16,
        batch_size=1,
        lora_rank=8,
        lora_alpha=16.0,
        target_modules=("q_proj",),
        use_rslora=True,
    )

    def goes_on(**said: Any) -> FinetuneParams:
        asked = FinetuneHyperparams(**said)
        found = going_on(asked, params_of(asked, FACTS, PLENTY).params, adapter)
        assert isinstance(found, FinetuneParams)
        return found

    found = goes_on(steps=7, lora_alpha=16.0)
    assert (found.steps, found.lora_rank, found.lora_alpha) == (7, 8, 16.0)
    assert (found.target_modules, found.use_rslora) == (("q_proj",), True)
    assert goes_on(method="full").lora_rank == 32
    for other in ({"lora_rank": 16}, {"lora_alpha": 8.0}, {"target_modules": ("k_proj",)}):
        with pytest.raises(ApiError, match="merged model"):
            goes_on(**other)
    grown = TrainHyperparams()
    params = params_of(grown, FACTS, PLENTY).params
    assert going_on(grown, params, adapter) == params


def test_a_contraction_has_the_references_defaults_and_nothing_recommended() -> None:
    found = params_of(ContractHyperparams(), FACTS, DataFacts(tokens=1))
    assert found.params == ContractParams(contraction_ratio=0.5, num_layers_to_contract=8)
    assert found.recommended == ()


@pytest.mark.parametrize(
    "hyper",
    [
        TrainHyperparams(turns=100, cycles=1000, steps_per_cycle=1_000_000),
        FinetuneHyperparams(steps=1_000_000, batch_size=4096, seq_len=131_072),
    ],
)
def test_more_work_than_the_ledger_can_price_is_refused(
    hyper: FinetuneHyperparams | TrainHyperparams,
) -> None:
    with pytest.raises(ApiError, match="more than a job may have"):
        params_of(hyper, FACTS, PLENTY)


@given(st.datetimes(timezones=st.just(UTC)), st.uuids())
def test_a_cursor_leads_back_to_its_place(created_at: datetime, id_: UUID) -> None:
    place = Place(created_at, id_)
    assert place_of(cursor_of(place)) == place


@given(st.text(max_size=300))
def test_a_made_up_cursor_is_refused_or_a_place(text: str) -> None:
    with suppress(ApiError):
        place_of(text)


def test_a_page_says_whether_there_is_more() -> None:
    places = [Place(NOON, UUID(int=n)) for n in range(3)]

    full = page(places, 2, lambda place: place)
    last = page(places[:2], 2, lambda place: place)

    assert (full.data, full.has_more) == (places[:2], True)
    assert full.next_cursor == cursor_of(places[1])
    assert (last.data, last.has_more, last.next_cursor) == (places[:2], False, None)


def test_a_key_is_recognised_by_its_checksum() -> None:
    key = key_of(bytes(range(32)))
    assert key.startswith("tuneyard_")
    assert well_formed(key)
    for broken in (key[:-1], key + "x", key.replace("A", "B", 1), "tuneyard_", key.upper()):
        assert not well_formed(broken)


def test_a_key_may_begin_with_whatever_the_operator_chose() -> None:
    key = key_of(bytes(32), "acme_")
    assert key.startswith("acme_")
    assert well_formed(key)
    assert not well_formed(key.replace("acme_", "tuneyard_"))


def test_a_keys_hash_depends_on_the_pepper() -> None:
    key = key_of(bytes(32))
    assert hash_of(key, b"one") != hash_of(key, b"two")


def test_the_catalogue_has_the_documented_models_and_pins_what_lies_on_the_hub() -> None:
    models = {model.slug: model for model in read_catalog(ROOT / "catalog.toml")}
    assert {"tiny-llama", "llama-3.1-8b", "mistral-7b", "gemma-7b"} <= models.keys()
    for model in models.values():
        assert model.source.kind == "local" or len(model.source.revision or "") == 40


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("model = 1", "array"),
        ("[[model]]", "missing"),
        ("not toml", "catalog.toml"),
    ],
)
def test_a_bad_catalogue_says_where_it_is_wrong(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "catalog.toml"
    path.write_text(text)
    with pytest.raises(CatalogError, match=complaint):
        read_catalog(path)


def test_the_timeline_shows_no_object_keys_addresses_or_hashes_of_requests() -> None:
    secret = "secret-place"
    file = ArtifactFile(name="a", role="archive", key=f"{secret}/a", size_bytes=1, sha256="0" * 64)
    shown = [
        submission(
            model=msgspec.structs.replace(
                submission().model,
                source=ModelSource(kind="local", location=secret),
                adapter=ModelSource(kind="s3", location=secret),
            ),
            dataset=msgspec.structs.replace(submission().dataset, key=secret),
            validation=msgspec.structs.replace(submission().dataset, key=secret),
            start_from=Checkpoint(
                step=5,
                key=f"jobs/{ACCOUNT}/1/{secret}",
                sha256="f" * 64,
                size_bytes=1,
                tokens_processed=2,
            ),
            recommended=("lr",),
        ),
        JobCheckpointed(
            epoch=1,
            checkpoint=Checkpoint(
                step=5, key=secret, sha256="0" * 64, size_bytes=1, tokens_processed=2
            ),
        ),
        JobTrained(epoch=1, result=finished_result(), files=(file,)),
        ArtifactPublished(files=(file,), expires_at=NOON),
    ]
    for event in shown:
        entry = TimelineEntry(
            position=1,
            event_id=uuid4(),
            type=type_of(type(event)),
            meta=Meta(occurred_at=NOON),
            data=msgspec.Raw(msgspec.json.encode(event)),
        )
        text = msgspec.json.encode(moment(entry)).decode()
        assert secret not in text
        assert "request_sha256" not in text
        assert "f" * 64 not in text
        assert not moment(entry).kind.endswith("v1")


def test_the_timeline_says_what_a_job_begins_with_and_what_it_cost() -> None:
    begins = Checkpoint(
        step=5, key=f"jobs/{ACCOUNT}/1/c", sha256="f" * 64, size_bytes=1, tokens_processed=2
    )
    held_out = submission().dataset
    shown = payload_of(submission(start_from=begins, validation=held_out, recommended=("lr",)))
    assert shown["start_from"] == StartedFrom(job_id=ACCOUNT, step=5)
    assert held_out is not None
    assert shown["validation_dataset_id"] == held_out.id
    assert shown["recommended"] == ["lr"]
    early = JobCompleted(tokens_processed=1, artifacts_expires_at=NOON, charge_cents=7)
    assert payload_of(early)["charge_cents"] == 7


def test_two_models_may_not_share_a_name(tmp_path: Path) -> None:
    entry = (ROOT / "catalog.toml").read_text().split("[[model]]")[1]
    path = tmp_path / "catalog.toml"
    path.write_text(f"[[model]]{entry}[[model]]{entry}")
    with pytest.raises(CatalogError, match="share"):
        read_catalog(path)
