"""A fold that adds all records of a row as one product, on tensor cores where there are any."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any

import pytest
from twins import Twin, analysed, made, twin, within_rounding

from kvgen import compiler
from kvgen.checking.windows import Server
from kvgen.kernels.fold import FOLD
from kvgen.tuning import space
from kvgen.wisdom.reading import from_data
from kvgen.wisdom.store import Store
from tests.codegen.test_windows import serve

NAMES = ["gated_deltanet", "kimi_delta_attention", "gla", "mlstm", "rwkv7", "gated_deltaproduct"]
STATES = [("state=bfloat16",), ("state=bfloat16", "records=input", "layout=vk"), ("state=float16",)]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Twins whose folds multiply."""

    def of(name: str, *storage: str, **options: int) -> Twin:
        table: Any = made(name, *storage).module.CONFIGS["default"]["fold"]
        for config in table.values():
            monkeypatch.setitem(config, "DOT", 1)
        return twin(name, *storage, **options)

    yield of


@pytest.mark.parametrize("storage", STATES, ids=" ".join)
@pytest.mark.parametrize("name", NAMES)
def test_the_recurrence_is_what_it_was(name: str, storage: tuple[str, ...], at_once: Any) -> None:
    pair = at_once(name, *storage, slots=6, buffer=5)
    pair.admit([0, 1, 2, 4, 5])
    for step in range(12):
        pair.step([4, 0, 2, 5] if step % 3 else [1, 0, 5])
    pair.compare()
    within_rounding(pair)


@pytest.mark.parametrize("buffer", [32, 64])
def test_a_buffer_that_is_full_to_its_last_place(buffer: int, at_once: Any) -> None:
    """No bit is left for a place behind it."""
    pair = at_once("gated_deltanet", "state=float16", slots=2, buffer=buffer)
    pair.admit([0, 1])
    for _ in range(buffer + 1):
        pair.step([1, 0])
    pair.compare()
    within_rounding(pair)


@pytest.mark.parametrize("name", ["gated_deltanet", "gla"])
def test_drafts_that_were_wrong_leave_nothing(name: str, at_once: Any) -> None:
    pair = at_once(name, "state=bfloat16", slots=6, buffer=16, window=5, seed=1)
    serve(pair, Server(pair, random.Random(name), windows=range(1, 6)), steps=18)


def test_which_states_are_folded_so() -> None:
    found = {
        state: FOLD.dots(analysed("gated_deltanet", f"state={state}").form)
        for state in ("float32", "bfloat16", "float16", "split")
    }
    assert found == {"float32": False, "bfloat16": True, "float16": True, "split": False}
    again = analysed("gated_deltanet", "state=bfloat16", "records=replayed")
    assert not FOLD.dots(again.form)
    plain = made("gated_deltanet").module.CONFIGS["default"]["fold"]
    assert all("DOT" not in config for config in plain.values())


@pytest.mark.parametrize("lacking", [[], ["maxnreg"], ["DOT", "maxnreg"]], ids=str)
def test_records_from_before_it_are_what_they_were(lacking: list[str]) -> None:
    """Whichever of the constants a release did not have yet."""
    shipped = [each for folder in Store.default().folders for each in folder.records()]
    record = next(each for each in shipped if each.key.kernel == FOLD.name)
    data = record.data()
    assert [data["config"].pop(knob) for knob in lacking] == [0] * len(lacking)
    assert from_data(data, record.spec) == record


def test_registers_are_limited_where_a_configuration_says_so() -> None:
    """And where half of them hold a tile, whose records are added as one product."""
    analysis = analysed("gated_deltanet", "state=bfloat16", K=128, V=128)
    limited = [each for each in space.legal(analysis, "fold", "sm_90") if each["maxnreg"]]
    assert limited and all(each["DOT"] for each in limited)
    assert {128 * each["TILE"] // (32 * each["num_warps"]) for each in limited} == {64}
    # a target that has no such limit
    assert not any(each["maxnreg"] for each in space.legal(analysis, "fold", "gfx942"))


@pytest.mark.parametrize("registers", [0, 128])
def test_a_launch_has_the_limit_of_its_configuration(
    registers: int, at_once: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = made("gated_deltanet", "state=bfloat16").module
    launch, options = module.launch, {}

    def noted(cache: Any, name: str, *args: Any, **more: Any) -> None:
        options[name] = more
        launch(cache, name, *args, **more)

    for config in module.CONFIGS["default"]["fold"].values():
        monkeypatch.setitem(config, "maxnreg", registers)
    monkeypatch.setattr(module, "launch", noted)
    pair = at_once("gated_deltanet", "state=bfloat16", slots=2, buffer=4)
    pair.admit([0])
    for _ in range(5):
        pair.step([0])
    pair.compare()
    assert options["fold"].get("maxnreg", 0) == registers


def test_records_in_few_bits_are_multiplied_as_they_lie_there() -> None:
    """What they are still to be times goes to the values, of which there are fewer."""
    text = compiler.emit(analysed("gated_deltanet", "state=bfloat16", "records=input"), {})
    fold = text[text.index("def _fold_kernel") : text.index("def _read_kernel")]
    assert "_outer(tl.trans(raw_ks), ds * (weight * inverse_norms)[:, None], state)" in fold
    many = fold[: fold.index("for j in")]
    assert re.search(r"raw_ks = tl\.load\([^=]*=[^=]*=0\.0\)\n", many)
