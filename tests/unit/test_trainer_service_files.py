"""The files between training and the service: read while they grow, packed the same every time."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from libs.contracts.training import MetricPoint
from services.trainer.archive import (
    pack,
    pack_result,
    result_files,
    role_of,
    stored_name,
    unpack,
)
from services.trainer.run_folder import RunFolder
from services.trainer.tail import LARGEST_READ, Piece, Tail
from services.trainer.telemetry import LINES_PER_ATTEMPT, LONGEST_LINE, lines_in, points_in
from tests.support.jobs import NOON


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_a_file_that_is_not_there_yet_has_no_lines(tmp_path: Path) -> None:
    assert Tail(tmp_path / "log.txt").read() is None


def test_a_line_is_read_once_it_is_complete_and_only_once(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    tail = Tail(path)
    append(path, b"one\ntw")
    assert tail.read() == Piece((b"one",), offset=0, before=0)
    assert tail.read() is None
    append(path, b"o\n\nfour\n")
    assert tail.read() == Piece((b"two", b"", b"four"), offset=4, before=1)
    assert tail.read() is None


def test_a_file_larger_than_one_read_arrives_whole_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    lines = tuple(f"line {number}".encode() for number in range(100_000))
    append(path, b"".join(line + b"\n" for line in lines))
    tail = Tail(path)
    pieces = list(iter(tail.read, None))
    assert len(pieces) > 1
    assert tuple(line for piece in pieces for line in piece.lines) == lines
    assert [piece.before for piece in pieces][1] == len(pieces[0].lines)


def test_a_line_without_end_does_not_stop_what_follows(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    append(path, b"x" * (LARGEST_READ + 5) + b"\nnext\n")
    tail = Tail(path)
    pieces = list(iter(tail.read, None))
    assert [line for piece in pieces for line in piece.lines] == [
        b"x" * LARGEST_READ,
        b"xxxxx",
        b"next",
    ]


def test_lines_are_numbered_over_all_attempts() -> None:
    later = lines_in(Piece((b"a", b"b"), offset=10, before=7), 3, NOON)
    assert [line.seq for line in later] == [2 * LINES_PER_ATTEMPT + 8, 2 * LINES_PER_ATTEMPT + 9]


def test_a_line_holds_only_what_postgresql_can_store() -> None:
    (line,) = lines_in(Piece((b"a\0b\xff\xed\xa0\x80" + b"x" * 9000,), offset=0, before=0), 1, NOON)
    assert "\0" not in line.text
    assert line.text.encode().decode() == line.text
    assert len(line.text) == LONGEST_LINE


def test_a_metric_that_is_no_number_is_passed_over() -> None:
    good = (
        b'{"ts":"2026-03-19T12:00:00Z","step":1,"cycle":0,"phase":"train","loss":2.5,"lr":0.1,'
        b'"throughput":1,"vram_gb":0,"grad_norm":1}'
    )
    bad = good.replace(b"2.5", b"null")
    points = points_in(Piece((bad, good), offset=0, before=0))
    assert [type(point) for point in points] == [MetricPoint]


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("adapter_model.safetensors", "adapter"),
        ("model.safetensors", "model"),
        ("model-00001-of-00002.safetensors", "model"),
        ("adapter_config.json", "config"),
        ("config.json", "config"),
        ("generation_config.json", "config"),
        ("tokenizer.json", "tokenizer"),
        ("tokenizer_config.json", "tokenizer"),
        ("special_tokens_map.json", "tokenizer"),
        ("chat_template.jinja", "tokenizer"),
        ("model.safetensors.index.json", "metadata"),
        ("README.md", "metadata"),
        ("result.json", "metadata"),
    ],
)
def test_a_files_role_follows_from_its_name(name: str, role: str) -> None:
    assert role_of(name) == role


def a_run(folder: Path, *, mtime: int) -> Path:
    (folder / "model").mkdir(parents=True)
    for name in ("model/b.json", "model/a.safetensors", "model/.hidden", "result.json"):
        (folder / name).write_text(name)
        os.utime(folder / name, (mtime, mtime))
        (folder / name).chmod(0o600 if mtime else 0o644)
    return folder


def test_the_same_files_make_the_same_archive_whenever_it_is_made(tmp_path: Path) -> None:
    for number, mtime in ((1, 0), (2, 1_700_000_000)):
        run = a_run(tmp_path / f"run-{number}", mtime=mtime)
        pack(run, tmp_path / f"{number}.tar")
        pack_result(run, tmp_path / f"{number}.tar.gz")
    for suffix in ("tar", "tar.gz"):
        assert (tmp_path / f"1.{suffix}").read_bytes() == (tmp_path / f"2.{suffix}").read_bytes()


def test_hidden_files_are_not_part_of_a_result(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", mtime=0)
    assert [path.name for path in result_files(run)] == ["a.safetensors", "b.json", "result.json"]


def test_a_merged_model_lies_beside_the_adapter_under_names_of_its_own(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", mtime=0)
    (run / "merged").mkdir()
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        (run / "merged" / name).write_text(name)

    names = {stored_name(path): role_of(stored_name(path)) for path in result_files(run)}
    assert names == {
        "a.safetensors": "metadata",
        "b.json": "metadata",
        "merged-model.safetensors": "model",
        "merged-config.json": "config",
        "merged-tokenizer.json": "tokenizer",
        "result.json": "metadata",
    }
    pack_result(run, tmp_path / "whole.tar.gz")
    with tarfile.open(tmp_path / "whole.tar.gz") as tar:
        assert "merged/model.safetensors" in tar.getnames()


def test_an_archive_unpacks_to_what_was_packed(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", mtime=0)
    pack(run, tmp_path / "run.tar")
    unpack(tmp_path / "run.tar", tmp_path / "again")
    assert (tmp_path / "again" / "model" / "b.json").read_text() == "model/b.json"


def test_an_archive_that_would_write_elsewhere_is_refused(tmp_path: Path) -> None:
    evil = tmp_path / "evil.tar"
    with tarfile.open(evil, "w") as tar:
        tar.addfile(tarfile.TarInfo("../escaped"), io.BytesIO())
    with pytest.raises(tarfile.TarError):
        unpack(evil, tmp_path / "target")
    assert not (tmp_path / "escaped").exists()


def test_a_checkpoints_copy_outlives_it(tmp_path: Path) -> None:
    for step in (9, 10):
        folder = tmp_path / "checkpoints" / f"step-{step}"
        folder.mkdir(parents=True)
        (folder / "progress.json").write_text(f'{{"tokens_processed": {step}}}')
    newest = RunFolder(tmp_path).newest_checkpoint()
    assert newest is not None
    assert newest.step == 10
    copy = newest.snapshot(tmp_path / "copy")
    (newest.path / "progress.json").unlink()
    assert copy.tokens_processed() == 10
