"""Golden files: `assert golden("help/list.txt") == text`, rewritten by pytest --update-golden."""

from __future__ import annotations

import atexit
import difflib
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest
from made_up import BANDWIDTH
from places import TESTS

GOLDEN = TESTS / "golden"


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


# whatever else runs on the machine: how long an example takes, or is drawn for, says nothing
hypothesis.settings.register_profile(
    "kvgen", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("kvgen")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite the golden files that differ"
    )


def pytest_configure(config: pytest.Config) -> None:
    _keep_to_a_folder()
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


# what holds until the last test has run
LASTING = ExitStack()


def pytest_runtest_setup() -> None:
    _want_bools_for_masks()
    if "triton.runtime.interpreter" in sys.modules:
        _patch_once()


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """What a file's tests have left is not looked at again and again while the next ones run."""
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        gc.freeze()


def pytest_unconfigure() -> None:
    LASTING.close()


@cache
def _patch_once() -> None:
    """Run kernels in Triton's interpreter as `kvgen check` does, without what only costs time."""
    from kvgen.checking.quick import quick

    LASTING.enter_context(quick())


def _want_bools_for_masks() -> None:
    """Let Triton's interpreter refuse masks that are numbers, as it does by itself from 3.9 on."""
    interpreter: Any = sys.modules.get("triton.runtime.interpreter")
    builder = getattr(interpreter, "InterpreterBuilder", None)
    if builder is None or hasattr(builder, "wants_bools"):
        return
    builder.wants_bools = True
    load, store = builder.create_masked_load, builder.create_masked_store

    def of_bools(mask: Any) -> None:
        if mask.data.dtype != bool:
            raise TypeError(f"a mask of {mask.data.dtype}, expected bool")

    def masked_load(self: Any, ptrs: Any, mask: Any, *rest: Any) -> Any:
        of_bools(mask)
        return load(self, ptrs, mask, *rest)

    def masked_store(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any) -> Any:
        of_bools(mask)
        return store(self, ptrs, value, mask, *rest)

    builder.create_masked_load, builder.create_masked_store = masked_load, masked_store


def _keep_to_a_folder() -> None:
    """What whoever runs the tests has tuned, or asks of kvgen, must not reach them; what they leave
    behind goes when they end."""
    folder = tempfile.mkdtemp(prefix="tests-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["KVGEN_WISDOM"] = f"{folder}/wisdom"
    os.environ["KVGEN_CACHE_DIR"] = f"{folder}/cache"
    os.environ["XDG_DATA_HOME"] = f"{folder}/data"
    os.environ.pop("KVGEN_REQUIRE_TUNED", None)
    # Hypothesis reads every module that is imported, to draw its constants, but for those that lie
    # in a folder of this name; of generated modules there are hundreds, of thousands of lines
    temporary = Path(folder) / "tests"
    temporary.mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)


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


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that results go to, in a store in which nothing ships."""
    monkeypatch.setenv("KVGEN_WISDOM", str(tmp_path / "wisdom"))
    monkeypatch.setattr("kvgen.wisdom.store.data_dir", lambda name: tmp_path / "shipped")
    monkeypatch.setattr("kvgen.wisdom.store.triton_version", lambda: "3.6.1")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "wisdom"


@pytest.fixture
def rounded() -> Iterator[None]:
    """Casts in the interpreter that round as those of GPUs."""
    from kvgen.checking.interpreter import rounding

    with rounding():
        yield


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[str]]:
    """The names of the kernels that a twin's module launches from here on."""

    def listen(pair: Any) -> list[str]:
        names: list[str] = []
        launch = pair.module.launch

        def heard(cache: Any, kernel: str, *args: Any, **options: Any) -> None:
            names.append(kernel)
            launch(cache, kernel, *args, **options)

        monkeypatch.setattr(pair.module, "launch", heard)
        return names

    return listen


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks in the interpreter: a graph runs once, when it is captured; every time is
    3 ms."""
    import torch

    from kvgen import bench
    from kvgen.timing import clock, drafts, errors, short, steps

    @contextmanager
    def captured(run: Callable[[], object]) -> Iterator[SimpleNamespace]:
        run()
        yield SimpleNamespace(replay=lambda: None, replays=lambda count: None)

    def time_of(run: Callable[[], object]) -> float:
        run()
        return 3e-3

    monkeypatch.setattr(steps, "DEVICE", "cpu")
    monkeypatch.setattr(clock, "captured", captured)
    monkeypatch.setattr(clock, "time_of", time_of)
    monkeypatch.setattr(clock, "copy_bandwidth", lambda: BANDWIDTH)
    monkeypatch.setattr(drafts, "PROMPT", 20)
    monkeypatch.setattr(drafts, "PROMPT_ROWS", 2)
    monkeypatch.setattr(drafts, "REPEATS", 1)
    for module in (bench, drafts, short):
        monkeypatch.setattr(module, "output_error", partial(errors.output_error, tokens=4))
    monkeypatch.setattr(drafts, "verify_error", partial(errors.verify_error, windows=2))
    monkeypatch.setattr(bench, "exact", partial(errors.exact, tokens=4))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1 << 40, 1 << 40))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "made up")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
