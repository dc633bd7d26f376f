"""What is built: a wheel that runs from anywhere, and an sdist that a wheel can be built from."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from places import ROOT


def build(folder: Path, target: str, out: Path) -> Path:
    """Build without isolation, so that nothing is downloaded."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(out)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return next(out.glob("*.whl" if target == "wheel" else "*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_wheel_holds_everything(wheel: Path) -> None:
    held = names(wheel)
    data = [*ROOT.glob("templates/**/*"), *ROOT.glob("tuned/**/*")]
    package = [path for path in ROOT.glob("kvgen/**/*") if "__pycache__" not in path.parts]
    wanted = {f"kvgen/{path.relative_to(ROOT)}" for path in data if path.is_file()}
    wanted |= {str(path.relative_to(ROOT)) for path in package if path.is_file()}
    wanted |= {"kvgen/cli.py", "kvgen/templates/MANIFEST", "kvgen/tuned/MANIFEST"}
    assert wanted <= held
    assert {name.split("/")[0].split("-")[0] for name in held} == {"kvgen"}


def test_wheel_from_sdist_is_the_same(wheel: Path, tmp_path: Path) -> None:
    sdist = build(ROOT, "sdist", tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    folder = next(path for path in tmp_path.glob("kvgen-*") if path.is_dir())
    assert names(build(folder, "wheel", tmp_path / "wheel")) == names(wheel)


def test_installed_wheel_runs_from_anywhere(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*install, "--target", str(site), str(wheel)], check=True)
    (tmp_path / "elsewhere").mkdir()

    def run(*args: str) -> str:
        return subprocess.run(
            [sys.executable, *args],
            cwd=tmp_path / "elsewhere",
            # the installed copy, whatever checkout this Python knows of
            env={**os.environ, "PYTHONPATH": str(site)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    shown = run("-m", "kvgen", "list")
    assert [line.split()[0] for line in shown.splitlines()] == sorted(
        path.stem for path in ROOT.glob("kvgen/specs/*.yaml")
    )
    assert (site / "bin" / "kvgen").is_file()
    where = (
        "import kvgen.data as d; print(d.__file__, d.data_dir('templates'), d.data_dir('tuned'))"
    )
    assert run("-c", where).split() == [
        str(site / "kvgen" / name) for name in ("data.py", "templates", "tuned")
    ]
    assert "MANIFEST" in [path.name for path in (site / "kvgen" / "templates").iterdir()]


def test_installed_wheel_compiles(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    (tmp_path / "elsewhere").mkdir()
    result = subprocess.run(
        [sys.executable, "-m", "kvgen", "compile", "gated_deltanet"],
        cwd=tmp_path / "elsewhere",
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["gated_deltanet.py"]


def test_data_dir_takes_no_strangers_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kvgen import data

    (tmp_path / "kvgen").mkdir()
    (tmp_path / "templates").mkdir()
    monkeypatch.setattr(data, "__file__", str(tmp_path / "kvgen" / "data.py"))
    with pytest.raises(FileNotFoundError, match="'templates'"):
        data.data_dir("templates")


def test_the_changelog_knows_the_version() -> None:
    import kvgen

    assert f"## {kvgen.__version__}" in (ROOT / "CHANGELOG.md").read_text()
