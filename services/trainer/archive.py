"""Archives that depend on their content alone: the same files give the same bytes."""

import gzip
import tarfile
from pathlib import Path, PurePosixPath

ARCHIVE = "artifacts.tar.gz"
RESULT = "result.json"
ADAPTER = "adapter_model.safetensors"
MODEL, MERGED = "model", "merged"
"""The folders of a run that are its result: the model, and beside an adapter the whole one that it
makes of its base, where that was asked for."""
GZIP_LEVEL = 1  # nearly all of it is weights, which do not compress

CONFIGS = frozenset({"config.json", "adapter_config.json", "generation_config.json"})
TOKENIZER_PARTS = ("tokenizer", "special_tokens_map", "added_tokens", "chat_template", "vocab")
TOKENIZERS = frozenset({"merges.txt"})


def role_of(name: str) -> str:
    """What a file of a result is for, by its name."""
    path = PurePosixPath(name.removeprefix(f"{MERGED}-"))
    if path.name == ADAPTER:
        return "adapter"
    if path.match("model*.safetensors"):
        return "model"
    if path.name in CONFIGS:
        return "config"
    if path.name.startswith(TOKENIZER_PARTS) or path.name in TOKENIZERS:
        return "tokenizer"
    return "metadata"


def files_in(folder: Path) -> list[Path]:
    """Every regular file under a folder, in the order of their names."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def result_files(out_dir: Path) -> list[Path]:
    """What is offered one by one beside the archive: the models' own files, and the result."""
    models = [
        path for folder in (MODEL, MERGED) for path in sorted((out_dir / folder).glob("[!.]*"))
    ]
    return [path for path in [*models, out_dir / RESULT] if path.is_file()]


def stored_name(path: Path) -> str:
    """A result's files lie in one folder of the store, where those of the merged model must not
    take the others' names."""
    return f"{MERGED}-{path.name}" if path.parent.name == MERGED else path.name


def pack(folder: Path, target: Path) -> None:
    """A tar of a folder's files, by their names inside it."""
    with tarfile.open(target, "w") as tar:
        for path in files_in(folder):
            tar.add(path, arcname=path.relative_to(folder).as_posix(), filter=_anonymous)


def pack_result(out_dir: Path, target: Path) -> None:
    """The archive that the customer downloads: ``model/``, ``merged/`` if there is one,
    ``result.json``."""
    with (
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", GZIP_LEVEL, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        models = [*files_in(out_dir / MODEL), *files_in(out_dir / MERGED)]
        for path in [*models, out_dir / RESULT]:
            tar.add(path, arcname=path.relative_to(out_dir).as_posix(), filter=_anonymous)


def unpack(archive: Path, target: Path) -> None:
    """Extract a tar. Raises tarfile.TarError on anything but plain files below ``target``."""
    with tarfile.open(archive, "r:") as tar:
        tar.extractall(target, filter="data")


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.mtime = 0
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mode = 0o644
    return info
