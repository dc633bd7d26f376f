"""The store: tiers, folders, and files that are broken, foreign, newer, read-only, contested."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import warnings
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE
from places import ROOT
from tuned_records import H100, H200, key, record, store

from kvgen.data import data_dir
from kvgen.wisdom import folder as folders
from kvgen.wisdom import lock
from kvgen.wisdom.document import text_of
from kvgen.wisdom.folder import Folder, WisdomWarning, slug
from kvgen.wisdom.places import cache_folder
from kvgen.wisdom.record import Record
from kvgen.wisdom.store import Store

NAME = "nvidia-h100-80gb-hbm3/mine.json"
# tokens that kernels are asked for with, where those are more than one
TOKENS = {"verify": 8}


@pytest.fixture(autouse=True)
def strict() -> Any:
    """A warning that a test does not expect fails it, and none is shown only once."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", WisdomWarning)
        yield


def files(root: Path) -> list[str]:
    found = (path for path in root.rglob("*") if path.is_file() and path.name != ".lock")
    return sorted(str(path.relative_to(root)) for path in found)


# tiers -------------------------------------------------------------------------------------------


def test_exact(tmp_path: Path) -> None:
    known = record()
    added = store(tmp_path).add([known])
    assert (added.folder, str(added.change)) == (tmp_path, "+1 ~0 =0")
    assert files(tmp_path) == [NAME]
    answer = store(tmp_path).find(key())
    assert (answer.tier, answer.record) == ("exact", known)
    assert answer.reason == "exact: full effort, 2026-11-23"


def test_aged(tmp_path: Path) -> None:
    store(tmp_path).add([record()])
    answer = store(tmp_path, triton="3.7.0").find(key())
    assert (answer.tier, answer.record) == ("aged", record()) and answer.is_tuned
    what = "kvgen tune mine.yaml --gpu"
    assert answer.reason == f"aged: tuned with triton 3.6.0, here is 3.7.0 ({what})"
    # a patch of Triton changes nothing, and where none is installed nothing can be said
    for version in ("3.6.9", None):
        assert store(tmp_path, triton=version).find(key()).tier == "exact"


def test_seed(tmp_path: Path) -> None:
    store(tmp_path).add([record(key(batch=1)), record(key(batch=16)), record(key(batch=256))])
    answer = store(tmp_path).find(key(batch=64))
    assert (answer.tier, answer.record) == ("seed", record(key(batch=16)))
    assert not answer.is_tuned and answer.reason.startswith("seed: tuned for batch 16, not 64")


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"gpu": H200}, "on NVIDIA H200"),
        ({"form": "f" * 12}, "another form (ffffffffffff, not 0123456789ab)"),
        ({"dtype": "float16"}, "float16, not bfloat16"),
    ],
)
def test_estimate(other: dict[str, Any], says: str, tmp_path: Path) -> None:
    store(tmp_path).add([record(key(**other))])
    answer = store(tmp_path).find(key())
    assert (answer.tier, answer.record) == ("estimate", None)
    assert answer.reason == f"estimate: nothing tuned on {H100} for this form"
    assert store(tmp_path).near(key()) == [(record(key(**other)), [says])]


def test_another_version_of_the_kernel_is_no_answer(tmp_path: Path) -> None:
    less = {"TILE": 8, "num_warps": 1}
    store(tmp_path).add([replace(record(), config=less)])
    answer = store(tmp_path).find(key())
    assert (answer.tier, answer.record) == ("estimate", None)
    assert "another version of the kernel: tuned over TILE, num_warps, but" in answer.reason
    assert store(tmp_path).find(key(batch=8)).tier == "estimate"
    assert store(tmp_path).table(key().form, key().shape, TOKENS) == {}


def test_the_first_folder_answers_within_a_tier(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    quick = record(us=20.0, effort="quick")
    store(first).add([quick])
    store(second).add([record()])
    assert store(first, second).find(key()).record == quick
    assert store(second, first).find(key()).record == record()
    # but a better tier comes before a better place
    aged = record(us=20.0, env={"triton": "3.5.0"})
    store(tmp_path / "third").add([aged])
    assert store(tmp_path / "third", second).find(key()).record == record()


def test_a_search_that_was_cut_short_takes_no_other_folders_place(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    cut = record(us=900.0, at={"batch": 4, "cut": 1})
    store(first).add([cut])
    answer = store(first, second).find(key())
    assert answer.record == cut and "full effort, cut short" in answer.reason
    store(second).add([record(effort="quick")])
    assert store(first, second).find(key()).record == record(effort="quick")
    table = store(first, second).table(key().form, key().shape, TOKENS)
    assert table[H100]["decode"][4].record == record(effort="quick")


def test_the_table_for_a_module(tmp_path: Path) -> None:
    wide = replace(key().shape, H=8, HV=16)
    known = [
        *(record(key(batch=batch)) for batch in (64, 1, 4)),
        record(key(gpu=H200), env={"triton": "3.5.0"}),
        *(record(key("verify", tokens=tokens)) for tokens in (2, 8, 16)),
        record(key("buffer", 0)),
    ]
    strange = [
        record(key(form="f" * 12, batch=16)),
        record(key(dtype="float32", batch=16)),
        record(replace(key(), shape=wide)),
    ]
    store(tmp_path).add(known + strange)
    table = store(tmp_path).table(key().form, key().shape, TOKENS)
    batches = {gpu: {k: list(each) for k, each in table[gpu].items()} for gpu in table}
    assert batches == {
        H100: {"buffer": [0], "decode": [1, 4, 64], "verify": [4]},
        H200: {"decode": [4]},
    }
    # of several windows the one nearest to what longer chains and trees are timed with
    assert table[H100]["verify"][4].record == record(key("verify", tokens=8))
    assert [table[gpu]["decode"][4].tier for gpu in (H100, H200)] == ["exact", "aged"]


def test_the_default_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    monkeypatch.setenv("KVGEN_WISDOM", f"{a}{os.pathsep}{os.pathsep}{b}")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    found = Store.default()
    roots = [a, b, tmp_path / "data/kvgen/wisdom", data_dir("tuned")]
    assert [each.root for each in found.folders] == roots
    assert [each.ours for each in found.folders] == [True, True, True, False]
    assert found.own.root == a
    monkeypatch.delenv("KVGEN_WISDOM")
    assert Store.default().own.root == roots[2]


def test_nothing_of_the_user_reaches_these_tests() -> None:
    here = Path(os.environ["KVGEN_WISDOM"]).parent
    assert here.name.startswith("tests-")
    places = [each.root for each in Store.default().folders if each.ours] + [cache_folder()]
    assert all(here in place.parents for place in places)


def test_slugs() -> None:
    assert slug(H100) == "nvidia-h100-80gb-hbm3"
    assert slug("../..") == slug("../..") != slug("???")
    assert "/" not in slug("../..") and slug("x" * 300) == "x" * 80


# files that are broken ---------------------------------------------------------------------------


def broken(root: Path, data: bytes) -> Path:
    path = root / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_a_torn_file_is_set_aside_and_nothing_is_lost(tmp_path: Path) -> None:
    known = [record(key(batch=batch)) for batch in (1, 4, 16)]
    torn = text_of(known, "mine").encode()[:-200]
    path = broken(tmp_path, torn)
    with pytest.warns(WisdomWarning) as said:
        answer = store(tmp_path).find(key())
    assert answer.record == record()
    assert len(said) == 1
    text = str(said[0].message)
    assert str(path) in text and "line 4" in text and "kept as mine.json.bad" in text
    assert "2 of its records could be read and stay in use" in text
    assert files(tmp_path) == [NAME, f"{NAME}.bad"]
    assert path.with_name("mine.json.bad").read_bytes() == torn
    # once is enough
    assert store(tmp_path).find(key(batch=16)).tier == "seed"
    # a second accident does not write over what was kept of the first
    broken(tmp_path, b"nonsense")
    with pytest.warns(WisdomWarning, match=r"kept as mine\.json\.bad2; 0 of its records"):
        assert store(tmp_path).find(key()).tier == "estimate"
    assert files(tmp_path) == [f"{NAME}.bad", f"{NAME}.bad2"]


def test_one_bad_record_does_not_take_the_others_along(tmp_path: Path) -> None:
    text = text_of([record(key(batch=batch)) for batch in (1, 4)], "mine")
    broken(tmp_path, text.replace('"TILE": 8', '"TILE": 9', 1).encode())
    with pytest.warns(WisdomWarning, match="record 1: config TILE is 9, expected a power of two"):
        assert store(tmp_path).find(key()).record == record()
    assert (tmp_path / f"{NAME}.bad").read_text() != text
    assert [each.key.shape.B for each in Folder(tmp_path, "").records()] == [4]


def test_a_number_that_is_too_large_for_anything(tmp_path: Path) -> None:
    text = text_of([record(key(batch=batch)) for batch in (1, 4)], "mine")
    broken(tmp_path, text.replace('"floor_us": 6.0', f'"floor_us": {10**400}', 1).encode())
    with pytest.warns(WisdomWarning, match="record 1: floor_us is 1000+, expected a number >= 0"):
        assert store(tmp_path).find(key()).record == record()


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(tmp_path).add([record()])
    listed = Path.iterdir
    for secret in (tmp_path, (tmp_path / NAME).parent):

        def iterdir(path: Path, secret: Path = secret) -> Any:
            if path == secret:
                raise PermissionError(13, "Permission denied", str(path))
            return listed(path)

        monkeypatch.setattr(Path, "iterdir", iterdir)
        with pytest.warns(WisdomWarning, match=f"wisdom in {secret} cannot be read: Permission"):
            assert store(tmp_path).find(key()).tier == "estimate"
    monkeypatch.setattr(Path, "iterdir", listed)
    with pytest.warns(WisdomWarning, match="cannot be read: Not a directory"):
        assert store(tmp_path / NAME).find(key()).tier == "estimate"
    # one that is not there, or below a file, holds nothing yet
    for nowhere in (tmp_path / "nowhere", tmp_path / NAME / "below"):
        assert store(nowhere).find(key()).tier == "estimate"


def test_writing_to_a_broken_file_keeps_it(tmp_path: Path) -> None:
    broken(tmp_path, b"\xff nonsense")
    with pytest.warns(WisdomWarning, match="no UTF-8 text"):
        store(tmp_path).add([record()])
    assert (tmp_path / f"{NAME}.bad").read_bytes() == b"\xff nonsense"
    assert store(tmp_path).find(key()).tier == "exact"


def test_what_ships_is_never_renamed(tmp_path: Path) -> None:
    path = broken(tmp_path, text_of([record()], "mine").encode()[:-2])
    with pytest.warns(WisdomWarning, match="1 of its records could be read"):
        found = Store([Folder(tmp_path, "shipped", ours=False)], "3.6.0").find(key())
    assert found.tier == "exact" and files(tmp_path) == [NAME]
    assert path.read_bytes() == text_of([record()], "mine").encode()[:-2]


def test_a_broken_file_that_cannot_be_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(tmp_path, text_of([record()], "mine").encode()[:-2])
    read_only(monkeypatch, tmp_path)
    with pytest.warns(WisdomWarning, match="cannot be set aside"):
        assert store(tmp_path).find(key()).tier == "exact"
    assert files(tmp_path) == [NAME]


def test_what_is_no_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is anything written in its place: pipes, devices, folders, sockets, loops, huge files."""
    store(tmp_path).add([record(key("fold"), spec="yours")])
    folder = (tmp_path / NAME).parent
    os.mkfifo(tmp_path / NAME)
    (folder / "b.json").symlink_to("/dev/zero")
    (folder / "c.json").mkdir()
    (folder / "d.json").symlink_to("d.json")
    (folder / "e.json").symlink_to("nowhere")
    with (folder / "f.json").open("wb") as file:
        file.truncate(1 << 40)
    monkeypatch.chdir(folder)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("g.json")
    says = {
        "mine": "it is a pipe", "b": "it is a device", "c": "it is a folder",
        "d": "it is a link that ends", "f": "it is longer than 64 MiB", "g": "it is a socket",
    }  # fmt: skip
    with pytest.warns(WisdomWarning) as said:
        assert store(tmp_path).find(key("fold")).tier == "exact"
    texts = [str(each.message) for each in said]
    assert len(texts) == len(says)
    for name, why in says.items():
        assert any(f"{name}.json cannot be read: {why}" in text for text in texts)
    added = store(tmp_path).add([record()])
    assert added.folder == tmp_path and (tmp_path / NAME).is_fifo()
    assert text_of([record()], "mine") == (folder / "mine.2.json").read_text()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WisdomWarning)
        assert store(tmp_path).forget(lambda each: each.spec == "mine") == 1


# files of others ---------------------------------------------------------------------------------


def test_a_file_of_a_later_version_stays_as_it_is(tmp_path: Path) -> None:
    future = b'{"kvgen_wisdom": 2, "records": {"better": "form"}}'
    path = broken(tmp_path, future)
    with pytest.warns(WisdomWarning, match=r"mine\.json is of wisdom version 2: a newer kvgen"):
        assert store(tmp_path).find(key()).tier == "estimate"
    store(tmp_path).add([record()])
    assert path.read_bytes() == future
    assert files(tmp_path) == [f"{NAME[:-5]}.2.json", NAME]
    with pytest.warns(WisdomWarning, match="version 2"):
        assert store(tmp_path).find(key()).record == record()
    # and the next results join the first
    store(tmp_path).add([record(key(batch=1))])
    assert files(tmp_path) == [f"{NAME[:-5]}.2.json", NAME]
    assert path.read_bytes() == future


def test_a_file_of_another_gpu_is_never_an_answer_nor_written_over(tmp_path: Path) -> None:
    """A folder that was copied from another machine under this GPU's name."""
    theirs = text_of([record(key(gpu=H200), us=1.5)], "mine")
    path = broken(tmp_path, theirs.encode())
    assert store(tmp_path).find(key()).tier == "estimate"
    store(tmp_path).add([record()])
    assert path.read_text() == theirs
    assert files(tmp_path) == [f"{NAME[:-5]}.2.json", NAME]
    assert store(tmp_path).find(key()).record == record()
    assert store(tmp_path).find(key(gpu=H200)).record == record(key(gpu=H200), us=1.5)


# folders that cannot be written ------------------------------------------------------------------


def read_only(monkeypatch: pytest.MonkeyPatch, *roots: Path) -> None:
    """As permissions would have it, which do not bind who runs the tests as root."""
    opened = os.open

    def refuse(path: Any, flags: int, *args: Any, **options: Any) -> int:
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes and any(root in Path(os.fsdecode(path)).parents for root in roots):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", refuse)


def test_a_read_only_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    store(first).add([record(key(batch=1))])
    before = (first / NAME).read_bytes()
    read_only(monkeypatch, first)
    with pytest.warns(WisdomWarning) as said:
        added = store(first, second).add([record()])
    text = str(said[0].message)
    assert text == f"cannot write wisdom to {first} (Permission denied): it is in {second}"
    assert added.folder == second and (first / NAME).read_bytes() == before
    answers = [store(first, second).find(key(batch=batch)).tier for batch in (1, 4)]
    assert answers == ["exact", "exact"]


def test_no_store_can_be_written(tmp_path: Path) -> None:
    """A folder below a file cannot be made by anyone."""
    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "wisdom"
    with pytest.warns(WisdomWarning, match="which nothing reads: KVGEN_WISDOM=") as said:
        added = store(below).add([record()])
    assert str(added.folder) in str(said[0].message)
    assert store(added.folder).find(key()).record == record()
    assert store(below).find(key()).tier == "estimate"


def test_a_file_that_cannot_be_read_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    store(first).add([record(key(batch=1))])
    before = (first / NAME).read_bytes()

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(folders, "_known", {})
        patch.setattr(Path, "read_bytes", refuse)
        with pytest.warns(WisdomWarning, match=r"Permission denied\): it is in .*wisdom"):
            added = Store([Folder(first, "")]).add([record()])
    assert added.folder not in (first, second) and (first / NAME).read_bytes() == before


def test_nothing_is_written_where_one_file_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Folder(tmp_path, "")
    known.add([record()])
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    full = folders.files.staged

    def refuse(path: Path, data: bytes) -> Path:
        if "yours" in path.name:
            raise OSError(28, "No space left on device")
        return full(path, data)

    monkeypatch.setattr(folders.files, "staged", refuse)
    with pytest.raises(OSError, match="No space left"):
        known.add([record(us=2.0), record(key("fold"), spec="yours")])
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


# several writers, and none that ends -------------------------------------------------------------

WRITER = """
import os, sys
from pathlib import Path
sys.path.insert(0, "tests/support")
from tuned_records import key, record, store
first = int(sys.argv[2])
for number in range(first, first + 12):
    store(Path(sys.argv[1])).add([record(key(batch=1 << number))])
"""

KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, "tests/support")
from tuned_records import key, record, store
from kvgen import files
# killed when the new file is written in part, while the folder is locked
def die(path, data):
    (path.parent / f".{path.name}.x{files.SUFFIX}").write_bytes(data[:50])
    os.kill(os.getpid(), signal.SIGKILL)
files.staged = die
store(Path(sys.argv[1])).add([record(key(batch=16))])
"""


def child(code: str, *args: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    writers = [child(WRITER, tmp_path, first) for first in (0, 12)]
    for writer in writers:
        _, errors = writer.communicate(timeout=PATIENCE)
        assert writer.returncode == 0 and not errors
    assert files(tmp_path) == [NAME]
    found = Folder(tmp_path, "").records()
    assert [each.key.shape.B for each in found] == [1 << number for number in range(24)]


def test_killed_in_the_middle_of_a_write(tmp_path: Path) -> None:
    store(tmp_path).add([record()])
    before = (tmp_path / NAME).read_bytes()
    writer = child(KILLED, tmp_path)
    writer.communicate(timeout=PATIENCE)
    assert writer.returncode == -signal.SIGKILL
    assert len(files(tmp_path)) == 2 and (tmp_path / NAME).read_bytes() == before
    assert store(tmp_path).find(key()).tier == "exact"
    # the lock died with its holder, and the next writer tidies up
    store(tmp_path).add([record(key(batch=1))])
    assert files(tmp_path) == [NAME]
    assert len(Folder(tmp_path, "").records()) == 2


def test_killed_at_any_time(tmp_path: Path) -> None:
    """Whenever it happens, what was there before is there, and whole."""
    store(tmp_path).add([record(key("fold"))])
    seen = 0
    for _ in range(4):
        writer = child(WRITER, tmp_path, 0)
        while writer.poll() is None and len(Folder(tmp_path, "").records()) <= seen + 1:
            pass
        writer.kill()
        writer.communicate()
        found = Folder(tmp_path, "").records()
        assert record(key("fold")) in found and len(found) > seen
        seen = min(len(found) - 1, 8)


def test_a_lock_that_is_never_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    store(first).add([record(key(batch=1))])
    monkeypatch.setattr(folders, "PATIENCE", 0.05)
    with (
        Folder(first, "").locked(),
        pytest.warns(WisdomWarning, match=r"another process holds .*\.lock\): it is in"),
    ):
        assert store(first, second).add([record()]).folder == second


class Clock:
    """A second passes whenever somebody waits; then `happens` is called."""

    def __init__(self, happens: Any) -> None:
        self.now, self.happens = 0.0, happens

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return int(self.now * 1e9)

    def sleep(self, seconds: float) -> None:
        self.now += 1.0
        self.happens()


def test_a_lock_that_is_handed_on_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than any one holder may keep it, and nothing is written elsewhere."""
    first, second = tmp_path / "first", tmp_path / "second"
    store(first).add([record(key(batch=1))])
    others = ExitStack()
    left = iter(range(50))

    def handed_on() -> None:
        others.close()
        if next(left, None) is not None:
            others.enter_context(Folder(first, "").locked())

    monkeypatch.setattr(lock, "time", clock := Clock(handed_on))
    monkeypatch.setattr(folders, "PATIENCE", 5.0)
    handed_on()
    assert store(first, second).add([record()]).folder == first
    assert clock.now >= 50 and not second.exists()
    assert len(Folder(first, "").records()) == 2


def test_who_waits_says_for_whom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "time", clock := Clock(lambda: None))
    tmp_path.joinpath("first").mkdir()
    held = Folder(tmp_path / "first", "")
    said = f"waiting for .*first/.lock, held by another kvgen .process {os.getpid()}"
    with held.locked(), pytest.warns(WisdomWarning, match=said) as heard:
        text = "cannot write wisdom to .*another process holds"
        with pytest.warns(WisdomWarning, match=text):
            store(tmp_path / "first", tmp_path / "second").add([record()])
    assert len(heard) >= 1 and clock.now >= folders.PATIENCE


def test_who_only_reads_waits_for_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(tmp_path, text_of([record()], "mine").encode()[:-2])
    monkeypatch.setattr(lock, "time", clock := Clock(lambda: None))
    with (
        Folder(tmp_path, "").locked(),
        pytest.warns(WisdomWarning, match=r"cannot be set aside \(another process holds"),
    ):
        assert store(tmp_path).find(key()).tier == "exact"
    assert clock.now <= 3


def test_a_lock_whose_file_was_removed(tmp_path: Path) -> None:
    """Who holds it holds nothing that others look for, and who waits takes the new one."""
    with Folder(tmp_path, "").locked():
        (tmp_path / ".lock").unlink()
        assert store(tmp_path).add([record()]).folder == tmp_path


# change ------------------------------------------------------------------------------------------


def test_counts_of_a_change(tmp_path: Path) -> None:
    def change(*given: Record) -> str:
        return str(store(tmp_path).add(given).change)

    assert change(record(), record(key(batch=1))) == "+2 ~0 =0"
    assert change(record(us=2.0), record(key(batch=1), us=20.0), record(key("fold"))) == "+1 ~1 =1"
    assert change() == "+0 ~0 =0"


def test_forget(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for root in (first, second):
        store(root).add([record(), record(key(batch=1)), record(key(gpu=H200))])
    both = store(first, second)
    assert both.forget(lambda each: each.key.gpu == H200) == 1
    assert files(first) == [NAME]
    assert both.forget(lambda each: each.key.shape.B == 1) == 1
    assert [each.key for each in Folder(first, "").records()] == [key()]
    # only where results go
    assert len(Folder(second, "").records()) == 3
    assert store(tmp_path / "nowhere").forget(lambda each: True) == 0


def test_what_is_left_keeps_its_own_spec(tmp_path: Path) -> None:
    several = [record(key(form=f"{at}" * 12), spec=spec) for at, spec in enumerate("abc")]
    path = tmp_path / NAME
    path.parent.mkdir()
    path.write_text(text_of(several))
    assert store(tmp_path).forget(lambda each: each.spec == "a") == 1
    assert [each.spec for each in Folder(tmp_path, "").records()] == ["b", "c"]


def test_anew_replaces_better_records(tmp_path: Path) -> None:
    """Whichever file they are in; what is not named is merged."""
    better, other = record(us=2.0), record(key(batch=1))
    path = tmp_path / "nvidia-h100-80gb-hbm3" / "several.json"
    path.parent.mkdir()
    path.write_text(text_of([record(us=1.5), record(key(batch=16), spec="yours")]))
    store(tmp_path).add([better, other])
    worse = record(us=20.0)
    added = store(tmp_path).add([worse, record(key(batch=1), us=30.0)], anew={worse.key})
    assert str(added.change) == "+0 ~1 =1"
    assert {each.key: each.median for each in Folder(tmp_path, "").records()} == {
        worse.key: 20.0, other.key: 12.0, key(batch=16): 12.0,
    }  # fmt: skip


def test_anew_where_the_first_folder_cannot_be_written(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    store(first).add([record(us=2.0)])
    (first / ".lock").unlink(missing_ok=True)
    (first / ".lock").mkdir()
    with pytest.warns(WisdomWarning, match="cannot write wisdom to"):
        added = store(first, second).add([record(us=20.0)], anew={key()})
    assert added.folder == second
    assert [each.median for each in Folder(second, "").records()] == [20.0]
    assert [each.median for each in Folder(first, "").records()] == [2.0]


def test_old_records_stay_where_new_ones_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(tmp_path).add([record(us=2.0)])

    def full(path: Path, data: bytes) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders.files, "staged", full)
    with pytest.raises(OSError, match="No space left"):
        Folder(tmp_path, "").add([record(us=20.0)], anew={key()})
    assert [each.median for each in Folder(tmp_path, "").records()] == [2.0]


def test_shipping_leaves_nothing_but_records(tmp_path: Path) -> None:
    shipped = Folder(tmp_path, "shipped", ours=False)
    shipped.add([record()])
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["mine.json"]
