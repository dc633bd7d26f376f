"""How long modules are: no longer than they were, CONFIGS not counted, whatever the recurrence."""

from __future__ import annotations

import builtins
import re
import symtable
from collections.abc import Iterator, Mapping

import pytest

from kvgen import compiler
from kvgen.codegen.features import ALL, DECODE, EXTEND, USUAL, VERIFY
from kvgen.rendering import inlined
from kvgen.shipped import resolve

# the longest storage mode: two planes, their writes replayed, what is recorded derived anew
STORAGE = {"storage.state": "split", "storage.records": "input", "storage.layout": "vk"}
OTHER_STORAGE = [
    {"storage.state": state, "storage.layout": layout}
    for state in ("float32", "bfloat16", "split")
    for layout in ("kv", "vk")
]
# lines, by what a module is compiled with: of the shortest and the longest of the 26 recurrences,
# between which all others lie, of what servers run most, and of the longest of the whole layers;
# docs/architecture.md says what bounds them. Those that take a window as a chunk have a kernel more
# for it, those with a past what keeps it, and those whose output sums over V what ends it.
MOST = {
    "linear_attention": {(DECODE,): 2665, USUAL: 3385},
    "gated_deltanet": {(DECODE,): 2865, USUAL: 4175},
    "kimi_delta_attention": {(DECODE,): 2855, USUAL: 3985},
    "gated_deltaproduct": {(DECODE,): 3030, USUAL: 4365},
    "kimi_linear_layer": {(DECODE,): 3535, USUAL: 4585},
}
# the same of those with times of all that runs only where it has been timed: two kernels more for
# prompts, and where channels decay one for windows, with products of scaled vectors
MOST_TIMED = {"gated_deltanet": 4665, "kimi_delta_attention": 4955, "rwkv7": 5055}
# and of the host's side alone, which no recurrence changes
MOST_OF_HOST = {(DECODE,): 1995, USUAL: 2195, ALL: 2790}
# what brings prompts in blocks to it
SPOKEN = "Cache, Table, Held, Signature, arguments_of, define_ops"
MOST_OF_BLOCKS = 105


def lines_of(text: str) -> int:
    return len(re.sub(r"^CONFIGS = \{$.*?^\}$", "", text, flags=re.M | re.S).splitlines())


def text_of(
    name: str, features: tuple[str, ...], untimed: bool = False, storage: Mapping = STORAGE
) -> str:
    return compiler.emit(compiler.analyse(resolve(name), storage), {}, features, untimed)


def host_lines(features: tuple[str, ...], spoken: str = SPOKEN) -> int:
    host = inlined.host(features, spoken)
    return len((host.calls + host.cache).splitlines())


@pytest.mark.parametrize("features", [(DECODE,), USUAL], ids=",".join)
@pytest.mark.parametrize("name", MOST)
def test_a_module_is_no_longer_than_it_was(name: str, features: tuple[str, ...]) -> None:
    assert lines_of(text_of(name, features)) <= MOST[name][features]


@pytest.mark.parametrize("name", MOST_TIMED)
def test_a_module_with_all_times_is_no_longer_than_it_was(name: str) -> None:
    assert lines_of(text_of(name, USUAL, untimed=True)) <= MOST_TIMED[name]


@pytest.mark.parametrize("features", MOST_OF_HOST, ids=",".join)
def test_its_host_is_no_longer_than_it_was(features: tuple[str, ...]) -> None:
    assert host_lines(features) <= MOST_OF_HOST[features]


def test_prompts_in_blocks_take_no_more_of_the_host_than_they_did() -> None:
    more = host_lines(USUAL, f"{SPOKEN}, Blocks") - host_lines(USUAL)
    assert 0 < more <= MOST_OF_BLOCKS


def unknown(table: symtable.SymbolTable, known: set[str]) -> Iterator[str]:
    """The names that functions of a module look up and nobody gives them."""
    for symbol in table.get_symbols():
        looked_up = table.get_type() == "function" and symbol.is_global()
        if looked_up and symbol.is_referenced() and symbol.get_name() not in known:
            yield symbol.get_name()
    for inner in table.get_children():
        yield from unknown(inner, known)


@pytest.mark.parametrize("untimed", [False, True])
@pytest.mark.parametrize("more", [(), (VERIFY,), (EXTEND,), (VERIFY, EXTEND), ALL[1:]])
@pytest.mark.parametrize("name", ["gated_deltanet", "qwen3_next_layer"])
def test_what_a_module_leaves_out_is_not_asked_for(
    name: str, more: tuple[str, ...], untimed: bool
) -> None:
    asked_for(text_of(name, (DECODE, *more), untimed))


CHOICES = ((DECODE,), (DECODE, VERIFY), USUAL, (DECODE, EXTEND))


@pytest.mark.parametrize("storage", OTHER_STORAGE, ids=lambda storage: "-".join(storage.values()))
@pytest.mark.parametrize("name", ["gated_deltanet", "gated_deltanet_conv", "mamba2"])
def test_nor_of_other_storage(name: str, storage: dict[str, str]) -> None:
    at = OTHER_STORAGE.index(storage)
    # two of the choices of kernels, each with both layouts
    for features in (CHOICES[at % 4], CHOICES[(at + 1) % 4]):
        asked_for(text_of(name, features, storage=storage))


def asked_for(text: str) -> None:
    """Nothing that the module does not have."""
    table = symtable.symtable(text, "module", "exec")
    known = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned()}
    known |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_imported()}
    known |= {inner.get_name() for inner in table.get_children()} | set(dir(builtins))
    assert not sorted(unknown(table, known))


def test_a_module_has_nothing_of_the_features_that_it_has_not() -> None:
    wanted = {"check_parents": VERIFY, "run_verify": VERIFY, "check_starts": EXTEND}
    wanted |= {"run_extend": EXTEND, "check_first": VERIFY, "PagedCache": "short"}
    small = text_of("gated_deltanet", (DECODE,))
    assert not [name for name in wanted if name in small]
    for feature in (VERIFY, EXTEND, "short"):
        text = text_of("gated_deltanet", tuple(dict.fromkeys((DECODE, feature))))
        assert all(name in text for name, of in wanted.items() if of == feature)
    layer = text_of("qwen3_next_layer", (DECODE,))
    assert "finished_decode" in layer
    assert not [name for name in (*wanted, "finished_extend") if name in layer]


def test_a_cache_offers_the_same_whatever_a_module_is_compiled_with() -> None:
    found: list[set[str]] = []
    for features in ((DECODE,), ALL):
        text = text_of("gated_deltanet", features)
        table = symtable.symtable(text, "module", "exec")
        classes = {each.get_name(): each for each in table.get_children()}
        offered = ("Storage", "Kernels", "Contents", "Cache")
        found.append({x for name in offered for x in classes[name].get_identifiers()})
    calls = "empty layout wrap reset load read copy seek save restore cursors bytes_per_slot flat"
    assert set(calls.split()) <= found[0]
    assert found[1] - found[0] == {
        "run_verify", "run_extend", "window_kernel", "window_warps",
    }  # fmt: skip
