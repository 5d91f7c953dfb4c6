"""Contraction as real processes, and whole models as the base of later jobs."""

import hashlib
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import aiohttp
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from libs.contracts.artifact_rpc import GetInputs, InputFile, Inputs
from libs.contracts.base import ArtifactFile, Event, ModelRef, ModelSource
from libs.contracts.gateway import JobSubmitted
from libs.contracts.scheduler import JobLeased, JobTrained
from libs.contracts.training import ContractParams
from libs.eventlog.connection import connect, create_pool
from libs.eventlog.groupcommit import GroupCommit
from libs.eventlog.record import Head
from libs.jobstate.state import fold, job_stream, row_of
from libs.objectstore import ObjectStore
from services.artifact.handlers import Desk
from services.trainer.archive import ARCHIVE, pack_result, result_files, role_of
from services.trainer.base_model import ModelUnavailable, resolve
from services.trainer.depth import Tower, silent_copy
from services.trainer.grow import insert
from services.trainer.steps import Learner
from tests.support.jobs import NOON, finished_result, first_append, next_append, submission
from tests.support.stack import Database
from tests.support.training import (
    contract_spec,
    failed,
    metrics,
    result,
    start,
    status,
    train,
    wait_until,
)


@pytest.fixture(scope="module")
def deep_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a third block, between its two, that does nothing."""
    folder = tmp_path_factory.mktemp("models") / "deep"
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model)
    learner = Learner(model, {}, torch.optim.AdamW([{"params": []}]), {})
    insert(Tower(model, [0]), learner, 1)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def halved(deep_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has removed one block of two candidates."""
    job = contract_spec(deep_model, tmp_path_factory.mktemp("halved"))
    assert train(job) == 0
    return Path(job.out_dir)


def test_the_block_that_does_nothing_is_the_one_removed(halved: Path, tiny_model: Path) -> None:
    left = AutoModelForCausalLM.from_pretrained(halved / "model").state_dict()
    meant = AutoModelForCausalLM.from_pretrained(tiny_model).state_dict()
    assert left.keys() == meant.keys()
    assert all(torch.equal(left[name], meant[name]) for name in meant)
    outcome = result(halved)
    assert outcome.ppl_final == outcome.ppl_baseline
    assert outcome.function_preservation == 0
    assert outcome.params_delta == outcome.params_after - outcome.params_before < 0
    assert outcome.split == "self-generated text (6 of 24 rows, seed 17)"
    assert (
        outcome.tokens_processed == ContractParams(calibration_rows=24, seq_len=64).planned_tokens
    )


def test_the_result_is_a_plain_model_with_as_many_blocks_as_it_says(halved: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(halved / "model")
    assert model.config.num_hidden_layers == len(model.model.layers) == 2
    assert model.num_parameters() == result(halved).params_after
    roles = {path.name: role_of(path.name) for path in result_files(halved)}
    assert roles["model.safetensors"] == "model"
    assert roles["config.json"] == "config"
    assert roles["tokenizer.json"] == "tokenizer"


def test_every_removal_is_a_point_and_what_was_clamped_is_said(halved: Path) -> None:
    points = [(p.step, p.phase) for p in metrics(halved)]
    assert points == [(0, "eval"), (1, "contract"), (1, "eval")]
    log = (halved / "log.txt").read_text()
    assert "only 2 of this model's 3 blocks can be removed" in log
    assert "warning: without 33% of its blocks" in log
    assert "step 1/1 · block 2 removed" in log


def test_a_contraction_begun_anew_comes_to_the_same_result(
    halved: Path, deep_model: Path, tmp_path: Path
) -> None:
    long = contract_spec(deep_model, tmp_path, calibration_rows=10_000)  # nobody sees its end
    process = start(long)
    wait_until((tmp_path / "state.json").exists)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    process.join(timeout=120)
    assert process.exitcode == 0
    assert status(tmp_path).outcome == "stopped"
    assert not (tmp_path / "result.json").exists()

    assert train(contract_spec(deep_model, tmp_path)) == 0
    weights = "model/model.safetensors"
    assert (tmp_path / weights).read_bytes() == (halved / weights).read_bytes()
    ours, theirs = result(tmp_path), result(halved)
    assert (ours.ppl_final, ours.samples) == (theirs.ppl_final, theirs.samples)


def test_all_but_the_first_block_can_go(tiny_model: Path, tmp_path: Path) -> None:
    assert (
        train(contract_spec(tiny_model, tmp_path, contraction_ratio=1.0, calibration_rows=1)) == 0
    )
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert len(model.model.layers) == 1
    assert result(tmp_path).ppl_final > result(tmp_path).ppl_baseline
    ended = failed(contract_spec(tmp_path / "model", tmp_path / "again"))
    assert ended.code == "model_load_failed"
    assert ended.message is not None
    assert "choose a deeper model" in ended.message


def test_the_first_block_stays_even_if_it_does_nothing(tiny_model: Path, tmp_path: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.model.layers[0] = silent_copy(model, model.model.layers[0])
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "model")
    assert train(contract_spec(tmp_path / "model", tmp_path / "out")) == 0
    assert "block 2 removed" in (tmp_path / "out" / "log.txt").read_text()


class Published(NamedTuple):
    """A job and the files of its result, in the object store."""

    job_id: UUID
    files: tuple[ArtifactFile, ...]

    @property
    def prefix(self) -> str:
        return f"jobs/{self.job_id}/1"


async def publish(store: ObjectStore, run: Path, folder: Path) -> Published:
    """A finished job's files, and a checkpoint that lies beside them."""
    job_id = uuid4()
    pack_result(run, folder / ARCHIVE)
    files = []
    for path in [folder / ARCHIVE, *result_files(run)]:
        key, data = f"jobs/{job_id}/1/{path.name}", path.read_bytes()
        await store.put(key, data)
        digest = hashlib.sha256(data).hexdigest()
        role = "archive" if path.name == ARCHIVE else role_of(path.name)
        files.append(
            ArtifactFile(name=path.name, role=role, key=key, size_bytes=len(data), sha256=digest)
        )
    await store.put(f"jobs/{job_id}/1/checkpoint-4.tar", b"a checkpoint")
    return Published(job_id, tuple(files))


async def enter(log: GroupCommit, job_id: UUID, event: JobSubmitted, then: Event) -> None:
    """A job of two events."""
    append, state = first_append(job_id, UUID(int=42), event)
    await log.append(append)
    head = Head(stream=job_stream(job_id), version=1, hash=append.records[-1].hash)
    await log.append(next_append(head, state, then, job=row_of(fold(state, then, NOON))))


async def links(database: Database, store: ObjectStore, made: Published) -> tuple[InputFile, ...]:
    """What artifact hands to the trainer of a job whose base model is what another has made."""
    source = ModelSource(kind="s3", location=made.prefix)
    base = ModelRef(id=UUID(int=9), slug="my-model", params=1, source=source)
    trained = JobTrained(epoch=1, result=finished_result(), files=made.files)
    fields = {"job_type": "contract", "model": base, "dataset": None, "params": None}
    following = submission(**fields, contract_params=ContractParams())
    job_id = uuid4()
    async with (
        GroupCommit(partial(connect, database.dsn("scheduler"))) as log,
        create_pool(database.dsn("artifact"), size=1) as pool,
    ):
        await enter(log, made.job_id, submission(), trained)
        await enter(log, job_id, following, JobLeased(epoch=1, trainer_id="trainer-0"))
        desk = Desk(pool=pool, log=log, store=store, now=lambda: NOON, new_id=uuid4)
        inputs = await desk.give_inputs(GetInputs(job_id=job_id, epoch=1))
    assert isinstance(inputs, Inputs)
    return inputs.model_files


async def test_the_published_model_of_one_job_is_the_base_of_the_next(
    halved: Path, database: Database, store: ObjectStore, tmp_path: Path
) -> None:
    made = await publish(store, halved, tmp_path)
    files = await links(database, store, made)
    assert {file.name: file.sha256 for file in files} == {f.name: f.sha256 for f in made.files}
    source = ModelSource(kind="s3", location=made.prefix)
    async with aiohttp.ClientSession() as http:
        folder = await resolve(
            source, files, http=http, models_dir=tmp_path, cache=tmp_path / "cache"
        )
    mine = {path.name for path in folder.iterdir()}
    assert mine == {path.name for path in (halved / "model").iterdir()} - {"README.md"}
    assert train(contract_spec(folder, tmp_path / "next")) == 0
    assert result(tmp_path / "next").params_before == result(halved).params_after


async def test_an_adapter_is_no_base_model(store: ObjectStore, tmp_path: Path) -> None:
    names = ("adapter_model.safetensors", "adapter_config.json", "config.json")
    files = tuple(InputFile(name=name, url="http://nowhere") for name in names)
    source = ModelSource(kind="s3", location="jobs/1/1")
    async with aiohttp.ClientSession() as http:
        with pytest.raises(ModelUnavailable, match="name the model that it adapts"):
            await resolve(source, files, http=http, models_dir=tmp_path, cache=tmp_path / "cache")
