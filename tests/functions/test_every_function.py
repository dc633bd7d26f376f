"""Every function of the language: what its file says of it agrees with itself and with float64."""

from __future__ import annotations

import ast
import itertools
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch

from kvgen import compiler, functions
from kvgen.functions.function import Function, Reach
from kvgen.functions.registry import FUNCTIONS
from kvgen.values.interval import Interval

FOLDER = Path(functions.__path__[0])
# those that are a node of their own, element by element
PLAIN = [each for each in FUNCTIONS.values() if each.value is not None]
POINTS = (-1e4, -90.0, -3.0, -1.0, -0.25, -1e-3, 0.0, 1e-6, 0.3, 1.0, math.pi, 40.0, 700.0)
ENDS = (-math.inf, *POINTS, math.inf)
SPAN = 1e-12


def named(function: Function) -> str:
    return function.name


def arguments(function: Function, points: tuple[float, ...] = POINTS) -> list[tuple[float, ...]]:
    """Numbers of which the function has a value."""
    return [each for each in itertools.product(points, repeat=function.arity)
            if value(function, *each) is not None]  # fmt: skip


def value(function: Function, *args: float) -> float | None:
    assert function.value is not None
    try:
        found = function.value(*args)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def test_a_file_has_the_function_of_its_name() -> None:
    shared = {"__init__", "function", "registry", "norm", "pair"}
    assert {path.stem for path in FOLDER.glob("*.py")} == {*FUNCTIONS, *shared}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=named)
def test_it_can_be_computed(function: Function) -> None:
    if function.reach is Reach.ELEMENT:
        assert function.value is not None or function.lower is not None
        assert function.torch is not None or function.torch_helpers
    if function.value is not None:
        assert function.triton and function.bounds is not None
    for text in (*function.triton_helpers, *function.torch_helpers):
        ast.parse(text)
    if function.torch_helpers:
        assert function.torch_helpers[-1].startswith(f"def _plain_{function.name}(")


@pytest.mark.parametrize("function", PLAIN, ids=named)
def test_numbers_and_tensors_have_the_same_value(function: Function) -> None:
    for args in arguments(function):
        tensors = [torch.tensor(arg, dtype=torch.float64) for arg in args]
        expected = value(function, *args)
        assert function.of_tensors(*tensors).item() == pytest.approx(expected, rel=1e-12), args


@pytest.mark.parametrize("function", PLAIN, ids=named)
def test_no_value_leaves_its_range(function: Function) -> None:
    assert function.bounds is not None
    intervals = [Interval(lo, hi) for lo, hi in itertools.combinations_with_replacement(ENDS, 2)]
    spans = intervals if function.arity == 1 else intervals[::3]
    for ranges in itertools.product(spans, repeat=function.arity):
        found = function.bounds(*ranges)
        within = [[x for x in POINTS if each.lo <= x <= each.hi][:3] for each in ranges]
        for args in itertools.product(*within):
            known = value(function, *args)
            if known is not None:
                slack = SPAN * max(1.0, abs(known))
                assert found.lo - slack <= known <= found.hi + slack, (ranges, args)


@pytest.mark.parametrize("function", PLAIN, ids=named)
def test_what_keeps_zero(function: Function) -> None:
    assert function.keeps_zero == (value(function, *[0.0] * function.arity) == 0.0)


@pytest.fixture(scope="module")
def module() -> ModuleType:
    """A module that calls every function in Triton and in torch, each as `<name>_kernel` and
    `<name>_plain`."""
    texts = ["import torch\nimport triton\nimport triton.language as tl"]
    texts += ["def _plain(x):\n    return x if isinstance(x, torch.Tensor) else torch.tensor(x)"]
    texts += [text for each in PLAIN for text in (*each.triton_helpers, *each.torch_helpers)]
    for function in PLAIN:
        names = "xy"[: function.arity]
        loads = "".join(f"    {name} = tl.load({name} + at)\n" for name in names)
        texts.append(
            f"@triton.jit\ndef {function.name}_kernel({', '.join(names)}, out, SIZE: tl.constexpr):"
            f"\n    at = tl.arange(0, SIZE)\n{loads}"
            f"    tl.store(out + at, {function.triton.format(*names)})"
        )
        called = f"_plain_{function.name}" if function.torch_helpers else f"torch.{function.torch}"
        texts.append(f"{function.name}_plain = {called}")
    text = "\n\n\n".join(dict.fromkeys(texts))
    return compiler.imported(compiler.temporary_module("functions", text + "\n"))


@pytest.mark.parametrize("function", PLAIN, ids=named)
def test_triton_and_float64_agree(function: Function, module: ModuleType) -> None:
    most = torch.finfo(torch.float32).max
    found = [args for args in arguments(function) if abs(value(function, *args) or 0.0) < most]
    size = 1 << (len(found) - 1).bit_length()
    columns = torch.tensor(found + found[:1] * (size - len(found))).T.contiguous()
    out = torch.empty(size)
    getattr(module, f"{function.name}_kernel")[(1,)](*columns, out, SIZE=size)
    expected = function.of_tensors(*columns.double())
    torch.testing.assert_close(out.double(), expected, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("function", PLAIN, ids=named)
def test_torch_s_text_takes_numbers_and_tensors(function: Function, module: ModuleType) -> None:
    plain = getattr(module, f"{function.name}_plain")
    for args in arguments(function, (0.25, 1.0, 3.0)):
        tensors = [torch.tensor(arg, dtype=torch.float64) for arg in args]
        expected = pytest.approx(value(function, *args), rel=1e-6)
        assert plain(*tensors).item() == expected
        if function.arity == 2:
            assert plain(tensors[0], args[1]).item() == expected
            assert plain(args[0], tensors[1]).item() == expected
