"""Golden files: `assert golden("help/list.txt") == text`, rewritten by pytest --update-golden."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"


class Golden(str):
    """The text of a golden file, which explains itself when a text differs from it."""

    __slots__ = ("path", "update")
    path: Path
    update: bool

    def __eq__(self, actual: object) -> bool:
        if not isinstance(actual, str):
            return NotImplemented
        if str.__eq__(self, actual):
            return True
        if self.update:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(actual, encoding="utf-8")
            return True
        diff = difflib.unified_diff(
            self.splitlines(), actual.splitlines(), str(self.path), "now", lineterm=""
        )
        pytest.fail(
            "\n".join(diff)
            + "\n\nif this change is intended: pytest --update-golden, then review the diff",
            pytrace=False,
        )

    def __ne__(self, actual: object) -> bool:
        return not self == actual

    __hash__ = str.__hash__


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite the golden files that differ"
    )


def pytest_configure(config: pytest.Config) -> None:
    # before any test module is imported: triton reads this when it is imported
    if _wants_gpu(config):
        os.environ.pop("TRITON_INTERPRET", None)
    else:
        os.environ["TRITON_INTERPRET"] = "1"
        # the interpreter's own
        ignored = "ignore:Conversion of an array with ndim > 0:DeprecationWarning"
        config.addinivalue_line("filterwarnings", ignored)
    if config.getoption("--update-golden") and os.environ.get("CI"):
        raise pytest.UsageError("--update-golden is for people, who review what it changes")


def _wants_gpu(config: pytest.Config) -> bool:
    """Whether -m asks for the tests that need a GPU; the kernels of a run are either compiled for
    it or interpreted, all of them."""
    words = config.getoption("markexpr").replace("(", " ").replace(")", " ").split()
    return any(
        word == "gpu" and before != "not" for before, word in zip(["", *words], words, strict=False)
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str], Golden]:
    def read(name: str) -> Golden:
        path = GOLDEN / name
        text = Golden(path.read_text(encoding="utf-8") if path.is_file() else "")
        text.path = path
        text.update = request.config.getoption("--update-golden")
        return text

    return read
