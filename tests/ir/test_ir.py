"""The values and statements that kernels are made of before they are text: what is well formed,
what passes do, and what is printed."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from twins import analysed

from kvgen.codegen.shapes import Shapes
from kvgen.functions.exp import EXP
from kvgen.ir.build import Builder
from kvgen.ir.passes import dead, helpers, invariant, once
from kvgen.ir.values import (
    PAGES,
    ROWS,
    TOKEN,
    TURNED,
    Block,
    Helper,
    Kernel,
    Let,
    Loop,
    Value,
    When,
    Wish,
    everywhere,
)  # fmt: skip
from kvgen.ir.verifier import Malformed, verified
from kvgen.printers.triton import printed
from kvgen.schedules.chain import chain
from kvgen.schedules.chunk import chunk
from kvgen.schedules.decode import decode
from kvgen.schedules.folding import fold, load, read, recurrent
from kvgen.schedules.paged_decode import short_decode
from kvgen.schedules.windows.extend import extend
from kvgen.schedules.windows.verify import verify
from kvgen.schedules.written import PASSES, passed
from kvgen.shipped import shipped

PRODUCT = Helper("_product")
EXTENTS = {"V": "TILE", "P": "SPAN", "K": "64", "S": "TOKENS", "T": "TOKENS"}
EXTENTS |= {"G": "TILES", "L": "ROWS"}


def lines(kernel: Kernel) -> list[str]:
    taken: set[str] = set()

    def new(wanted: str) -> str:
        found = next(
            f"{wanted}{end}" for end in ("", *range(2, 99)) if f"{wanted}{end}" not in taken
        )
        taken.add(found)
        return found

    return printed(kernel, EXTENTS, new, indent=0)


class Small:
    """A kernel that multiplies a tile with the tokens' columns, and stores what comes of it."""

    def __init__(self) -> None:
        self.build = build = Builder()
        self.x, self.out = (build.given(name, "", "pointer") for name in ("x_at", "out_at"))
        self.key, self.token = build.given("key", "K"), build.given("token", "T")
        self.real = build.given("real_token", "T", "bool")

    def rows(self, name: str = "rows") -> Value:
        build = self.build
        tokens = build.along(self.token, "S")
        offset = build.add(build.mul(tokens, build.number(64)), self.key)
        return build.load(self.x, offset, build.along(self.real, "S"), name)

    def store(self, value: Value, at: Value) -> None:
        self.build.store(self.out, at, value, self.build.every(self.real))


def looped() -> Kernel:
    """Scores once, though they are written where they are used; a tile in every turn."""
    small = Small()
    build = small.build
    with build.loop("step", "TILES", "STAGES") as step:
        rows = small.rows()
        scores = build.dot(rows, build.turned(rows), PRODUCT, name="scores")
        own = build.sum(scores, "S", "own")
        build.function(EXP, own, name="unused")
        number = build.add(own, build.cast(step, "float"), "number")
        small.store(number, build.add(small.token, step))
    return build.kernel()


def test_equal_values_are_one() -> None:
    small = Small()
    assert small.rows() is small.rows("again")
    with small.build.when("PDL"):
        inside = small.build.add(small.token, small.build.number(1))
        assert small.rows() is small.rows()
    # what only one branch has is not there behind it
    assert small.build.add(small.token, small.build.number(1)) is not inside


def test_axes_are_in_order() -> None:
    small = Small()
    build = small.build
    sum_ = build.add(small.key, build.along(small.token, "S"))
    assert sum_.axes == "SK" and build.turned(sum_).axes == "KT"
    assert build.every(small.real, build.given("leads", "", "bool")).axes == "T"


def test_printed() -> None:
    text = lines(passed(looped()))
    assert text == [
        "rows = tl.load(x_at + token[:, None] * 64 + key[None, :], "
        "mask=real_token[:, None], other=0.0)",
        "scores = _product(rows, tl.trans(rows))",
        "own = tl.sum(scores, 0)",
        "for step in tl.range(TILES, num_stages=STAGES):",
        "    number = own + step.to(tl.float32)",
        "    tl.store(out_at + token + step, number, mask=real_token)",
    ]


def test_what_is_the_same_in_every_turn_comes_before_the_loop() -> None:
    kernel = verified(looped())
    (loop,) = kernel.body.statements
    assert isinstance(loop, Loop)
    before = invariant.hoisted(kernel)
    moved = [each.value.name for each in before.body if isinstance(each, Let) and each.value.name]
    assert moved == ["rows", "scores", "own", "unused"]
    (loop,) = (each for each in before.body if isinstance(each, Loop))
    names = [each.value.name for each in loop.body if isinstance(each, Let)]
    assert "number" in names and "own" not in names
    verified(before)


def test_what_a_branch_of_a_turn_holds_moves_with_it() -> None:
    small = Small()
    build = small.build
    with build.when("EARLY"):
        first = build.load(small.x, small.token, small.real, "x")
    with build.loop("step", "TILES", "STAGES") as step:
        with build.when("EARLY", holds=False):
            again = build.load(small.x, build.add(small.token, step), small.real, "x")
        found = build.either("EARLY", first, again)
        number = build.mul(build.cast(found, "float"), build.number(2.0), "twice")
        small.store(number, small.token)
    kernel = passed(build.kernel())
    assert lines(kernel) == [
        "if EARLY:",
        "    x = tl.load(x_at + token, mask=real_token, other=0.0)",
        "for step in tl.range(TILES, num_stages=STAGES):",
        "    if not EARLY:",
        "        x = tl.load(x_at + token + step, mask=real_token, other=0.0)",
        "    twice = x.to(tl.float32) * 2.0",
        "    tl.store(out_at + token, twice, mask=real_token)",
    ]


def test_what_nothing_looks_at_is_dropped() -> None:
    kernel = dead.without_dead(verified(looped()))
    names = {each.value.name for each in everywhere(kernel.body) if isinstance(each, Let)}
    assert "unused" not in names and {"rows", "scores", "own", "number"} <= names
    assert set(kernel.given) == {"x_at", "out_at", "key", "token", "real_token"}
    # so is what only that looked at, and what stands before the kernel for it
    small = Small()
    small.build.mul(small.build.given("lonely"), small.build.number(2))
    assert not dead.without_dead(small.build.kernel()).body.statements
    assert not dead.without_dead(small.build.kernel()).given
    # and what it alone stood in, for a block of no lines is none
    small = Small()
    with small.build.when("EARLY"):
        small.build.mul(small.build.given("lonely"), small.build.number(2))
    assert not dead.without_dead(small.build.kernel()).body.statements


def test_slow_numbers_of_tokens_are_kept_where_their_chain_ends() -> None:
    small = Small()
    build = small.build
    x = build.cast(build.load(small.x, small.token, small.real), "float", "x")
    decay = build.function(EXP, x, name="decay")
    half = build.mul(decay, build.number(0.5), "half")
    small.store(half, small.token)
    text = lines(passed(build.kernel()))
    assert "half = _once(decay * 0.5)" in text and "decay = tl.exp(x)" in text
    # a vector is no number, and what is cheap is computed again
    assert not any("_once(tl.load" in line or "x = _once" in line for line in text)


def test_helpers_are_named_in_order() -> None:
    assert helpers.helpers_of(passed(looped())) == ("_product",)


@pytest.mark.parametrize("each", [dead.without_dead, invariant.hoisted, once.computed_once])
def test_passes_take_and_give_kernels(each: Callable[[Kernel], Kernel]) -> None:
    assert each in PASSES
    signature = inspect.signature(each, eval_str=True)
    assert [p.annotation for p in signature.parameters.values()] == [Kernel]
    assert signature.return_annotation is Kernel


def test_a_token_alone_has_its_state_as_it_lies_in_memory() -> None:
    build = Builder(TOKEN)
    key, value = build.given("key", "K"), build.given("value", "V")
    offset = build.add(build.mul(value, build.number(64)), key)
    assert offset.axes == "KV" and build.together((value, build.given("place", "P"))) == "PV"
    build.store(build.given("S_at", type="pointer"), offset, build.number(1.0), None)
    assert lines(passed(build.kernel())) == [
        "tl.store(S_at + value[None, :] * 64 + key[:, None], 1.0)"
    ]


def test_what_stands_before_a_kernel_may_be_changed_in_it() -> None:
    """In every turn of a loop it is another, so nothing of it comes in front."""
    build = Builder(TOKEN)
    state, at = build.given("state", "KV", "float"), build.given("x_at", type="pointer")
    with build.loop("j", "count", None, "one after the other") as j:
        x = build.load(at, j, None, "x", type="float")
        build.move(state, build.mul(state, x))
        build.move(state, build.add(state, build.mul(x, state)))
        found = build.sum(build.sum(state, "K"), "V", "found")
        build.store(at, j, found, None)
    assert lines(passed(build.kernel())) == [
        "# one after the other",
        "for j in range(count):",
        "    x = tl.load(x_at + j)",
        "    state *= x",
        "    state += x * state",
        "    found = tl.sum(tl.sum(state, 0), 0)",
        "    tl.store(x_at + j, found)",
    ]


def test_functions_that_give_several() -> None:
    build = Builder(TOKEN)
    state, at = build.given("state", "KV", "float"), build.given("x_at", type="pointer")
    column = build.let("column", (build.given("k", "K", "float"),), "KC", "float")
    both = build.helper(
        Helper("_apart_4"), build.dot(build.turned(state), column, PRODUCT), axes="VC"
    )
    first, _, third, _ = build.parts(both, "V", ["first", "second", "third", None])
    value = build.given("value", "V")
    with build.when("DOT"):
        dot = build.add(first, third, "dot")
    with build.when("DOT", holds=False):
        other = build.mul(first, build.number(2.0), "other")
    build.store(at, value, build.either("DOT", dot, other), None)
    assert lines(passed(build.kernel())) == [
        "term = _product(tl.trans(state), k[:, None])",
        "first, _, third, _ = _apart_4(term)",
        "if DOT:",
        "    dot = first + third",
        "else:",
        "    dot = first * 2.0",
        "tl.store(x_at + value, dot)",
    ]


def test_many_at_once_stand_in_brackets() -> None:
    """So that their line can be broken."""
    build = Builder(TOKEN)
    x, at = build.given("x", "K", "float"), build.given("x_at", type="pointer")
    names = [f"a_sum_with_a_long_name_{number}" for number in range(5)]
    vectors = [build.mul(x, build.number(float(number))) for number in range(5)]
    sums = build.parts(build.helper(Helper("_sums_5"), *vectors, axes=""), "", names)
    build.store(at, build.number(0), build.total(sums))
    (line, *_) = lines(passed(build.kernel()))
    assert line == (f"({', '.join(names)}) = _sums_5(x * 0.0, x * 1.0, x * 2.0, x * 3.0, x * 4.0)")


def test_what_a_constant_allows_is_a_mask() -> None:
    build = Builder(TOKEN)
    at, key = build.given("x_at", type="pointer"), build.given("key", "K")
    within = build.binary("gt", build.given("WINDOW"), build.number(2))
    build.store(at, key, build.load(at, key, within, type="float"))
    assert lines(passed(build.kernel())) == [
        "tl.store(x_at + key, tl.load(x_at + key, mask=WINDOW > 2, other=0.0))"
    ]


def test_several_at_once_have_one_line_where_others_stand_for_them() -> None:
    build = Builder(TOKEN)
    state, at = build.given("state", "KV", "float"), build.given("x_at", type="pointer")
    value = build.given("value", "V")
    with build.when("DOT"):
        split = build.helper(Helper("tl.split"), state, axes="VC")
        first, second = build.parts(split, "V", ["first", "second"])
    with build.when("DOT", holds=False):
        sums = [build.sum(build.mul(state, build.number(x)), "K") for x in (2.0, 3.0)]
    found = [build.either("DOT", *pair) for pair in zip((first, second), sums, strict=True)]
    build.store(at, value, build.total(found), None)
    assert lines(passed(build.kernel())) == [
        "if DOT:",
        "    first, second = tl.split(state)",
        "else:",
        "    first = tl.sum(state * 2.0, 0)",
        "    second = tl.sum(state * 3.0, 0)",
        "tl.store(x_at + value, first + second)",
    ]


def test_a_wish_is_a_name_for_a_line_that_there_is_anyway() -> None:
    build = Builder(TOKEN)
    x, at = build.given("x", "K", "float"), build.given("x_at", type="pointer")
    key = build.given("key", "K")
    once = build.mul(x, build.number(2.0), Wish("once"))
    twice = build.mul(build.add(once, x), build.number(3.0), Wish("twice"))
    build.store(at, key, build.mul(twice, twice), None)
    assert lines(passed(build.kernel())) == [
        "twice = (x * 2.0 + x) * 3.0",
        "tl.store(x_at + key, twice * twice)",
    ]


def test_products_of_whole_numbers_stay_as_they_are() -> None:
    build = Builder(TOKEN)
    heads, at = build.given("heads"), build.given("x_at", type="pointer")
    half = build.binary("floordiv", heads, build.number(2))
    place = build.mul(build.given("count"), half)
    index = build.add(place, build.mul(build.cast(build.number(3), "long"), build.given("stride")))
    build.store(at, index, build.number(0.0), None)
    assert lines(passed(build.kernel())) == [
        "tl.store(x_at + count * (heads // 2) + tl.cast(3, tl.int64) * stride, 0.0)"
    ]


def without(kernel: Kernel, name: str) -> Kernel:
    kept = [x for x in kernel.body if not (isinstance(x, Let) and x.value.name == name)]
    return replace(kernel, body=Block(tuple(kept)))


def straight(*names: str) -> tuple[Small, Kernel]:
    small = Small()
    rows = small.rows()
    scores = small.build.dot(rows, small.build.turned(rows), PRODUCT, name="scores")
    small.store(small.build.sum(scores, "S", "own"), small.token)
    return small, small.build.kernel()


def windows(first: int, second: int) -> Kernel:
    """What is there above one number is used above another."""
    small = Small()
    with small.build.when("WINDOW", above=first):
        number = small.build.mul(small.token, small.build.number(3), "triple")
    with small.build.when("WINDOW", above=second):
        small.store(number, small.token)
    return small.build.kernel()


def test_what_is_there_above_a_number_is_there_above_higher_ones() -> None:
    assert lines(passed(windows(1, 2))) == [
        "if WINDOW > 1:",
        "    triple = token * 3",
        "if WINDOW > 2:",
        "    tl.store(out_at + token, triple, mask=real_token)",
    ]


def test_where_all_stands_elsewhere_nothing_is_asked() -> None:
    small = Small()
    with small.build.when("WINDOW", above=1):
        number = small.build.mul(small.token, small.build.number(3))
    with small.build.when("WINDOW", above=2):
        small.store(number, small.token)
    assert lines(passed(small.build.kernel())) == [
        "if WINDOW > 2:",
        "    tl.store(out_at + token, token * 3, mask=real_token)",
    ]


def wrong() -> dict[str, Callable[[], Kernel]]:
    """Kernels that mean nothing, by what is said of them."""

    def unordered() -> Kernel:
        return without(straight()[1], "scores")

    def twice() -> Kernel:
        _, kernel = straight()
        return replace(kernel, body=Block((*kernel.body, kernel.body.statements[0])))

    def odd_axes() -> Kernel:
        small = Small()
        bad = replace(small.build.add(small.key, small.build.along(small.token, "S")), axes="KS")
        return Kernel(
            small.build.leaves, Block((Let(small.build.along(small.token, "S")), Let(bad)))
        )

    def product() -> Kernel:
        small = Small()
        rows = small.rows()
        small.build.let("dot", (rows, rows), "SK", "float", PRODUCT)
        return small.build.kernel()

    def too_few() -> Kernel:
        small = Small()
        rows = small.rows()
        small.build.store(small.out, small.token, rows, small.real)
        return small.build.kernel()

    def uncast() -> Kernel:
        small = Small()
        small.build.let("mul", (small.rows(), small.rows()), "SK", "float")
        return small.build.kernel()

    def outside() -> Kernel:
        small = Small()
        with small.build.when("PDL"):
            number = small.build.mul(small.token, small.build.number(3))
        small.store(number, small.token)
        return small.build.kernel()

    def unsure() -> Kernel:
        small = Small()
        with small.build.when("EARLY"):
            first = small.build.mul(small.token, small.build.number(3))
        with small.build.when("PDL", holds=False):
            second = small.build.mul(small.token, small.build.number(4))
        small.store(small.build.either("EARLY", first, second), small.token)
        return small.build.kernel()

    def beyond() -> Kernel:
        return windows(2, 1)

    return {
        "used before it stands there": unordered,
        "defined twice": twice,
        "not the axes": odd_axes,
        "not the axes of what": product,
        "stored to fewer places": too_few,
        "must be cast first": uncast,
        "used before it stands": outside,
        "triple .T. int: used before": beyond,
        "there twice, or not at all": unsure,
    }


@pytest.mark.parametrize("said", wrong())
def test_what_is_malformed_is_refused(said: str) -> None:
    with pytest.raises(Malformed, match=said):
        verified(wrong()[said]())


def test_a_decode_names_its_values_after_the_graph() -> None:
    analysis = analysed("gated_deltanet", "state=bfloat16", "records=input", K=64, V=64)
    kernel = passed(decode(analysis.form, analysis.records, Shapes(64, 64)))
    text = lines(kernel)
    names = {line.strip().split(" = ")[0] for line in text if " = " in line}
    assert {"k", "q", "raw_ks", "log_decay", "d", "ds", "o", "state", "since", "k_read"} <= names
    # of this token nothing is looked at before all kernels in front have ended
    waits = next(place for place, line in enumerate(text) if "gdc_wait" in line)
    assert not any("q_ptr" in line or "out_ptr" in line for line in text[:waits])
    assert any("k_cache_at" in line for line in text[:waits])
    # what heads of a group share is computed once
    loop = next(place for place, line in enumerate(text) if line.startswith("for "))
    assert any("k_score = " in line for line in text[:loop])
    assert not any("k_ptr" in line for line in text[loop:])


@pytest.mark.parametrize("name", ["gated_deltanet", "kimi_delta_attention", "mlstm"])
def test_an_only_tile_is_loaded_before_anything_of_the_token_is_computed(name: str) -> None:
    analysis = analysed(name, K=64, V=64)
    text = lines(passed(decode(analysis.form, analysis.records, Shapes(64, 64))))
    loads: dict[str, list[int]] = {}
    for place, line in enumerate(text):
        if " = tl.load(" in line:
            loads.setdefault(line.strip().split(" = ")[0], []).append(place)
    waits = next(place for place, line in enumerate(text) if "gdc_wait" in line)
    computed = next(
        p for p in range(waits, len(text)) if re.search(r" = .*(tl.sum|exp)\(", text[p])
    )
    # where a program has several, a tile's own stand in its turn
    twice = {name: places for name, places in loads.items() if len(places) > 1}
    assert "state" in twice
    assert all(first < computed < later for first, later in twice.values())
    assert all(place < computed for places in loads.values() for place in places[:1])


def test_a_condition_that_goes_on_is_asked_once() -> None:
    small = Small()
    for above, count in ((1, 2), (2, 1)):
        for _ in range(count):
            with small.build.when("WINDOW", above=above):
                small.store(small.build.number(0.0), small.token)
    store = "    tl.store(out_at + token, 0.0, mask=real_token)"
    wanted = ["if WINDOW > 1:", store, store, "if WINDOW > 2:", store]
    assert lines(passed(small.build.kernel())) == wanted


def test_behind_else_there_is_no_second_one() -> None:
    small = Small()
    for holds in (True, False, False, True, False):
        with small.build.when("DOT", holds=holds):
            small.store(small.build.number(0.0), small.token)
    store = "    tl.store(out_at + token, 0.0, mask=real_token)"
    wanted = ["if DOT:", store, "else:", store, store, "if DOT:", store, "else:", store]
    assert lines(passed(small.build.kernel())) == wanted


def test_a_chain_reads_the_state_once() -> None:
    analysis = analysed("gated_deltanet", "state=bfloat16", "records=input", K=64, V=64)
    text = lines(passed(chain(analysis.form, analysis.records, Shapes(64, 64))))
    names = {line.strip().split(" = ")[0] for line in text if " = " in line}
    assert {"k_0", "q_3_scale", "raw_ks", "log_decay_3", "d_3", "ds", "o_0", "state"} <= names
    assert sum("_through(tl.trans(state), columns" in line for line in text) == 1
    # what tokens are to each other, and to the buffer, is known before the tiles
    loop = next(place for place, line in enumerate(text) if line.startswith("for "))
    assert any(") = _sums_16(" in line for line in text[:loop])
    assert any("scores = _through(raw_ks, columns" in line for line in text[:loop])
    # what is loaded late takes no registers from values of all tokens
    since, oldest = (
        next(place for place, line in enumerate(text) if line.strip().startswith(name))
        for name in ("since = ", "log_decay_first = ")
    )
    assert since < oldest
    # later tokens follow from the earlier ones, as far as the window reaches
    wanted = ["d_0", "if WINDOW > 1:", "d_1", "if WINDOW > 2:", "d_2", "if WINDOW > 3:", "d_3"]
    told = [line.strip().partition(" = ")[0] for line in text[loop:]]
    assert [each for each in told if each in wanted] == wanted


def test_a_window_s_rows_read_the_state_once() -> None:
    analysis = analysed("gated_deltanet", "state=bfloat16", "records=input", K=64, V=64)
    kernel = verify(analysis.form, analysis.records, Shapes(64, 64))
    text = lines(passed(kernel, (dead.without_dead,)))
    names = {line.strip().split(" = ")[0] for line in text if " = " in line}
    assert {"raw_k_given", "log_decay", "d", "read_base", "inverse", "ds", "o", "state"} <= names
    assert sum("_dot(columns, state)" in line for line in text) == 1
    # what heads of a group have in common is known before the tiles, each of which loads its state
    # before it computes anything
    loop = next(place for place, line in enumerate(text) if line.startswith("for "))
    assert any("scores = _dot(columns, tl.trans(" in line for line in text[:loop])
    assert not any("_inverse(" in line or "log_decay" in line for line in text[:loop])
    first = next(line for line in text[loop:] if "tl.load(" in line)
    assert first.strip().startswith("state = ")
    # later loads take no registers from what is summed before
    since, oldest = (
        next(place for place, line in enumerate(text) if line.strip().startswith(name))
        for name in ("since = ", "log_decay_first = ")
    )
    assert loop < since < oldest


def test_a_token_on_pages_reads_a_state_only_where_there_is_one() -> None:
    analysis = analysed("gated_deltanet", "state=split", "records=input", HV=4, K=64, V=64)
    kernel = short_decode(analysis.form, analysis.records, Shapes(64, 64))
    text = lines(passed(kernel, (dead.without_dead,)))
    pages, stateful, few, rest = (
        next(place for place, line in enumerate(text) if line.startswith(first))
        for first in ("for back in ", "if stateful:", "    for first in ", "d = ")
    )
    assert pages < stateful < few < rest
    # scores of a page's keys are those of all heads side by side, which weights are not
    loop = [line.strip() for line in text[pages:stateful]]
    assert "score = tl.sum(raw_ks.to(tl.float32) * k[None, :], 1) * inverse_norms" in loop
    assert "since = total[:, None] + tl.cumsum(logs, 1, reverse=True)" in loop
    assert any("[:, None] + (page * d_cache_slot + within * 64)[None, :]" in x for x in loop)
    found = "ds.to(tl.float32) * (weight * score[None, :])[:, :, None]"
    assert f"read += tl.sum({found}, 1)" in loop
    # what is left of the state is known behind the pages
    assert any(line.strip().startswith("kept = ") for line in text[stateful:few])
    states = [place for place, line in enumerate(text) if "S_hi_cache_at" in line]
    assert states and all(stateful < place < rest for place in states)
    # nothing is stored before all is read
    assert not any("tl.store(" in line for line in text[:rest])


def test_a_loop_goes_as_far_as_a_value_says() -> None:
    build = Builder(PAGES)
    at, head = build.given("x_at", type="pointer"), build.given("head", "G")
    count = build.helper(Helper("tl.cdiv", ("SPAN",)), build.given("count"), type="int")
    with build.loop("back", count, "STAGES") as back:
        value, few = (build.let("range", (), axis, "int") for axis in ("V", "L"))
        rows = build.add(build.mul(build.add(few, back), build.number(8)), value)
        begin = build.add(at, build.mul(head, build.number(64)), "begin")
        build.store(begin, rows, build.load(begin, rows, None, type="float"))
    kernel = passed(build.kernel(), (dead.without_dead, once.computed_once))
    place = "begin[:, None, None] + "
    place += "(tl.arange(0, ROWS)[None, :, None] + back) * 8 + tl.arange(0, TILE)[None, None, :]"
    assert lines(kernel) == [
        "for back in tl.range(tl.cdiv(count, SPAN), num_stages=STAGES):",
        "    begin = x_at + head * 64",
        f"    tl.store({place}, tl.load({place}))",
    ]


def test_what_a_prompt_s_blocks_have_in_common_is_in_front_of_them() -> None:
    analysis = analysed("mlstm", "state=float32", K=16, V=16)
    kernel = extend(analysis.form, analysis.records, Shapes(16, 16))
    text = lines(passed(kernel, (dead.without_dead, invariant.hoisted)))
    loop = next(place for place, line in enumerate(text) if line.startswith("for start in "))
    assert any(line.startswith("scale = ") for line in text[:loop])
    # carried states go from parent to child, turn by turn, and from block to block
    turns = next(
        place for place, line in enumerate(text) if "for turn in range(TOKENS - 1)" in line
    )
    assert text[turns - 1].strip().startswith("m_before = ")
    moved = [line.strip().partition(" = ")[0] for line in text[turns:]]
    assert moved.index("m_before") < moved.index("o") < moved.index("m_context")
    assert sum(line.strip().startswith(("state *= ", "state += ")) for line in text) == 2


@pytest.mark.parametrize("each", [fold, read, load, recurrent])
def test_a_kernel_of_the_state_itself_stores_no_record(each: Callable[..., Kernel]) -> None:
    analysis = analysed("mlstm", "state=split", "records=input", K=16, V=16)
    kernel = passed(each(analysis.form, analysis.records, Shapes(16, 16)))
    stored = [line for line in lines(kernel) if "tl.store(" in line]
    assert stored and not any("k_cache_at" in line or "v_cache_at" in line for line in stored)
    planes = [line for line in stored if "S_hi_cache_at" in line or "S_lo_cache_at" in line]
    assert len(planes) == (0 if each is read else 2)


@pytest.mark.parametrize("name", [each.name for each in shipped()])
def test_a_token_of_the_plain_kernel_is_on_the_way_while_its_state_is(name: str) -> None:
    analysis = analysed(name)
    spec = analysis.spec
    shapes = Shapes(spec.size("K"), spec.size("V"))
    kernel = passed(recurrent(analysis.form, analysis.records, shapes))
    text = [line.strip() for line in lines(kernel)]
    loop = next(place for place, line in enumerate(text) if line.startswith("for "))
    first = next(place for place, line in enumerate(text) if line.startswith("state = "))
    given = [place for place, line in enumerate(text) if re.search(r"tl\.load\(\w+_ptr ", line)]
    assert given and first < min(given) and max(given) < loop


def test_a_schedule_names_its_values_after_the_graph() -> None:
    analysis = analysed("gated_deltanet", "state=bfloat16", "records=input", K=16, V=16)
    kernel = passed(chunk(analysis.form, analysis.records, Shapes(16, 16)))
    text = lines(kernel)
    names = {line.strip().split(" = ")[0] for line in text if " = " in line}
    assert {"log_decay", "d", "o", "state", "since", "inverse", "k_scores", "path"} <= names
    # what a head has once comes before its tiles, where products alone are left
    loop = next(place for place, line in enumerate(text) if line.startswith("for "))
    assert any("_inverse_by_halves(" in line for line in text[:loop])
    assert not any("tl.exp(" in line or "sigmoid(" in line for line in text[loop:])
    waits = next(place for place, line in enumerate(text) if "gdc_wait" in line)
    assert not any("q_ptr" in line or "parents_ptr" in line for line in text[:waits])
    assert isinstance(kernel.body.statements[-1], Loop)
    assert any(isinstance(each, When) for each in kernel.body)


# what moves, and where it stands -----------------------------------------------------------------


def moved() -> Kernel:
    """A variable that begins anew in every block, and moves in turns within it."""
    small = Small()
    build = small.build
    with build.loop("start", "BLOCKS", None):
        zeros = Helper("tl.zeros", ("[TOKENS]",))
        begun = build.helper(zeros, axes="T", name=Wish("zeros"))
        found = build.variable(begun, "found")
        with build.loop("turn", "TOKENS", None) as turn:
            build.move(found, build.add(found, build.cast(turn, "float")))
        small.store(build.mul(found, build.number(2.0)), small.token)
    return build.kernel()


def test_a_variable_moves_and_begins_anew_in_every_turn() -> None:
    kernel = moved()
    text = [
        "for start in range(BLOCKS):",
        "    found = tl.zeros([TOKENS])",
        "    for turn in range(TOKENS):",
        "        found += turn.to(tl.float32)",
        "    tl.store(out_at + token, found * 2.0, mask=real_token)",
    ]
    assert lines(passed(kernel, (dead.without_dead,))) == text
    # what it begins as is the same in every turn, that it begins is not
    text[0:2] = ["zeros = tl.zeros([TOKENS])", "for start in range(BLOCKS):", "    found = zeros"]
    assert lines(passed(kernel, (dead.without_dead, invariant.hoisted))) == text
    # it is the same variable where numbers are kept on their lines
    assert lines(passed(kernel)) == text


def test_only_variables_and_what_is_given_move() -> None:
    small = Small()
    number = small.build.mul(small.token, small.build.number(3))
    small.build.move(number, small.token)
    with pytest.raises(Malformed, match="no other value of what moves"):
        verified(small.build.kernel())


def test_what_is_built_outside_stands_before_a_loop() -> None:
    small = Small()
    build = small.build
    with build.loop("step", "TILES", None) as step:
        number = build.add(small.token, step, "number")
        with build.outside(1):
            triple = build.mul(small.token, build.number(3), "triple")
            build.store(small.out, small.token, triple)
        # of what stands around a block nothing is built again within it
        assert build.mul(small.token, build.number(3)) is triple
        small.store(build.add(number, triple), small.token)
    assert lines(verified(build.kernel())) == [
        "triple = token * 3",
        "tl.store(out_at + token, triple)",
        "for step in range(TILES):",
        "    number = token + step",
        "    tl.store(out_at + token, number + triple, mask=real_token)",
    ]


def test_a_section_stands_behind_what_is_built_meanwhile() -> None:
    small = Small()
    build = small.build
    with build.section():
        build.store(small.out, small.token, build.mul(small.token, build.number(2)))
        with build.outside(1):
            small.store(build.mul(small.token, build.number(3)), small.token)
    assert lines(verified(build.kernel())) == [
        "tl.store(out_at + token, token * 3, mask=real_token)",
        "tl.store(out_at + token, token * 2)",
    ]


def test_a_value_that_is_asked_for_again_stands_within_its_users() -> None:
    small = Small()
    build = small.build
    whole = build.function(EXP, build.cast(small.token, "float"), name=Wish("whole"))
    for more in (1, 2):
        small.store(build.add(build.again(whole), build.number(float(more))), small.token)
    assert lines(passed(build.kernel(), (dead.without_dead,))) == [
        f"tl.store(out_at + token, tl.exp(token.to(tl.float32)) + {more}.0, mask=real_token)"
        for more in (1, 2)
    ]


def test_rows_spread_offsets_term_by_term() -> None:
    build = Builder(ROWS)
    x, at = build.given("x_at", "", "pointer"), build.given("out", "TK", "pointer")
    token, key = build.given("token", "T"), build.given("key", "K")
    far = build.mul(token, build.given("stride"))
    rows = build.load(x, build.add(build.add(build.given("row"), far), key), None, "rows")
    build.store(build.add(at, far), build.number(0), rows)
    assert lines(verified(build.kernel())) == [
        "rows = tl.load(x_at + row + token[:, None] * stride + key[None, :])",
        "tl.store(out + token[:, None] * stride, rows)",
    ]


def test_conditions_of_a_program_stand_with_those_of_rows() -> None:
    build = Builder(ROWS)
    token, key = build.given("token", "T"), build.given("key", "K")
    guards = build.given("leads", "", "bool"), build.given("fits", "T", "bool")
    real = build.given("real_key", "K", "bool")
    guard = build.every(*guards, real)
    out, value = build.given("out_at", "", "pointer"), build.given("x", "TK", "float")
    build.store(out, build.add(token, key), value, guard)
    build.store(out, token, build.given("y", "T", "float"), build.every(*guards))
    assert lines(verified(build.kernel())) == [
        "tl.store(out_at + token[:, None] + key[None, :], x, "
        "mask=(True & leads & fits)[:, None] & real_key[None, :])",
        "tl.store(out_at + token, y, mask=True & leads & fits)",
    ]


def test_an_axis_with_two_dimensions_is_added_up_along_both() -> None:
    build = Builder(TURNED, "K")
    key, value = build.given("key", "K"), build.given("value", "V")
    pointers = (build.given(name, type="pointer") for name in ("state_at", "query_at", "out_at"))
    state_at, query_at, out_at = pointers
    rows = build.mul(value, build.number(64))
    state = build.load(state_at, build.add(key, rows), None, "state", type="float")
    query = build.load(query_at, key, None, "query", type="float")
    build.store(out_at, value, build.sum(build.mul(state, query), "K", "found"))
    assert printed(passed(build.kernel(), ()), {}, str) == [
        "    state = tl.load(state_at + key[None, :, :] + value[:, None, None] * 64)",
        "    query = tl.load(query_at + key)",
        "    found = tl.sum(tl.sum(state * query[None, :, :], 2), 1)",
        "    tl.store(out_at + value, found)",
    ]
    build.store(out_at, build.add(key, rows), build.turned(state))
    with pytest.raises(Malformed, match="along an axis with two dimensions"):
        verified(build.kernel())
