"""The folder that a base model's weights are in, wherever the catalogue says they come from."""

import asyncio
import hashlib
from pathlib import Path

import aiohttp
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    FileMetadataError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)

from libs.contracts.artifact_rpc import InputFile
from libs.contracts.base import ModelSource
from services.trainer.archive import ADAPTER, RESULT
from services.trainer.transfer import TransferFailed, download

# Weights as safetensors alone: a pickle runs code when it is opened.
MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model")


TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "vocab*",
    "merges.txt",
    "config.json",
)
"""What turns text into tokens; the config names the kind of tokenizer where nothing else does."""

ADAPTER_FILES = (ADAPTER, "adapter_config.json")
"""What peft loads."""


BUSY = (408, 429)  # a hub that says so may have time later

REFUSALS = (OfflineModeIsEnabled, FileMetadataError, ValueError)
"""The hub's client's own: it may ask nobody, what answers is no hub, no model has such a name."""


class ModelUnavailable(Exception):
    """The weights can't be had here; the text says why."""


async def resolve(
    source: ModelSource,
    files: tuple[InputFile, ...],
    *,
    http: aiohttp.ClientSession,
    models_dir: Path,
    cache: Path,
) -> Path:
    """A folder that holds the model. ``files`` are links to the objects of an S3 prefix.

    What comes over the network is kept in ``cache`` for the jobs after this one.
    Raises ModelUnavailable, and over the network what `download` raises.
    """
    match source.kind:
        case "local":
            return _local(models_dir, source.location)
        case "s3":
            return await _from_links(files, http, cache / "s3" / _name(source))
        case "hub":
            return await asyncio.to_thread(_from_hub, source, cache / "hub")


def _local(models_dir: Path, location: str) -> Path:
    root = models_dir.resolve()
    folder = (root / location).resolve()
    if not folder.is_relative_to(root) or not (folder / "config.json").is_file():
        raise ModelUnavailable(
            f"there is no model {location!r} in this trainer's models directory: put it there, "
            "or correct its source in catalog.toml"
        )
    return folder


def _name(source: ModelSource) -> str:
    return hashlib.sha256(f"{source.location}@{source.revision}".encode()).hexdigest()[:32]


async def _from_links(
    files: tuple[InputFile, ...], http: aiohttp.ClientSession, folder: Path
) -> Path:
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    wanted = [file for file in files if is_part_of_model(file.name)]
    weights = [file.name for file in wanted if file.name.endswith(".safetensors")]
    if not weights:
        raise ModelUnavailable("the model's prefix in the object store holds no safetensors files")
    if ADAPTER in weights:
        raise ModelUnavailable(
            "the model's prefix in the object store holds an adapter, which is no model by itself; "
            "name the model that it adapts"
        )
    for file in wanted:
        await download(http, file.url, folder / file.name, sha256=file.sha256)
    return folder


async def resolve_tokenizer(
    source: ModelSource,
    files: tuple[InputFile, ...],
    *,
    http: aiohttp.ClientSession,
    models_dir: Path,
    cache: Path,
) -> Path:
    """A folder that holds the model's tokenizer, and not its weights unless they are here anyway.

    Raises ModelUnavailable, and over the network what `download` raises.
    """
    match source.kind:
        case "local":
            return _local(models_dir, source.location)
        case "s3":
            folder = cache / "tokenizers" / _name(source)
            await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
            for file in files:
                if is_part_of_tokenizer(file.name):
                    await download(http, file.url, folder / file.name, sha256=file.sha256)
            return folder
        case "hub":
            return await asyncio.to_thread(_from_hub, source, cache / "hub", TOKENIZER_FILES)


def is_part_of_tokenizer(name: str) -> bool:
    flat = Path(name).name == name
    return flat and any(Path(name).match(glob) for glob in TOKENIZER_FILES)


async def resolve_adapter(
    source: ModelSource,
    files: tuple[InputFile, ...],
    *,
    http: aiohttp.ClientSession,
    cache: Path,
) -> Path:
    """A folder that holds an adapter in peft's format. Raises ModelUnavailable, and what `download`
    raises."""
    wanted = {file.name: file for file in files if file.name in ADAPTER_FILES}
    if missing := [name for name in ADAPTER_FILES if name not in wanted]:
        raise ModelUnavailable(
            f"the adapter to begin with lacks {missing[0]}: name the model that it adapts, or make"
            " the adapter anew"
        )
    folder = cache / "adapters" / _name(source)
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    for file in wanted.values():
        await download(http, file.url, folder / file.name, sha256=file.sha256)
    return folder


def is_part_of_model(name: str) -> bool:
    """By the name of an object below the model's prefix. A job's folder, say, also holds its
    archive, its checkpoints and its result."""
    # A name from a listing is not a path: what lies deeper is no part of the model.
    flat = Path(name).name == name
    return flat and name != RESULT and any(Path(name).match(glob) for glob in MODEL_FILES)


def _from_hub(source: ModelSource, cache: Path, files: tuple[str, ...] = MODEL_FILES) -> Path:
    if source.revision is None:
        raise ModelUnavailable(
            f"{source.location} has no pinned revision in catalog.toml; add the commit to use"
        )
    try:
        return Path(
            snapshot_download(
                source.location,
                revision=source.revision,
                allow_patterns=list(files),
                cache_dir=cache,
            )
        )
    except Exception as error:  # the hub's client raises many unrelated families
        said = f"{source.location} could not be downloaded from the Hugging Face hub: {error}"
        if _may_pass(error):
            raise TransferFailed(said) from error
        raise ModelUnavailable(said) from error


def _may_pass(error: Exception) -> bool:
    """Whether the hub was away, had no time or broke off, rather than that it said no. Connections
    end in too many ways to name them: what is no refusal is one. While the hub is away its client
    looks on the disk, and says what it lacks there because of what went wrong with the hub."""
    cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else error
    if isinstance(cause, HfHubHTTPError):
        return cause.response.status_code in BUSY or cause.response.status_code >= 500
    return cause is not None and not isinstance(cause, REFUSALS)
