"""A client that others wrote: generated from the document alone, it completes both journeys."""

import importlib
import subprocess
import sys
import time
from collections.abc import Iterator
from http import HTTPStatus
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import httpx
import pytest

from deploy.local.services import TINY_LLAMA
from tests.support.journey import ENDED, RUN_SECONDS, Json, User, fetch, sample_rows
from tests.support.local_stack import LocalStack

PACKAGE = "generated_client"
GENERATE_SECONDS = 300.0
ROWS = 20
ENOUGH = 50_000  # cents
FEW_STEPS = 4
POLL = 0.5  # seconds
LONG = 5_000  # steps: far more than anyone here waits for


@pytest.fixture(scope="module")
def document(stack: LocalStack) -> bytes:
    """As anybody gets it, without a key."""
    answer = httpx.get(f"{stack.base_url}/openapi.json")
    assert answer.status_code == 200
    return answer.content


@pytest.fixture(scope="module")
def generated(
    document: bytes, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, ModuleType]]:
    """The generator's modules by operation id, and its own: ``client``, ``models``, ``types``.

    A warning of the generator, such as an operation that it could not make, is an error.
    """
    folder = tmp_path_factory.mktemp("generated")
    (folder / "openapi.json").write_bytes(document)
    (folder / "config.yaml").write_text("post_hooks: []\n")  # nobody looks at its style
    done = subprocess.run(
        [
            *(sys.executable, "-m", "openapi_python_client", "generate", "--fail-on-warning"),
            *("--path", "openapi.json", "--output-path", PACKAGE),
            *("--meta", "none", "--config", "config.yaml"),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=GENERATE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        try:
            yield _modules(folder / PACKAGE)
        finally:
            for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
                del sys.modules[name]


def _modules(package: Path) -> dict[str, ModuleType]:
    found = {
        name: importlib.import_module(f"{PACKAGE}.{name}") for name in ("client", "models", "types")
    }
    for file in package.glob("api/*/*.py"):
        if file.stem != "__init__":
            name = f"{PACKAGE}.api.{file.parent.name}.{file.stem}"
            found[file.stem] = importlib.import_module(name)
    return found


class Api:
    """The generated client in use: ``api.get_job(job_id)`` is what the answer was parsed into."""

    def __init__(self, generated: dict[str, ModuleType], user: User) -> None:
        self._user = user
        self._generated = generated
        self._client = generated["client"].AuthenticatedClient(
            base_url=str(user.api.base_url),
            token=user.headers["Authorization"].removeprefix("Bearer "),
            raise_on_unexpected_status=True,
            timeout=httpx.Timeout(60.0),
        )
        self.models: Any = generated["models"]

    def file(self, dataset: bytes) -> Any:
        return self._generated["types"].File(BytesIO(dataset), "training_data.jsonl")

    def __getattr__(self, operation: str) -> Any:
        def call(*arguments: Any, status: int = 200, **fields: Any) -> Any:
            answer = self._generated[operation].sync_detailed(
                *arguments, client=self._client, **fields
            )
            assert answer.status_code == HTTPStatus(status), answer.content
            return answer.parsed

        return call

    def ended(self, job_id: Any) -> Any:
        """The job once it has ended and all is told of it. A polite client asks seldom."""
        end = time.monotonic() + RUN_SECONDS
        while (job := self.get_job(job_id)).status not in ENDED:
            assert time.monotonic() < end, job
            time.sleep(POLL)
        self._user.until_told(str(job_id))
        return job


@pytest.fixture(scope="module")
def api(generated: dict[str, ModuleType], stack: LocalStack) -> Api:
    """One account for all of this module: making one takes seconds."""
    return Api(generated, User(stack, stack.new_account(ENOUGH)[1]))


def test_no_operation_is_left_out(generated: dict[str, ModuleType], document: bytes) -> None:
    whole: Json = httpx.Response(200, content=document).json()
    ids = {one["operationId"] for path in whole["paths"].values() for one in path.values()}
    assert {id.lower() for id in ids} <= {name.replace("_", "") for name in generated}


def test_the_generated_client_completes_a_run(api: Api) -> None:
    models = api.list_run_models().data
    (model,) = [one for one in models if one.model_id == TINY_LLAMA]
    assert model.available
    before = api.get_balance().balance_cents

    form = api.models.CreateRunBody(
        dataset=api.file(sample_rows(ROWS)),
        model_id=model.model_id,
        model_terms_accepted=True,
        data_policy_accepted=True,
        label="A generated run",
    )
    created = api.create_run(body=form, idempotency_key=str(uuid4()), status=201)
    assert created.status == "queued"
    assert created.balance_after_cents == before - created.price_cents

    assert api.ended(created.run_id).status == "completed"
    run = api.get_run(created.run_id).run
    assert (run.label, run.status) == ("A generated run", "completed")
    assert run.created_at <= run.started_at <= run.completed_at
    assert created.run_id in [item.run_id for item in api.list_runs(limit=5).data]

    (artifact,) = api.download_run(created.run_id).artifacts
    assert len(fetch(artifact.url)) == artifact.size_bytes


def test_the_generated_client_completes_a_job_and_cancels_another(api: Api) -> None:
    (base,) = [one for one in api.list_base_models().data if one.slug == TINY_LLAMA]
    upload = api.models.CreateDatasetBody(file=api.file(sample_rows(ROWS)), name="generated")
    dataset = api.create_dataset(body=upload, status=201)
    assert (dataset.rows, api.get_dataset(dataset.id).sha256) == (ROWS, dataset.sha256)

    def wanted(kind: str, steps: int) -> Any:
        """A request of this kind: the two differ in their key."""
        fine_tune = getattr(api.models, f"Finetune{kind}")
        return fine_tune(
            type_=getattr(api.models, f"Finetune{kind}Type").FINETUNE,
            idempotency_key=str(uuid4()),
            base_model_id=str(base.id),
            dataset_id=dataset.id,
            hyperparams=api.models.FinetuneHyperparams(steps=steps, output_name="generated"),
        )

    estimate = api.estimate_job(body=wanted("Estimate", FEW_STEPS))
    job = api.create_job(body=wanted("Request", FEW_STEPS), status=201)
    assert (job.status, job.price_cents) == ("queued", estimate.price_cents)
    job = api.ended(job.id)
    assert (job.status, job.steps_total) == ("completed", FEW_STEPS)
    metrics = api.get_job_metrics(job.id)
    assert metrics.latest_step == FEW_STEPS
    assert api.get_job_metrics(job.id, since_step=metrics.latest_step).count == 0
    assert api.get_job_logs(job.id).lines
    kinds = {moment.kind for moment in api.list_job_events(job.id)}
    assert {"job.submitted", "job.completed"} <= kinds
    assert api.get_job_result(job.id).steps == FEW_STEPS
    for file in api.download_job(job.id).files:
        assert len(fetch(file.url)) == file.size_bytes
    mine = api.list_models(owner=api.models.ListModelsOwner.ACCOUNT).data
    assert job.output_model_id in [one.id for one in mine]

    # Only now: of two that come within milliseconds, either may be the first that a trainer gets.
    other = api.create_job(body=wanted("Request", LONG), status=201)
    assert api.cancel_job(other.id).id == other.id
    assert api.ended(other.id).status == "cancelled"
    assert [one.id for one in api.list_jobs(limit=2).data] == [other.id, job.id]


def test_the_generated_client_keeps_a_webhook(api: Api) -> None:
    failed = api.models.NewWebhookEventTypesType0Item.JOB_FAILED
    new = api.models.NewWebhook(url="https://hooks.your-site.example/", event_types=[failed])
    made = api.create_webhook(body=new, idempotency_key=str(uuid4()), status=201)
    assert made.secret.startswith("whsec_")
    assert [one.id for one in api.list_webhooks().data] == [made.id]

    rotated = api.rotate_webhook_secret(made.id)
    assert (rotated.id, rotated.secret != made.secret) == (made.id, True)
    patch = api.models.WebhookPatch(event_types=None, description="everything")
    changed = api.update_webhook(made.id, body=patch)
    assert (changed.event_types, changed.url) == (None, made.url)
    ping = api.test_webhook(made.id, status=202)
    assert [one.id for one in api.list_webhook_deliveries(made.id).data] == [ping.id]
    assert api.redeliver_webhook(made.id, ping.id, status=202).event_id == ping.event_id
    since = api.models.RecoverRequest(since=made.created_at)
    assert api.recover_webhook(made.id, body=since, status=202).deliveries == 0

    assert api.get_me().notices == []
    assert api.delete_webhook(made.id).deleted
    assert api.get_webhook(made.id, status=404).error.code == "not_found"


def test_the_generated_client_reads_a_refusal(api: Api) -> None:
    refused = api.get_job(uuid4(), status=404)
    assert (refused.error.code, bool(refused.error.request_id)) == ("not_found", True)
