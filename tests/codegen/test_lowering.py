"""Every kernel of every shipped recurrence and of random ones through Triton's front end, with
inputs in 16 bits as servers have them: types fit together, and no product of float32 is rounded
that need not be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

import addressing
import pytest
import recurrences
from places import ROOT, SUPPORT
from twins import LAYERS, OTHERS, SPECS, analysed

from kvgen import compiler
from kvgen.conversation import Child
from kvgen.shipped import resolve

# every state with every kind of record and either layout, dealt over the specs
STORED = (
    "state=float32 records=input",
    "state=split",
    "state=bfloat16 records=input",
    "state=float32 layout=vk",
    "state=split records=input layout=vk",
    "state=float16 records=input",
)
DEALT = list(zip([*SPECS, *OTHERS, *LAYERS], cycle(STORED), strict=False))
# windows read these rounded: they have lost more themselves
ROUGH = ("state=bfloat16", "state=float16", "state=split")


@cache
def front_end() -> Child:
    """Triton's, for all requests of this file."""
    environment = {name: x for name, x in os.environ.items() if name != "TRITON_INTERPRET"}
    script = [sys.executable, str(SUPPORT / "lowering.py")]
    return Child("lowering", environment=environment, command=script)


@pytest.fixture(scope="module", autouse=True)
def closed() -> Iterator[None]:
    yield
    if front_end.cache_info().currsize:
        front_end().close()


def lowered(
    modules: Mapping[str, compiler.Analysis],
    *kernels: str,
    ptx: bool = False,
    **configs: dict[str, int],
) -> list[dict[str, Any]]:
    paths = {
        name: str(compiler.temporary_module(analysis.spec.name, compiler.emit(analysis)))
        for name, analysis in modules.items()
    }
    request = {"batch": 16, "modules": paths, "kernels": kernels, "configs": configs, "ptx": ptx}
    answers = front_end().send(**request)[1].result()["programs"]
    assert {answer["name"] for answer in answers} == set(modules)
    return answers


@pytest.mark.parametrize("storage", STORED)
def test_every_kernel_lowers(storage: str) -> None:
    overrides = dict(f"storage.{each}".split("=") for each in storage.split())
    names = [name for name, dealt in DEALT if dealt == storage]
    for answer in lowered({name: compiler.analyse(resolve(name), overrides) for name in names}):
        assert answer["error"] is None, answer
        assert not answer["rounded"] or storage.startswith(ROUGH), answer
        assert not answer["narrow"] and not answer["unmet"], answer


def lower_random(seeds: Iterable[int]) -> None:
    texts = {str(seed): recurrences.recurrence(seed).text for seed in seeds}
    for answer in lowered({seed: compiler.analyse(text) for seed, text in texts.items()}):
        assert answer["error"] is None, answer
        assert not answer["narrow"] and not answer["unmet"], answer


# decays along keys and values; an initial state beside one in 16 bits; no decay
@pytest.mark.parametrize("seeds", [(2, 54), (48, 4)], ids=str)
def test_random_recurrences_lower(seeds: tuple[int, ...]) -> None:
    lower_random(seeds)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 260, 20))
def test_more_random_recurrences_lower(first: int) -> None:
    lower_random(range(first, first + 20))


def test_what_is_too_short_for_tensor_cores_is_not_rounded() -> None:
    modules = {
        "blocks": analysed("gated_deltanet", K=128, V=128),
        "columns": analysed("gated_deltaproduct", K=8, V=64),
    }
    found = lowered(modules, "extend", "chain", extend={"TOKENS": 8})
    assert {(each["name"], each["kernel"]) for each in found} >= {
        ("blocks", "extend"), ("columns", "chain"),
    }  # fmt: skip
    for answer in found:
        assert answer["error"] is None and not answer["rounded"], answer


def test_rounded_dots_are_seen() -> None:
    """Of a state in 16 bits there are some."""
    modules = {"one": analysed("gated_deltanet", "state=float16", K=128, V=128)}
    assert any(answer["rounded"] for answer in lowered(modules, "verify", "extend"))


# several heads to a group; an axis more; parameters of two axes
@pytest.mark.parametrize(
    ("name", "sizes", "kernels"),
    [
        ("gated_deltanet", {"H": 4, "HV": 8}, ["decode", "chain", "verify", "extend", "fold"]),
        ("gated_deltanet", {"H": 4, "HV": 8}, ["chunk"]),
        ("gated_deltaproduct", {"N": 3}, ["decode"]),
        ("kimi_delta_attention", {"H": 4, "HV": 4}, ["recurrent", "short_decode", "short_verify"]),
    ],
)
def test_no_stride_is_multiplied_in_32_bits(
    name: str, sizes: dict[str, int], kernels: list[str]
) -> None:
    """In the assembly either."""
    found = lowered({name: analysed(name, V=16, **sizes)}, *kernels, ptx=True)
    assert {answer["kernel"] for answer in found} == set(kernels)
    for answer in found:
        assert answer["error"] is None and not answer["narrow"], answer


NARROW = """
  .visible .entry kernel(.param .u32 kernel_param_3, .param .u32 kernel_param_4)
  ld.param.b32 %r1, [kernel_param_3];
  ld.param.b32 %r2, [kernel_param_4];
  mul.wide.s32 %rd1, %r9, %r1;
  mul.lo.s32 %r3, %r9, %r2;
  add.s32 %r4, %r1, 0;
  mad.lo.s32 %r5, %r8, %r9, %r1;
"""


def test_narrow_products_are_seen() -> None:
    assert addressing.narrow_in_ptx(NARROW, [3]) == []
    assert addressing.narrow_in_ptx(NARROW, [4]) == ["mul.lo.s32 %r3, %r9, %r2;"]
    for scaled in ("mul.lo.s32 %r6, %r5, 2;", "shl.b32 %r6, %r4, 1;"):
        assert addressing.narrow_in_ptx(f"{NARROW}  {scaled}\n", [3]) == [scaled]


KEYS = """
import json, sys
from pathlib import Path
from triton.runtime.jit import JITFunction
from kvgen.compiler import imported

found = []
for path, step in zip(sys.argv[1:], (1, -1)):
    module = imported(Path(path))
    names = [name for name, each in vars(module).items() if isinstance(each, JITFunction)]
    found.append({name: getattr(module, name).cache_key for name in names[::step]})
print(json.dumps(found))
"""


def test_keys_in_tritons_cache_do_not_depend_on_what_is_compiled_first(tmp_path: Path) -> None:
    """Or what one process has compiled, another one compiles again."""
    text = compiler.emit(compiler.analyse(resolve("lightning_attention")))
    paths = [tmp_path / "one.py", tmp_path / "other.py"]
    for path in paths:
        path.write_text(text, encoding="utf-8")
    environment = {name: x for name, x in os.environ.items() if name != "TRITON_INTERPRET"}
    found = subprocess.run(
        [sys.executable, "-c", KEYS, *map(str, paths)],
        capture_output=True, text=True, check=True, env=environment, cwd=ROOT,
    )  # fmt: skip
    forwards, backwards = json.loads(found.stdout)
    assert "_extend_kernel" in forwards and forwards == backwards
