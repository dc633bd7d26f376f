"""Tests of SGLang's plug-in, in an environment of their own: make test-engines ENGINE=sglang."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
THERE = find_spec("sglang") is not None
collect_ignore_glob = [] if THERE else ["test_*.py"]

if THERE:
    os.environ["TRITON_INTERPRET"] = "1"
    sys.path.insert(0, str(HERE))
    import sglang_absent

    sglang_absent.install()
    from triton.runtime.interpreter import InterpreterBuilder

    # SGLang's kernels have numbers for masks, which our own tests refuse
    InterpreterBuilder.wants_bools = True  # pyright: ignore[reportAttributeAccessIssue]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.engine)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("KVGEN_CACHE_DIR", str(folder))
