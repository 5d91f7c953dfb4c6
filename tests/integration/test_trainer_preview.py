"""Previews by the trainer's own process, over NATS and S3, while it trains."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from faststream.nats import NatsBroker

from libs.bus.broker import make_broker
from libs.bus.rpc import ask
from libs.contracts.artifact_rpc import InputFile
from libs.contracts.base import ModelSource
from libs.contracts.trainer import Finished
from libs.contracts.trainer_rpc import PREVIEW, GetPreview, NextRows, Preview, PreviewRefused
from libs.objectstore import ObjectStore
from services.trainer.documents import load_documents, prepare_tokenizer
from services.trainer.loading import load_tokenizer
from services.trainer.preview import ENOUGH_BYTES, read_lines
from tests.support.scripted_platform import ScriptedPlatform, eventually
from tests.support.stack import Nats
from tests.support.trainer_process import Trainer
from tests.support.training import chats, write_rows

LINK = timedelta(minutes=5)
PATIENCE = 180.0  # seconds: the stand-in's fork server has no tokenizers imported
TINY = ModelSource(kind="local", location="tiny-llama")


@pytest.fixture(scope="module")
async def trainer(
    tmp_path_factory: pytest.TempPathFactory,
    nats_server: Nats,
    platform: ScriptedPlatform,
    tiny_model: Path,
) -> AsyncIterator[Trainer]:
    running = Trainer(tmp_path_factory.mktemp("trainer"), nats_server.url("trainer"))
    await asyncio.to_thread(shutil.copytree, tiny_model, running.models / "tiny-llama")
    await eventually(lambda: platform.asked)
    yield running
    running.end()


@pytest.fixture
async def gateway(nats_server: Nats) -> AsyncIterator[NatsBroker]:
    """Asks as the gateway does, with its permissions."""
    broker = make_broker(nats_server.url("gateway"))
    await broker.start()
    yield broker
    await broker.stop()


async def question(store: ObjectStore, rows: bytes, **changes: Any) -> GetPreview:
    key = f"datasets/{uuid4()}.jsonl"
    await store.put(key, rows)
    fields: dict[str, Any] = {
        "source": TINY,
        "files": (),
        "dataset_url": await store.presign_get(key, LINK),
        "kind": "messages",
        "offset": 0,
        "line": 1,
        "limit": 3,
        "seq_len": 64,
    }
    return GetPreview(**(fields | changes))


async def test_a_trainer_previews_while_it_trains_and_finishes_all_the_same(
    platform: ScriptedPlatform,
    trainer: Trainer,
    gateway: NatsBroker,
    store: ObjectStore,
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    path = write_rows(tmp_path / "rows.jsonl", chats()[:5])
    tokenizer = load_tokenizer(tiny_model)
    prepare_tokenizer(tokenizer)
    trained = load_documents(path, tokenizer, 64).rows
    lease = await platform.offer("slow", steps=100)
    await eventually(
        lambda: [beat for beat in platform.beats if beat.job_id == lease.job_id and beat.step]
    )

    seen: list[Any] = []
    place = NextRows(0, 1)
    while place:
        asked = await question(store, path.read_bytes(), offset=place.offset, line=place.line)
        found = await ask(gateway, PREVIEW, asked, deadline=PATIENCE, patience=PATIENCE)
        assert isinstance(found, Preview)
        assert len(found.rows) <= 3
        seen += found.rows
        place = found.following

    assert [row.line for row in seen] == list(range(1, 6))
    for row, document in zip(seen, trained, strict=True):
        assert [token.id for token in row.tokens] == document.tokens.tolist()
        assert [token.trained for token in row.tokens][1:] == document.labels[1:].tolist()
    last = (await platform.until(lease, "Finished"))[-1]
    assert isinstance(last, Finished)
    assert last.result.steps == 100


async def test_a_tokenizer_in_the_object_store_is_fetched_without_the_weights(
    trainer: Trainer, gateway: NatsBroker, store: ObjectStore, tiny_model: Path
) -> None:
    source = ModelSource(kind="s3", location=f"jobs/{uuid4()}/1")
    files = []
    for path in sorted(await asyncio.to_thread(tiny_model.glob, "*.*")):
        data = path.read_bytes()
        await store.put(source.prefix + path.name, data)
        url = await store.presign_get(source.prefix + path.name, LINK)
        files.append(InputFile(name=path.name, url=url))
    rows = b'{"text": "a lamp"}\n'
    asked = await question(store, rows, source=source, files=tuple(files), kind="text")

    found = await ask(gateway, PREVIEW, asked, deadline=PATIENCE, patience=PATIENCE)

    assert isinstance(found, Preview)
    assert found.rows[0].trained_count > 0
    assert found.following is None
    kept = {path.name for path in (trainer.work / "models" / "tokenizers").rglob("*.*")}
    assert "tokenizer.json" in kept
    assert not [name for name in kept if name.endswith(".safetensors")]


async def test_a_model_that_the_trainer_lacks_is_refused_with_a_reason(
    trainer: Trainer, gateway: NatsBroker, store: ObjectStore
) -> None:
    missing = ModelSource(kind="local", location="not-here")
    asked = await question(store, b'{"text": "a"}\n', source=missing, kind="text")
    found = await ask(gateway, PREVIEW, asked, deadline=PATIENCE, patience=PATIENCE)
    assert isinstance(found, PreviewRefused)
    assert "models directory" in found.reason


async def test_only_the_lines_that_are_needed_are_read(store: ObjectStore) -> None:
    rows = b"".join(b'{"text": "%06d"}\r\n\n' % n for n in range(200_000))
    async with aiohttp.ClientSession() as http:
        asked = await question(store, rows)
        lines, ended = await read_lines(http, asked)
        assert ([line.number for line in lines], ended) == ([1, 3, 5], False)
        assert rows[: lines[-1].end].endswith(b'000002"}\r\n')

        end = len(rows) - 2 * 20
        tail = await question(store, rows, offset=end, line=7)
        lines, ended = await read_lines(http, tail)
        assert ([line.number for line in lines], ended) == ([7, 9], True)
        at_end = await question(store, rows, offset=len(rows), line=9)
        assert await read_lines(http, at_end) == ((), True)


async def test_a_line_without_an_end_and_one_that_is_too_long_come_alone(
    store: ObjectStore,
) -> None:
    large = b'{"text": "' + b"a" * ENOUGH_BYTES + b'"}'
    async with aiohttp.ClientSession() as http:
        lines, ended = await read_lines(http, await question(store, large + b"\n" + large))
        assert (len(lines), ended) == (1, False)
        rest = await question(store, large + b"\n" + large, offset=lines[0].end, line=2)
        lines, ended = await read_lines(http, rest)
        assert ([line.text for line in lines], ended) == ([large], True)
