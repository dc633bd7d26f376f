"""How long modules are: no longer than they were, CONFIGS not counted, whatever the recurrence."""

from __future__ import annotations

import builtins
import re
import symtable
from collections.abc import Iterator

import pytest

from kvgen import compiler
from kvgen.codegen import inlined
from kvgen.codegen.features import ALL, DECODE, EXTEND, USUAL, VERIFY
from kvgen.shipped import resolve

# the longest storage mode: two planes, their writes replayed, what is recorded derived anew
STORAGE = {"storage.state": "split", "storage.records": "input", "storage.layout": "vk"}
# lines, by what a module is compiled with: of the shortest and the longest of the 26 recurrences,
# between which all others lie, and of what servers run most; docs/architecture.md says what bounds
# them. Those that take a window as a chunk have a kernel more for it and two for prompts, those
# with a decay for each channel products of scaled vectors, and for trees what pairs of tokens decay
# by.
MOST = {
    "linear_attention": {(DECODE,): 2550, USUAL: 3360},
    "gated_deltanet": {(DECODE,): 2740, USUAL: 4520},
    "kimi_delta_attention": {(DECODE,): 2740, USUAL: 4850},
    "gated_deltaproduct": {(DECODE,): 2910, USUAL: 4390},
}
# and of the host's side alone, which no recurrence changes
MOST_OF_HOST = {(DECODE,): 1945, USUAL: 2235, ALL: 2820}


def lines_of(text: str) -> int:
    return len(re.sub(r"^CONFIGS = \{$.*?^\}$", "", text, flags=re.M | re.S).splitlines())


def text_of(name: str, features: tuple[str, ...]) -> str:
    return compiler.emit(compiler.analyse(resolve(name), STORAGE), {}, features)


@pytest.mark.parametrize("features", [(DECODE,), USUAL], ids=",".join)
@pytest.mark.parametrize("name", MOST)
def test_a_module_is_no_longer_than_it_was(name: str, features: tuple[str, ...]) -> None:
    assert lines_of(text_of(name, features)) <= MOST[name][features]


@pytest.mark.parametrize("features", MOST_OF_HOST, ids=",".join)
def test_its_host_is_no_longer_than_it_was(features: tuple[str, ...]) -> None:
    host = inlined.host(features, "Cache, Table, Held, Signature, arguments_of, define_ops")
    assert len((host.calls + host.cache).splitlines()) <= MOST_OF_HOST[features]


def unknown(table: symtable.SymbolTable, known: set[str]) -> Iterator[str]:
    """The names that functions of a module look up and nobody gives them."""
    for symbol in table.get_symbols():
        looked_up = table.get_type() == "function" and symbol.is_global()
        if looked_up and symbol.is_referenced() and symbol.get_name() not in known:
            yield symbol.get_name()
    for inner in table.get_children():
        yield from unknown(inner, known)


@pytest.mark.parametrize("more", [(), (VERIFY,), (EXTEND,), (VERIFY, EXTEND), ALL[1:]])
def test_what_a_module_leaves_out_is_not_asked_for(more: tuple[str, ...]) -> None:
    text = text_of("gated_deltanet", (DECODE, *more))
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
