"""Every kernel compiles for every GPU, and none spills registers, without a GPU."""

from __future__ import annotations

import faulthandler
import functools
import os
import signal
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from patience import PATIENCE, until
from twins import OTHERS as REST
from twins import SPECS

from kvgen import compiler
from kvgen.kernels.size import SHARED
from kvgen.probing import crosscompile
from kvgen.probing.launches import Launch
from kvgen.probing.probe import KernelUsage, ProbeError, _answers, assembly, probe
from kvgen.shipped import resolve

TARGETS = ("sm_80", "sm_90", "sm_100", "sm_120", "gfx942")
OTHERS = [target for target in TARGETS if target != "sm_90"]
STORED = ("float32", "bfloat16", "split")


@functools.cache
def module(name: str, state: str = "float32", *features: str) -> str:
    """As it is where nothing has been tuned. features: what it can do; none for all of it."""
    analysis = compiler.analyse(resolve(name), {"storage.state": state})
    return compiler.emit(analysis, {}, features or None)


WINDOWS = (
    "verify", "chain", "chunk", "extend", "prepare", "sweep", "short_verify", "short_extend",
)  # fmt: skip
# bytes of a thread that a window of a few tokens may spill
FEW = 512


def check(usages: list[KernelUsage], target: str) -> None:
    assert {"decode", "recurrent", "advance", "fold", "read", "load", "copy"} <= {
        usage.kernel for usage in usages
    }
    assert len({(usage.kernel, usage.config) for usage in usages}) == len(usages)
    for usage in usages:
        assert usage.error is None, usage
        assert usage.registers
        # a window's T tokens fill the registers to the last
        if target == "sm_90" and usage.kernel not in WINDOWS:
            assert usage.spills == 0, usage


# with few rows and many a delta rule, whose windows hold most; the others' are slow
@pytest.mark.parametrize(
    ("name", "batches"),
    [
        ("gated_deltanet", (1, 256)),
        ("kimi_delta_attention", (64,)),
        pytest.param("mamba2", (64,), marks=pytest.mark.slow),
        pytest.param("lightning_attention", (64,), marks=pytest.mark.slow),
    ],
)
def test_shipped_specs_do_not_spill(name: str, batches: tuple[int, ...]) -> None:
    # short contexts of one recurrence; those of the others are among the slow tests
    features = () if name == "gated_deltanet" else ("verify", "extend")
    usages = probe(module(name, "float32", *features), "sm_90", batches=batches)
    check(usages, "sm_90")
    assert all(u.spills is not None and u.spills < FEW for u in usages if "verify" in u.kernel)


@pytest.mark.slow
@pytest.mark.parametrize("name", REST)
def test_other_shipped_specs_do_not_spill(name: str) -> None:
    check(probe(module(name), "sm_90"), "sm_90")


# one spec for each other target, without prompts and short contexts; all with all are slow
@pytest.mark.parametrize(("name", "target"), list(zip(SPECS, OTHERS, strict=False)))
def test_shipped_specs_compile(name: str, target: str) -> None:
    check(probe(module(name, "float32", "verify"), target, batches=(64,)), target)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("state", STORED)
@pytest.mark.parametrize("name", SPECS)
def test_all_that_is_stored_compiles(name: str, state: str, target: str) -> None:
    check(probe(module(name, state), target), target)


def test_a_kernel_that_cannot_compile_is_a_row() -> None:
    text = module("lightning_attention")
    start = text.index("def _recurrent_kernel")
    broken = text[:start] + text[start:].replace("tl.program_id(0)", "tl.nonsense(0)", 1)
    usages = probe(broken, "sm_90", batches=(1,))
    bad = [usage for usage in usages if usage.error]
    assert {usage.kernel for usage in bad} == {"recurrent"}
    for usage in bad:
        assert "nonsense" in str(usage.error)
        assert (usage.registers, usage.spills, usage.shared) == (None, None, 0)


def test_an_option_that_a_target_lacks_is_a_row() -> None:
    text = module("lightning_attention").replace("num_warps=", "maxnreg=64, num_warps=")
    bad = {
        usage.kernel: usage.error for usage in probe(text, "gfx942", batches=(1,)) if usage.error
    }
    assert "maxnreg" in str(bad["decode"])


def test_a_module_that_cannot_be_imported() -> None:
    with pytest.raises(ProbeError, match="nothing_of_this_name"):
        probe("import nothing_of_this_name\n", "sm_90")


def test_prompts_in_32_bits_fit_as_they_were_timed_in_16() -> None:
    """With as many blocks in flight as there are of inputs in 16 bits they would not."""
    config = {"TILE": 128, "STAGES": 2, "num_warps": 8, "us": 0.0}
    text = compiler.emit(compiler.analyse(resolve("gated_deltanet")), {}, ("extend",), untimed=True)
    text += f"\nCONFIGS['default']['sweep'] = {{8: {config}}}\n"
    wide = "Cache.empty = __import__('functools').partial(Cache.empty, dtype=torch.float32)\n"
    (found,) = _answers(text + wide, "sm_90", (8,), "sweep")
    assert not found["error"] and found["shared"] <= SHARED["sm_90"]
    assert "STAGES=1 " in found["config"]


def test_spills_are_seen() -> None:
    text = module("gated_deltanet")
    tiles = {"TILE": 128, "TILES": 1, "STAGES": 1, "EARLY": 0, "KEYS": 0, "PDL": 0, "num_warps": 1}
    wide = f'{text}\nCONFIGS["default"]["decode"] = {{1: {tiles}}}\n'
    spills = [answer["spills"] for answer in _answers(wide, "sm_90", (1,), "decode")]
    assert all(bytes_ and bytes_ > 0 for bytes_ in spills) and spills


def test_progress_and_batches() -> None:
    told: list[str] = []
    usages = probe(module("lightning_attention"), "sm_90", batches=(1, 64), progress=told.append)
    assert len(told) == len(usages) and told[-1].endswith(f"{len(usages)} of {len(usages)}")
    configs = [usage.config for usage in usages if usage.kernel == "decode"]
    assert sorted(config.split()[-1] for config in configs) == ["batch=1", "batch=64"]


def test_assembly() -> None:
    texts = assembly(module("lightning_attention"), "sm_90", "decode")
    assert texts and all(".target sm_90" in text for text in texts.values())
    assert all("ld.global" in text for text in texts.values())


def test_a_compiler_that_crashes_or_hangs_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile(launch: Launch, target: object, text: bool, pipe: Connection) -> None:
        os.setpgid(0, 0)
        match launch.kernel:
            case "crashes":
                # a crash on purpose needs no traceback in the log
                faulthandler.disable()
                os.abort()
            case "hangs":
                # as ptxas does: a process of its own, which must end too
                subprocess.run(["sleep", "1000"], check=False, stdout=subprocess.DEVNULL)
        pipe.send({"registers": 1, "spills": 0, "shared": 0, "error": None})

    monkeypatch.setattr(crosscompile, "_compile", compile)
    monkeypatch.setattr(crosscompile, "DEADLINE", 5.0)
    launches = [
        Launch(kernel, "", NotImplemented, {}, {}, {}, {})
        for kernel in ("crashes", "hangs", "fine")
    ]
    results = {
        launch.kernel: result["error"]
        for _, launch, result in crosscompile._all_compiled(launches, NotImplemented, False)
    }
    assert "crashed" in results["crashes"] and "5 s" in results["hangs"]
    assert results["fine"] is None


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_whoever_is_asked_to_end_leaves_no_compiler(how: int, tmp_path: Path) -> None:
    """SIGTERM, as `timeout` sends it, or Ctrl-C, in the middle of compiling."""
    command = ["compile", "gated_deltanet", "--target", "sm_90", "-o", str(tmp_path / "module.py")]
    process = subprocess.Popen(
        [sys.executable, "-m", "kvgen", *command],
        env=os.environ | {"TMPDIR": str(tmp_path), "TRITON_CACHE_DIR": str(tmp_path / "cache")},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        # a shell's background jobs ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        # the server of compilations, and one that it has started
        until(lambda: len(mentioning(tmp_path, "crosscompile")) >= 2)
        process.send_signal(how)
        assert process.wait(PATIENCE) == 128 + how
        until(lambda: not mentioning(tmp_path, "crosscompile"))
        assert not list(tmp_path.glob("kvgen-*"))
    finally:
        process.kill()
        for pid in mentioning(tmp_path, "crosscompile"):
            os.kill(pid, signal.SIGKILL)


def mentioning(*words: object) -> list[int]:
    """Processes whose command line has all of the words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if all(str(word) in text for word in words):
            found.append(int(path.parent.name))
    return found
