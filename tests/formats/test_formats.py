"""The formats themselves: what they hold, in torch and in the text of kernels."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from kvgen import compiler
from kvgen.algebra.rounded import warnings
from kvgen.checking.checker import bounds
from kvgen.diagnostics import Span
from kvgen.formats.dtypes import BFLOAT16
from kvgen.formats.record import RecordFormat
from kvgen.formats.registry import RECORD, RECORDS, STATE, STATES
from kvgen.formats.state import Tile
from kvgen.language.storage import Storage
from kvgen.shipped import resolve

TILE = Tile(("a", "b"), "at", "real")


def test_their_order_and_what_silence_means() -> None:
    assert list(STATES) == ["float32", "bfloat16", "float16", "split"]
    assert (STATE.name, RECORD.name) == ("float32", "float32")
    assert next(iter(RECORDS)) == "float32" and "input" in RECORDS
    assert all(name == each.name for name, each in (STATES | RECORDS).items())


@pytest.mark.parametrize("format", [*STATES.values(), *RECORDS.values()], ids=lambda x: x.name)
def test_a_copy_is_equal(format: object) -> None:
    assert pickle.loads(pickle.dumps(format)) == format == copy.deepcopy(format)


def test_bytes_and_what_follows_from_the_planes() -> None:
    facts = {
        x.name: (x.bytes, x.read_bytes, x.partial, x.narrow, x.rounds, x.coarse, x.dots)
        for x in STATES.values()
    }
    assert facts == {
        "float32": (4, 4, False, False, False, False, False),
        "bfloat16": (2, 2, False, True, True, True, True),
        "float16": (2, 2, False, True, True, False, False),
        "split": (4, 2, True, True, False, False, True),
    }
    assert STATES["split"].names("S") == ["S_hi", "S_lo"] and STATES["float16"].names("S") == ["S"]


def test_torch_values() -> None:
    x = torch.tensor([1 + 2.0**-20, 3.0], dtype=torch.float64)
    assert torch.equal(STATES["split"].kept(x), x) and torch.equal(STATES["float32"].kept(x), x)
    for name in ("split", "bfloat16", "float16"):
        assert STATES[name].read(x).tolist() == [1.0, 3.0]
        assert STATES[name].read(x).dtype == torch.float64


@pytest.mark.parametrize("name", STATES)
def test_loads(name: str) -> None:
    state, load = STATES[name], "tl.load(a + at, mask=real, other=0.0)"
    widened = load if name == "float32" else f"{load}.to(tl.float32)"
    assert state.load(TILE, whole=False) == [f"state = {widened}"]
    assert state.load(TILE, whole=False, raw=True) == [f"state = {load}"]
    assert state.value(TILE, whole=False) == widened
    unmasked = state.value(Tile(("a", "b"), "at", ""), whole=False, raw=True)
    assert unmasked == "tl.load(a + at)"


def test_a_split_state_in_both_planes() -> None:
    state, low = STATES["split"], "tl.load(b + at, mask=real, other=0)"
    high = "tl.load(a + at, mask=real, other=0.0)"
    assert state.load(TILE) == [f"high = {high}", f"low = {low}", "state = _join(high, low)"]
    assert state.value(TILE) == f"_join({high}, {low})"
    assert state.store(TILE) == [
        "high, low = _halves(state)",
        "tl.store(a + at, high, mask=real)",
        "tl.store(b + at, low, mask=real)",
    ]
    assert STATES["float32"].store(TILE) == ["tl.store(a + at, state, mask=real)"]


def test_what_records_that_round_cost() -> None:
    rounding = RecordFormat("coarse", 9, vectors=BFLOAT16, bound=0.1, warning=("they round", "no"))
    storage = Storage(records=rounding, span=Span(1, 2, 3))
    (said,) = warnings(storage)
    assert (said.code, said.message, said.help) == ("rounded-records", "they round", "no")
    assert said.span == storage.span and said.severity == "warning"
    assert bounds(storage, torch.float32) == (0.1, 0.1) and rounding.narrow
    assert not list(warnings(Storage())) and storage == Storage(records=rounding)


@pytest.mark.parametrize("state", STATES)
def test_records_that_go_with_a_state(state: str) -> None:
    """What a module says of itself is which those are."""
    overrides = {"storage.state": state, "storage.records": "auto"}
    spec = compiler.analyse(resolve("gated_deltanet"), overrides).spec
    expected = "float32" if state == "float32" else "input"
    assert spec.storage.records.name == spec.storage.said["records"] == expected
