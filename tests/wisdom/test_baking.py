"""What of the store a module holds, and what it does with that on a GPU that is known or not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from commands import run
from places import ROOT, SUPPORT
from tuned_records import H100, H200, record
from twins import analysed, made

import kvgen
from kvgen import compiler
from kvgen.checking.samples import Sampler
from kvgen.checking.twin import Made, Twin
from kvgen.compiler import Analysis
from kvgen.shipped import resolve
from kvgen.wisdom import baking
from kvgen.wisdom.folder import WisdomWarning
from kvgen.wisdom.identity import key_of
from kvgen.wisdom.record import Record
from kvgen.wisdom.store import Store

pytestmark = pytest.mark.usefixtures("own")

SIZES = {"sizes.H": "1", "sizes.HV": "2", "sizes.K": "16", "sizes.V": "8"}
SET = [part for name, size in SIZES.items() for part in ("--set", f"{name}={size}")]


def measured(
    analysis: Analysis, kernel: str, batch: int, us: float = 12.0, gpu: str = H100, **other: Any
) -> Record:
    tokens = {"verify": 4, "extend": 1024}.get(kernel, 1)
    of = key_of(analysis, kernel, gpu, batch, tokens)
    return record(of, us, spec=analysis.spec.name, **other)


def several(analysis: Analysis) -> list[Record]:
    """Plain steps are faster up to 4 rows, buffered ones from 64 on."""
    return [
        *(measured(analysis, "decode", batch, us) for batch, us in ((1, 9), (4, 11), (64, 40))),
        *(measured(analysis, "recurrent", batch, us) for batch, us in ((1, 8), (4, 10), (64, 70))),
        measured(analysis, "fold", 16, config={"programs": 2}),
        measured(analysis, "buffer", 0, config={"buffer": 2}),
    ]


def on(module: ModuleType, gpu: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module as on a GPU of this name; its kernels stay in the interpreter."""
    monkeypatch.setattr(module, "gpu_name", lambda table, device: gpu)
    return module


# the text ----------------------------------------------------------------------------------------


def test_what_is_tuned_is_baked() -> None:
    analysis = analysed("gated_deltanet")
    Store.default().add(several(analysis))
    module = compiler.built(analysis)
    tuned = module.CONFIGS[H100]
    assert list(module.CONFIGS) == ["default", H100]
    assert {kernel: list(batches) for kernel, batches in tuned.items()} == {
        "decode": [1, 4, 64],
        "recurrent": [1, 4, 64],
        "fold": [16],
    }
    plain = {"TILE": 8, "num_warps": 1}
    assert tuned["recurrent"][4] == plain | {"us": 10.0}
    assert tuned["fold"][16] == plain | {"STAGES": 1, "programs": 2}
    assert {"default": 4, H100: 2} == module.BUFFERS


def test_nothing_else_changes() -> None:
    analysis = analysed("gated_deltanet")
    empty = compiler.emit(analysis)
    assert compiler.emit(analysis, {}) == empty
    Store.default().add(several(analysis))
    text = compiler.emit(analysis)
    start = text.index(f'    "{H100}": {{\n')
    end = text.index("\n    },\n", start) + len("\n    },\n")
    text = text[:start] + text[end:]
    assert text.replace(f', "{H100}": 2}}', "}") == empty


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    analysis = analysed("gated_deltanet")
    known = [*several(analysis), measured(analysis, "decode", 4, gpu=H200)]
    Store.default().add(known)
    text = compiler.emit(analysis)
    Store.default().forget(lambda each: True)
    for each in reversed(known):
        Store.default().add([each])
    assert compiler.emit(analysis) == text
    code = f"""
import sys
sys.path.insert(0, {str(SUPPORT)!r})
from twins import analysed
from kvgen import compiler
sys.stdout.write(compiler.emit(analysed("gated_deltanet")))
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == text


@pytest.mark.parametrize(
    "other",
    [
        {"storage": ("state=split",)},
        {"sizes": {"HV": 4, "H": 2}},
        {"sizes": {"V": 16}},
        {"name": "kimi_delta_attention"},
    ],
)
def test_records_of_another_form_or_share_are_not(other: dict[str, Any]) -> None:
    Store.default().add(several(analysed("gated_deltanet")))
    name = other.get("name", "gated_deltanet")
    analysis = analysed(name, *other.get("storage", ()), **other.get("sizes", {}))
    assert list(compiler.built(analysis).CONFIGS) == ["default"]


def test_no_gpu_takes_the_place_of_the_rules_of_thumb(own: Path) -> None:
    """One that is called as they are in a module is none; the rest of its file stays in use."""
    analysis = analysed("gated_deltanet")
    untuned = compiler.built(analysis).CONFIGS["default"]
    Store.default().add(
        [measured(analysis, "decode", 4, gpu=gpu) for gpu in ("default", "Default")]
    )
    with pytest.warns(WisdomWarning, match="gpu is 'default', expected the name of a GPU"):
        module = compiler.built(analysis)
    assert module.CONFIGS["default"] == untuned and set(module.CONFIGS) == {"default", "Default"}
    assert run("wisdom", "import", str(next(own.rglob("*.bad")))).exit_code == 1


def test_a_record_for_no_rows_is_none(own: Path) -> None:
    analysis = analysed("gated_deltanet")
    Store.default().add(several(analysis))
    (path,) = own.glob("*/*.json")
    whole = path.read_text()
    path.write_text(whole.replace('"B": 4,', '"B": 0,', 1))
    with pytest.warns(WisdomWarning, match="shape B is 0, expected an integer from 1"):
        module = compiler.built(analysis)
    assert all(min(batches) > 0 for batches in module.CONFIGS[H100].values())
    assert module.configuration(module.Cache.table, H100, "decode", 4)["TILE"] == 8


def test_a_gpu_counts_as_known_by_its_decode() -> None:
    analysis = analysed("gated_deltanet")
    Store.default().add([measured(analysis, "recurrent", 4), measured(analysis, "fold", 4)])
    assert list(compiler.built(analysis).CONFIGS) == ["default"]


def test_a_buffer_that_the_spec_names_is_kept() -> None:
    analysis = analysed("gated_deltanet")
    at = {"batch": 4, "buffer": 2}
    Store.default().add([*several(analysis), measured(analysis, "decode", 16, at=at)])
    assert compiler.built(analysis).CONFIGS[H100]["decode"][16]["us"] == 12.0
    pinned = compiler.analyse(analysis.spec.text, {"buffer": "8"})
    module = compiler.built(pinned)
    assert module.BUFFERS == {"default": 8}
    assert "us" not in module.CONFIGS[H100]["decode"][16]


@pytest.mark.parametrize(
    "wrong",
    [
        ("decode", {"TILE": 16}),
        ("decode", {"DOT": 1}),
        ("fold", {"TILE": 16}),
        ("recurrent", {"TILE": 64}),
    ],
)
def test_what_a_module_cannot_run_is_left_out(wrong: tuple[str, dict[str, int]]) -> None:
    kernel, config = wrong
    analysis = analysed("gated_deltanet")
    known = [each for each in several(analysis) if each.key.kernel != kernel]
    Store.default().add([*known, measured(analysis, kernel, 16, config=config)])
    with pytest.warns(WisdomWarning, match=f"{kernel} at batch .* is not safe for it"):
        module = compiler.built(analysis)
    assert kernel not in module.CONFIGS.get(H100, {})
    assert module.BUFFERS.get(H100) == (2 if kernel in ("fold", "recurrent") else None)


# at run time -------------------------------------------------------------------------------------


def test_the_nearest_batch_of_this_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    analysis = analysed("gated_deltanet")
    Store.default().add(several(analysis))
    module = compiler.built(analysis)
    tuned, default = module.CONFIGS[H100], module.CONFIGS["default"]
    for batch, near in ((1, 1), (2, 1), (3, 4), (15, 4), (17, 64), (5000, 64), (0, 1)):
        assert (
            module.configuration(module.Cache.table, H100, "decode", batch) is tuned["decode"][near]
        )
    assert module.configuration(module.Cache.table, H100, "fold", 200) is tuned["fold"][16]
    # what is not tuned for it, and all of a GPU that is not known
    assert module.configuration(module.Cache.table, H100, "verify", 4) is default["verify"][4]
    assert module.configuration(module.Cache.table, H200, "decode", 4) is default["decode"][4]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_inputs_of_32_bits_take_what_fits_them(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt's kernel that was tuned with 16 bits needed more shared memory than there is."""
    analysis = analysed("gated_deltanet")
    module = on(compiler.built(analysis), H100, monkeypatch)
    kernels = [kernel for kernel in module.CONFIGS["default"] if kernel != "fold"]
    # whoever takes one of these notices
    module.CONFIGS[H100] = {kernel: {1: {}} for kernel in kernels}
    sampler = Sampler(analysis.spec, "cpu")
    slots = torch.tensor([1, 0], dtype=torch.int32)

    def call(kernel: str, tokens: int = 0, **options: Any) -> None:
        shape = {"window": 8} if tokens else {}
        cache = module.Cache.empty(
            2, device="cpu", dtype=dtype, buffer=8, heads=2, **shape, **options
        )
        given = sampler.inputs(2 * max(1, tokens), dtype)
        front = (2, tokens) if tokens else (2,)
        given = {name: x.reshape(*front, *x.shape[1:]) for name, x in given.items()}
        more = {"lengths": slots + 1} if kernel == "extend" else {}
        if options:
            cache.reserve([0, 1], 16)
        getattr(module, kernel)(cache, 0, slots, **given, **sampler.params(), **more)

    calls: list[tuple[Any, ...]] = [("decode",), ("recurrent",), ("verify", 4), ("verify", 8)]
    calls.append(("extend", 8))
    for kernel, *tokens in calls:
        for options in ({}, {"short_context": 16}) if kernel != "recurrent" else ({},):
            if dtype == torch.float32:
                call(kernel, *tokens, **options)
            else:
                with pytest.raises(KeyError):
                    call(kernel, *tokens, **options)


def test_best(monkeypatch: pytest.MonkeyPatch) -> None:
    analysis = analysed("gated_deltanet")
    # a batch at which only one of the two was timed says nothing
    Store.default().add([*several(analysis), measured(analysis, "decode", 256, 1000.0)])
    module = compiler.built(analysis)
    assert {module.best(batch) for batch in (1, 4, 64, 256)} == {"decode"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    on(module, H100, monkeypatch)
    found = {batch: module.best(batch) for batch in (1, 2, 8, 32, 64, 256)}
    few = dict.fromkeys((1, 2, 8), "recurrent")
    assert found == few | dict.fromkeys((32, 64, 256), "decode")
    on(module, H200, monkeypatch)
    assert module.best(1) == "decode"


def test_the_tuned_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    analysis = analysed("gated_deltanet")
    Store.default().add(several(analysis))
    module = compiler.built(analysis)
    default = module.BUFFERS["default"]
    assert module.Cache.empty(2, device="cpu").buffer == default
    on(module, H100, monkeypatch)
    assert module.Cache.empty(2, device="cpu").buffer == 2
    assert module.Cache.empty(2, device="cpu", window=6).buffer == 6
    assert module.Cache.empty(2, device="cpu", buffer=3).buffer == 3


@pytest.mark.parametrize("name", ["gated_deltanet", "mamba2"])
def test_a_tuned_module_computes_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    analysis = analysed(name)
    known = [
        measured(analysis, "decode", 4, config={"TILE": 2, "TILES": 2, "STAGES": 2}),
        measured(analysis, "recurrent", 4, config={"TILE": 4}),
        measured(analysis, "fold", 4, config={"TILE": 1, "programs": 3}),
        measured(analysis, "buffer", 0, config={"buffer": 3}),
    ]
    Store.default().add(known)
    module = on(compiler.built(analysis), H100, monkeypatch)
    twin = Twin(Made(analysis, module), "cpu", slots=6)
    assert twin.cache.gpu == H100 and twin.cache.buffer == 3
    twin.admit([0, 1, 2, 4])
    for turn in range(8):
        twin.step([4, 0, 2, 1], kernel="recurrent" if turn == 5 else "decode")
    twin.compare()
    assert set(twin.found) > {"output", "S"} and max(twin.found.values()) < 1e-5


def test_what_does_not_ship_is_tuned_by_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    text = resolve("gated_deltanet").read_text(encoding="utf-8").replace("gated_deltanet", "mine")
    analysis = compiler.analyse(text)
    assert '"kvgen tune mine.yaml --gpu"' in compiler.emit(analysis, {})
    assert "(kvgen tune mine.yaml --gpu)" in baking.said(analysis, {})
    monkeypatch.setenv("KVGEN_REQUIRE_TUNED", "1")
    with pytest.raises(baking.NotTuned, match=r"kvgen tune mine\.yaml --gpu"):
        baking.required(analysis, {})


def test_hints_are_for_the_recurrence_as_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what was overridden, and nothing that only repeats the file; where the spec lies."""
    monkeypatch.chdir(tmp_path)
    given = {"sizes.K": "128", "storage.state": "split", "storage.layout": "kv", "sizes.HV": "16"}
    split = compiler.analyse(resolve("gated_deltanet"), given)
    command = "kvgen tune gated_deltanet --gpu"
    assert f"({command} --set storage.state=split --set sizes.HV=16)" in baking.said(split, {})
    command += " --set sizes.HV=16 --set storage.state=split"
    assert f'"{command}"' in compiler.emit(split, {})
    same = compiler.analyse(resolve("gated_deltanet"), {"sizes.K": "128", "storage.layout": "kv"})
    assert compiler.emit(same, {}) == compiler.emit(compiler.analyse(same.spec.path), {})
    text = resolve("gated_deltanet").read_text(encoding="utf-8").replace("gated_deltanet", "mine")
    Path("my specs").mkdir()
    Path("my specs/first.yaml").write_text(text, encoding="utf-8")
    mine = compiler.analyse(Path("my specs/first.yaml"), {"buffer": "4"})
    assert "(kvgen tune 'my specs/first.yaml' --gpu --set buffer=4)" in baking.said(mine, {})
    # a module is read elsewhere, and says what its own text says
    assert '"kvgen tune mine.yaml --gpu"' in compiler.emit(mine, {})
    assert compiler.emit(compiler.analyse(split.spec.text), {}) == compiler.emit(split, {})
    Path("mine.yaml").write_text(text, encoding="utf-8")
    hint = run("wisdom", "show", "mine.yaml").stderr
    assert "no records of mine: kvgen tune mine.yaml --gpu" in hint


def test_an_unknown_gpu_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    module = on(made("gated_deltanet").module, H200, monkeypatch)
    monkeypatch.setattr(module, "WARNED", [])
    text = (
        "gated_deltanet is not tuned for NVIDIA H200 and runs there on estimates: "
        f"`kvgen tune gated_deltanet --gpu {' '.join(SET)}`, then compile it again"
    )
    with pytest.warns(UserWarning) as said:
        first = module.Cache.empty(2, device="cpu")
    assert [str(each.message) for each in said] == [text]
    assert said[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module.Cache.empty(2, device="cpu")
        module.Cache.wrap(first.tensors)
    on(module, "NVIDIA A100", monkeypatch)
    with pytest.warns(UserWarning, match="not tuned for NVIDIA A100"):
        module.Cache.empty(2, device="cpu")


def test_a_known_gpu_and_the_interpreter_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    analysis = analysed("gated_deltanet")
    Store.default().add(several(analysis))
    module = compiler.built(analysis)
    monkeypatch.setenv("KVGEN_REQUIRE_TUNED", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module.Cache.empty(2, device="cpu")
        on(module, H100, monkeypatch)
        module.Cache.empty(2, device="cpu")


def test_inputs_that_nothing_is_tuned_for_are_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    analysis = analysed("gated_deltanet")
    Store.default().add(several(analysis))
    module = on(compiler.built(analysis), H100, monkeypatch)
    given = [torch.zeros(1, dtype=torch.bfloat16), torch.zeros(1)]
    text = (
        f"gated_deltanet is tuned for {H100} with inputs of 16 bits: "
        "with torch.float32 it runs there on estimates"
    )
    with pytest.warns(UserWarning) as said:
        config = module.configuration(module.Cache.table, H100, "decode", 4, given)
    assert [str(each.message) for each in said] == [text]
    assert config in module.CONFIGS["default"]["decode"].values()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module.configuration(module.Cache.table, H100, "decode", 4, given)
        module.configuration(module.Cache.table, H100, "decode", 4, given[:1])
        # there is nothing to drop
        module.configuration(module.Cache.table, "NVIDIA A100", "decode", 4, given)
        module.configuration(module.Cache.table, "default", "decode", 4, given)


def test_where_tuning_is_required_an_unknown_gpu_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = on(made("gated_deltanet").module, H200, monkeypatch)
    monkeypatch.setenv("KVGEN_REQUIRE_TUNED", "1")
    with pytest.raises(RuntimeError, match=r"not tuned for NVIDIA H200 .*KVGEN_REQUIRE_TUNED=1"):
        module.Cache.empty(2, device="cpu")
    monkeypatch.setenv("KVGEN_REQUIRE_TUNED", "0")
    monkeypatch.setattr(module, "WARNED", [H200])
    module.Cache.empty(2, device="cpu")


def test_the_name_is_the_devices_and_the_interpreters_is_default(tmp_path: Path) -> None:
    """In a process whose kernels are compiled: what decides is the device, not what is there."""
    path = compiler.write(analysed("gated_deltanet"), tmp_path)
    code = f"""
import sys
sys.path.insert(0, {str(path.parent)!r})
import torch
torch.cuda.get_device_name = lambda device=None: f"GPU of {{device}}"
import gated_deltanet as module
devices = "cuda:1", torch.device("cuda"), "meta"
print(*(module.gpu_name(module.Cache.table, device) for device in devices))
"""
    for interpreted, names in (("0", "GPU of cuda:1 GPU of cuda default"), ("1", "default " * 3)):
        result = subprocess.run(
            [sys.executable, "-c", code],
            env={"PATH": "/usr/bin:/bin", "TRITON_INTERPRET": interpreted},
            capture_output=True,
            text=True,
            check=True,
        )
        assert result.stdout.strip() == names.strip()


# the command line --------------------------------------------------------------------------------


def test_compile_says_for_which_gpus() -> None:
    analysis = analysed("gated_deltanet")
    result = run("compile", "gated_deltanet", *SET)
    hint = f"kvgen tune gated_deltanet --gpu {' '.join(SET)}"
    assert f"tuned for        no GPU: it runs on estimates ({hint})" in result.stdout
    assert "buffer           4 places; L* = " in result.stdout
    quick = {"effort": "quick", "env": {"triton": "3.5.0"}}
    Store.default().add(several(analysis))
    Store.default().add([measured(analysis, "decode", 4, gpu=H200, **quick)])
    result = run("compile", "gated_deltanet", *SET)
    (row,) = [line for line in result.stdout.splitlines() if line.startswith("tuned for")]
    assert row.split(maxsplit=2)[2] == (
        f"{H100} (full, 3 batches, buffer 2), {H200} (quick, 1 batch, aged: with triton 3.5.0); "
        "others, and q, k and v of 32 bits, run on estimates"
    )
    # where the module is not on the H100
    assert "buffer           4 places where its length is not tuned; L* = " in result.stdout
    # sizes as small as these have slow windows
    assert set(re.findall(r"^\w+\[(.*?)\]", result.stderr, re.M)) <= {"slow-window"}
    assert H200 in Path("gated_deltanet.py").read_text()
    data = json.loads(run("compile", "gated_deltanet", *SET, "--json").stdout)
    assert data["tuned"][0] == {
        "gpu": H100,
        "effort": "full",
        "batches": [1, 4, 64],
        "buffer": 2,
        "aged": [],
        "cut": False,
    }


def test_a_search_that_was_cut_short_is_named_and_its_times_are_not_compared() -> None:
    analysis = analysed("gated_deltanet")
    cut = {"at": {"batch": 4, "cut": 1}}
    Store.default().add([
        measured(analysis, "decode", 4, 11, **cut), measured(analysis, "recurrent", 4, 10)
    ])  # fmt: skip
    module = compiler.built(analysis)
    assert "us" not in module.CONFIGS[H100]["decode"][4]
    assert module.CONFIGS[H100]["recurrent"][4]["us"] == 10.0
    assert f"{H100} (full, 1 batch, cut short)" in run("compile", "gated_deltanet", *SET).stdout
    why = run("wisdom", "why", "gated_deltanet", "--batch", "4", *SET).stdout
    assert why.count("exact: full effort, cut short") == 1


def test_compile_where_tuning_is_required(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    analysis = analysed("gated_deltanet")
    monkeypatch.setenv("KVGEN_REQUIRE_TUNED", "1")
    result = run("compile", "gated_deltanet", *SET)
    assert result.exit_code == 1 and result.stdout == ""
    assert "nothing is tuned for gated_deltanet in this form" in result.stderr
    assert not Path("gated_deltanet.py").exists()
    with pytest.raises(baking.NotTuned):
        kvgen.compile(analysis.spec.text)
    Store.default().add(several(analysis))
    assert run("compile", "gated_deltanet", *SET).exit_code == 0
    assert H100 in kvgen.compile(analysis.spec.text).CONFIGS


def test_what_is_tuned_is_compiled_for_its_target(monkeypatch: pytest.MonkeyPatch) -> None:
    analysis = analysed("lightning_attention")
    known = measured(analysis, "decode", 4, config={"TILE": 2, "TILES": 4})
    Store.default().add([known, measured(analysis, "buffer", 0, config={"buffer": 5})])
    from kvgen.probing import probe

    text = compiler.emit(analysis)
    found = {target: probe.assembly(text, target, "decode") for target in ("sm_80", "sm_90")}
    tuned = {
        target: [config for config in texts if "TILE=2 TILES=4" in config]
        for target, texts in found.items()
    }
    assert tuned["sm_80"] == [] and len(tuned["sm_90"]) >= 1
    assert all("PLACES=5" in config for config in tuned["sm_90"])
