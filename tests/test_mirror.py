"""A test lies in a folder called as the one that it is about: of kvgen, or of the repository."""

from __future__ import annotations

from pathlib import Path

from places import ROOT, TESTS

# tests in servers' own environments, by server
ELSE = "engines"


def test_folders_mirror_the_package() -> None:
    folders = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")} - {Path()}
    assert len(folders) > 20
    for folder in folders:
        like = [ROOT / "kvgen" / folder, ROOT / folder]
        assert folder.parts[0] == ELSE or any(path.is_dir() for path in like), folder
