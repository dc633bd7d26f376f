"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from patience import PATIENCE

from kvgen import files


def test_a_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (b"one", b"two"):
        files.write(path, data)
        assert path.read_bytes() == data
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("there", [True, False])
def test_what_a_link_names_is_written(there: bool, tmp_path: Path) -> None:
    real, link = tmp_path / "elsewhere" / "real", tmp_path / "link"
    real.parent.mkdir()
    if there:
        real.write_bytes(b"old")
    link.symlink_to(real)
    files.write(link, b"new")
    assert link.is_symlink() and real.read_bytes() == b"new"


def test_what_is_no_file_is_written_into(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    files.write(pipe, b"through")
    reader.join(PATIENCE)
    assert found == [b"through"] and pipe.is_fifo()


def test_standard_output_is_written_into_where_it_is_a_pipe() -> None:
    """/dev/stdout is then a link to what has no path."""
    code = "import pathlib, kvgen.files as f; f.write(pathlib.Path('/dev/stdout'), b'text')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (result.stdout, result.stderr) == (b"text", b"")


def test_a_folder_is_none(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        files.write(tmp_path, b"")


def test_a_pipe_that_nobody_reads_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PATIENCE", 0.01)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="nobody reads from this pipe"):
        files.write(tmp_path / "pipe", b"lost")


def test_a_link_that_ends_nowhere(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        files.write(loop, b"lost")
    assert loop.is_symlink()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("/dev/zero", "it is a device"),
        ("folder", "it is a folder"),
        ("pipe", "it is a pipe"),
        ("loop", "it is a link that ends nowhere"),
        ("huge", "it is longer than 64 MiB"),
    ],
)
def test_only_files_are_read(name: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(files.NotPlainError, match=says):
        files.read(tmp_path / name)
    (tmp_path / "link").symlink_to("file")
    files.write(tmp_path / "file", b"data")
    assert files.read(tmp_path / "link") == b"data"
