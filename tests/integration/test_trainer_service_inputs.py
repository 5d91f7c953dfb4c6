"""Where weights and training code come from, and what is said when they are not there."""

import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
from msgspec.structs import replace

from libs.contracts.artifact_rpc import InputFile
from libs.contracts.base import ModelSource
from libs.objectstore import ObjectStore
from services.trainer.base_model import ModelUnavailable, resolve, resolve_adapter
from services.trainer.launch import PreloadFailed
from services.trainer.launch_forked import ForkServerLauncher
from services.trainer.transfer import TransferFailed, download
from tests.support.scripted_platform import local_model


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def stored(store: ObjectStore, name: str, data: bytes) -> InputFile:
    await store.put(f"models/tiny/{name}", data)
    url = await store.presign_get(f"models/tiny/{name}", timedelta(minutes=1))
    return InputFile(name=name, url=url)


async def test_a_local_model_is_used_where_it_lies(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    local_model(tmp_path)
    source = ModelSource(kind="local", location="tiny-llama")
    found = await resolve(source, (), http=http, models_dir=tmp_path, cache=tmp_path / "cache")
    assert found == tmp_path / "tiny-llama"


@pytest.mark.parametrize("location", ["missing", "../outside", "/etc"])
async def test_nothing_outside_the_models_directory_is_a_model(
    location: str, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    local_model(tmp_path)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "config.json").write_text("{}")
    source = ModelSource(kind="local", location=location)
    with pytest.raises(ModelUnavailable, match="models directory"):
        await resolve(
            source, (), http=http, models_dir=tmp_path / "tiny-llama", cache=tmp_path / "cache"
        )


async def test_a_model_in_the_object_store_is_fetched_once_and_without_pickles(
    tmp_path: Path, http: aiohttp.ClientSession, store: ObjectStore
) -> None:
    source = ModelSource(kind="s3", location="models/tiny", revision="1")
    files = (
        await stored(store, "config.json", b"{}"),
        await stored(store, "model.safetensors", b"weights"),
        await stored(store, "pytorch_model.bin", b"pickle"),
        await stored(store, "deeper/config.json", b"not this one"),
    )
    places = {"http": http, "models_dir": tmp_path, "cache": tmp_path / "cache"}
    folder = await resolve(source, files, **places)  # type: ignore[arg-type]
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    await store.delete("models/tiny/model.safetensors")
    again = await resolve(source, files, **places)  # type: ignore[arg-type]
    assert (again / "model.safetensors").read_bytes() == b"weights"


async def test_a_prefix_without_safetensors_is_no_model(
    tmp_path: Path, http: aiohttp.ClientSession, store: ObjectStore
) -> None:
    source = ModelSource(kind="s3", location="models/tiny")
    files = (await stored(store, "pytorch_model.bin", b"pickle"),)
    with pytest.raises(ModelUnavailable, match="no safetensors"):
        await resolve(source, files, http=http, models_dir=tmp_path, cache=tmp_path)


async def test_an_adapter_is_fetched_alone_and_only_as_what_was_verified(
    tmp_path: Path, http: aiohttp.ClientSession, store: ObjectStore
) -> None:
    source = ModelSource(kind="s3", location="jobs/1/1")
    weights = await stored(store, "adapter_model.safetensors", b"adapter")
    config = await stored(store, "adapter_config.json", b"{}")
    files = (weights, config, await stored(store, "merged-model.safetensors", b"whole"))

    forged = tuple(replace(file, sha256="0" * 64) for file in files)
    with pytest.raises(TransferFailed, match="SHA-256"):
        await resolve_adapter(source, forged, http=http, cache=tmp_path)
    known = (replace(weights, sha256=hashlib.sha256(b"adapter").hexdigest()), *files[1:])
    folder = await resolve_adapter(source, known, http=http, cache=tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    with pytest.raises(ModelUnavailable, match=r"lacks adapter_config\.json"):
        await resolve_adapter(source, (weights,), http=http, cache=tmp_path)


async def test_a_hub_model_needs_a_pinned_revision(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    source = ModelSource(kind="hub", location="some/model")
    with pytest.raises(ModelUnavailable, match="pinned revision"):
        await resolve(source, (), http=http, models_dir=tmp_path, cache=tmp_path)


async def test_a_failed_download_leaves_nothing_and_names_no_url(
    tmp_path: Path, http: aiohttp.ClientSession, store: ObjectStore
) -> None:
    gone = await store.presign_get("models/no-such-object", timedelta(minutes=1))
    with pytest.raises(TransferFailed, match="404") as failed:
        await download(http, gone, tmp_path / "dataset.jsonl")
    assert "http" not in str(failed.value)
    there = await stored(store, "config.json", b"{}")
    with pytest.raises(TransferFailed, match="SHA-256"):
        await download(http, there.url, tmp_path / "dataset.jsonl", sha256="0" * 64)
    assert not (tmp_path / "dataset.jsonl").exists()


async def test_training_code_that_cannot_be_imported_stops_the_service_with_a_reason() -> None:
    with pytest.raises(PreloadFailed, match=r"uv sync --extra trainer"):
        await ForkServerLauncher("a:b", "tests.support.no_such_module").warm_up()
