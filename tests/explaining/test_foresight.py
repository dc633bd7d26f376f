"""What will disappoint in a module: slow paths and kernels that no GPU holds, said beforehand."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from places import TESTS
from twins import STATES, made, within

import kvgen
from cli import cli
from kvgen import compiler
from kvgen.checking.twin import Twin
from kvgen.checking.windows import Extend, Verify
from kvgen.codegen.cost import buffer_length
from kvgen.codegen.features import ALL, DECODE, EXTEND, USUAL
from kvgen.diagnostics import Diagnostic, render
from kvgen.explaining import foresight
from kvgen.kernels.capacity import needs, unheld
from kvgen.kernels.registry import named
from kvgen.kernels.size import LARGEST, VALUES, Size
from kvgen.kernels.verify import VERIFY
from kvgen.shipped import resolve, shipped
from tests.explaining.test_explain_windows import feedback
from tests.explaining.test_window_cost import sized

FORESEEN = TESTS / "foreseen"
NAMES = [spec.name for spec in shipped()]


def long(name: str, k: int, **more: Any) -> compiler.Analysis:
    overrides = {"sizes.K": str(k)} | {key: str(value) for key, value in more.items()}
    return compiler.analyse(resolve(name), overrides)


def codes(analysis: compiler.Analysis, asked: Sequence[str] = USUAL) -> dict[str, list[Diagnostic]]:
    found: dict[str, list[Diagnostic]] = {}
    for each in foresight.warnings(analysis, asked):
        assert each.severity == "warning"
        found.setdefault(each.code, []).append(each)
    return found


@pytest.mark.parametrize("name", sorted(path.stem for path in FORESEEN.glob("*.yaml")))
def test_as_it_is_printed(
    name: str, golden: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(FORESEEN)
    analysis = compiler.analyse(Path(f"{name}.yaml"))
    found = foresight.warnings(analysis, ALL if name in ("no-short", "too-large") else USUAL)
    assert {each.code for each in found} >= {name}
    text = render(found, analysis.spec.path, analysis.spec.original)
    assert golden(f"../foreseen/{name}.txt") == text + "\n"


def test_what_a_module_cannot_do_is_no_warning() -> None:
    """Where single tokens alone are asked for, nothing of drafts and prompts."""
    analysis = compiler.analyse(FORESEEN / "slow-window.yaml")
    several = {"slow-window"} & {each.code for each in foresight.warnings(analysis)}
    assert several and not foresight.warnings(analysis, [DECODE])
    none = compiler.analyse(FORESEEN / "no-window.yaml")
    assert not foresight.warnings(none, [DECODE])
    assert [each.code for each in foresight.warnings(none, [DECODE, EXTEND])] == ["no-window"]


@pytest.mark.parametrize("name", NAMES)
def test_all_that_ships_is_held(name: str) -> None:
    for state in STATES:
        for records in ("auto", "float32", "input"):
            storage = {"storage.state": state}
            if records != "auto":
                storage["storage.records"] = records
            analysis = compiler.analyse(resolve(name), storage)
            assert unheld(analysis.form, analysis.records) == [], storage


# bytes of shared memory that ptxas has found for sm_90, of a buffer and TILE, TOKENS, STAGES, warps
@pytest.mark.parametrize(
    ("name", "k", "kernel", "buffer", "knobs", "bytes_"),
    [
        ("simple_gla", 2080, "extend", 32, (2, 16, 3, 4), 529408),
        ("simple_gla", 2080, "verify", 32, (4, 4, 1, 4), 525696),
        ("simple_gla", 512, "verify", 32, (32, 4, 1, 4), 65536),
        ("simple_gla", 512, "extend", 32, (16, 16, 3, 4), 83968),
        ("gated_oja", 128, "verify", 16, (128, 4, 1, 8), 131072),
        ("gated_oja", 256, "verify", 16, (256, 4, 1, 8), 393216),
    ],
)
def test_shared_memory_is_what_compilers_find(
    name: str, k: int, kernel: str, buffer: int, knobs: tuple[int, ...], bytes_: int
) -> None:
    analysis = long(name, k, buffer=buffer, **{"sizes.V": 256})
    names: tuple[str, ...] = ("TILE", "TOKENS", "STAGES", "num_warps")
    config = dict(zip(names, knobs, strict=True))
    found = named(kernel).need(Size(analysis.form, analysis.records), config)
    assert found is not None
    assert 0.75 * bytes_ < found.shared < 1.4 * bytes_
    assert (found.shared > LARGEST) is (bytes_ > LARGEST)


# bytes of a thread that ptxas has spilled in a verify of four tokens for sm_90
@pytest.mark.parametrize(
    ("name", "k", "state", "config", "bytes_"),
    [
        ("simple_gla", 512, "float32", {"TILE": 32, "TILES": 1, "num_warps": 8}, 328),
        ("simple_gla", 2080, "float32", {"TILE": 2, "TILES": 4, "num_warps": 8}, 4448),
        ("gated_deltanet", 1024, "float32", {"TILE": 16, "TILES": 4, "num_warps": 8}, 6784),
        ("linear_attention", 512, "split", {"TILE": 8, "TILES": 1, "num_warps": 1}, 6312),
        ("linear_attention", 512, "split", {"TILE": 8, "TILES": 1, "num_warps": 8}, 0),
        ("linear_attention", 512, "split", {"TILE": 32, "TILES": 1, "num_warps": 8}, 0),
    ],
)
def test_registers_are_what_compilers_find(
    name: str, k: int, state: str, config: dict[str, int], bytes_: int
) -> None:
    analysis = long(name, k, **{"storage.state": state})
    found = VERIFY.need(Size(analysis.form, analysis.records), config | {"STAGES": 1})
    assert (found.values > VALUES) is (bytes_ > 1024), found


def test_long_keys_have_rules_that_fit() -> None:
    analysis = long("simple_gla", 2080)
    assert buffer_length(analysis.form, analysis.records) == 8
    found = {each.kernel: each for each in needs(analysis.form, analysis.records)}
    assert "chain" not in found
    fit = {name for name, each in found.items() if each.reason is None}
    assert fit == {"decode", "recurrent", "fold", "extend", "short_decode"}
    verify, short = codes(analysis, ALL)["too-large"]
    assert "verify is more than a GPU can hold: about 800 values in each thread" in verify.message
    assert short.message == (
        "verify of short contexts is more than a GPU can hold: about 262,144 bytes of shared "
        "memory, and no GPU has more than 232,448 for a program"
    )
    assert short.help and short.help.startswith("K = 2,080 is padded to 4,096; decode, recurrent, ")
    # of a module that has not all of them nothing is said but of its own
    assert [each.message for each in codes(analysis)["too-large"]] == [verify.message]
    assert "too-large" not in codes(analysis, [DECODE, EXTEND])


def test_a_buffer_whose_keys_no_program_holds() -> None:
    found = codes(long("simple_gla", 2080, buffer=32))["too-large"]
    assert found[0].message.startswith("verify is more than a GPU can hold: about 524,288 bytes")
    assert "the keys of 8 places fit, those of buffer: 32 do not" in str(found[0].help)


def test_registers_that_overflow() -> None:
    found = {each.kernel: each for each in unheld(*parts(long("gated_deltanet", 1024)))}
    assert set(found) == {"verify", "short_verify"}
    assert found["verify"].values > VALUES and found["verify"].shared < LARGEST
    assert "beyond its 255 registers" in str(found["verify"].reason)
    longest = {each.kernel for each in unheld(*parts(long("simple_gla", 1 << 16)))}
    assert longest == {"decode", "verify", "extend", "short_decode", "short_verify"}


def parts(analysis: compiler.Analysis) -> tuple[Any, Any]:
    return analysis.form, analysis.records


@pytest.mark.parametrize(
    ("name", "warns"),
    [("over_v", True), ("twice", True), ("gated_deltanet", False), ("mamba2", False)],
)
def test_slow_prompts(name: str, warns: bool) -> None:
    found = codes(sized(name) if name != "mamba2" else compiler.analyse(resolve(name)))
    assert ("slow-window" in found) is warns
    if warns:
        (only,) = found["slow-window"]
        assert "is found by substitution, in 16 turns" in only.message
        assert "for each channel of V" in only.message


def test_slow_windows_say_how_much_and_what_helps() -> None:
    (rwkv6,) = codes(compiler.analyse(resolve("rwkv6")))["slow-window"]
    assert rwkv6.message.startswith(
        "each token of 16 verified together as a tree takes 2.5 times the plain recurrence's "
        "operations: every pair"
    )
    assert "as in kimi_delta_attention_bounded" in str(rwkv6.help)
    (oja,) = codes(compiler.analyse(resolve("gated_oja")))["slow-window"]
    assert "of 16 verified together as a tree takes 2.7 times" in oja.message


@pytest.mark.parametrize("name", ["kimi_delta_attention", "kimi_delta_attention_bounded", "gla"])
def test_prompts_with_a_decay_for_each_channel_are_not_slow(name: str) -> None:
    assert not codes(compiler.analyse(resolve(name)))


def test_neither_verify_nor_extend() -> None:
    (only,) = codes(feedback("decay"))["no-window"]
    assert "there is no verify and no extend: log_decay depends on" in only.message
    assert "token by token" in only.message and " bytes in a layer" in only.message


def test_the_command_line_says_it(tmp_path: Path) -> None:
    out = ["-o", str(tmp_path / "out.py")]
    for command in (["compile", "gated_oja", *out], ["explain", "gated_oja"]):
        run = CliRunner().invoke(cli, command)
        assert run.exit_code == 0 and run.stderr.startswith("warning[slow-window]: each token of")
        assert "warning" not in run.stdout
        run = CliRunner().invoke(cli, [*command, "--json"])
        (found,) = json.loads(run.stdout)["warnings"]
        assert found["code"] == "slow-window" and found["severity"] == "warning"
    run = CliRunner().invoke(cli, ["compile", "gated_deltanet", *out])
    assert run.exit_code == 0 and not run.stderr


@pytest.mark.parametrize(
    ("name", "storage", "why"),
    [
        ("nemotron_h_layer", "input", "pages of records have no room for the past of inputs"),
        ("gated_deltanet", "replayed", "records: replayed keeps none beyond a step"),
    ],
)
def test_short_contexts_that_cannot_be(name: str, storage: str, why: str, tmp_path: Path) -> None:
    out, sizes = str(tmp_path / "out.py"), {"sizes.K": "16", "sizes.V": "16"}
    chosen = {"storage.records": storage, **sizes}
    sets = [part for key, value in chosen.items() for part in ("--set", f"{key}={value}")]
    plain = ["compile", name, *sets, "-o", out]
    assert "no-short" not in CliRunner().invoke(cli, plain).stderr
    for asked in ("short", "decode,short"):
        run = CliRunner().invoke(cli, [*plain, "--with", asked])
        assert run.exit_code == 0
        assert f"'short' is asked for, and there are no short contexts: {why}" in run.stderr
    run = CliRunner().invoke(cli, [*plain, "--with", "short", "--json"])
    assert json.loads(run.stdout)["warnings"][-1]["code"] == "no-short"
    with pytest.warns(kvgen.SpecWarning, match=why):
        kvgen.load(name, features=iter(["short"]), **chosen)


@pytest.mark.parametrize("name", ["simple_gla", "gated_deltanet"])
def test_long_keys_are_right(name: str) -> None:
    """With the blocks, places and tiles that rules of thumb take for them."""
    pair = Twin(made(name, K=2080, V=2), "cpu", layers=1, slots=3, buffer=4, window=2)
    pair.admit([0, 2])
    pair.together(Extend(pair, [0, 2], [7, 3]))
    for _ in range(2):
        pair.step([0, 2])
    pair.together(Verify(pair, [2, 0], 2, counts=[2, 1]))
    pair.step([0, 2], kernel="recurrent")
    pair.compare()
    within(pair)


def test_what_would_fit_where_a_program_has_all_values() -> None:
    for name, size, fits in (("gated_oja", "V", "keys or values"), ("rwkv7", "K", "keys")):
        found = codes(compiler.analyse(resolve(name), {f"sizes.{size}": "4096"}))["too-large"]
        assert all(each.help and each.help.startswith(f"fewer {fits} fit;") for each in found)
