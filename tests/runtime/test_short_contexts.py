"""Caches whose rows have no state until they are long: who holds which pages, how records in pages
fold, and what a short request costs. Records are written by hand, beside a cache without pages."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twins import ids, made

from kvgen import compiler
from kvgen.checking.poison import poison
from kvgen.checking.samples import Sampler
from kvgen.checking.twin import bits
from kvgen.shipped import resolve
from tests.runtime.test_arguments import refused

pytestmark = pytest.mark.usefixtures("rounded")

SLOTS, LAYERS, PAGE = 6, 2, 16
RECORDS = [
    ("gated_deltanet",),
    ("gated_deltanet", "state=split"),
    ("gated_deltanet", "state=bfloat16", "records=input"),
    ("gated_deltanet", "layout=vk"),
    # with float32 states its keys are factored where there are no pages
    ("kimi_delta_attention_bounded", "state=split"),
    ("mamba2", "state=bfloat16", "records=input"),
    ("mlstm",),
    ("gated_oja", "state=split"),
]
BOOKS = ("cursors", "skipped", "pending", "pages", "state_pages", "stateful", "work")
# what the device may hold where a caller has written nonsense
WILD = (-(2**31), -100_000, -2, -1, 0, 1, 2, 15, 16, 17, 64, 100_000, 2**31 - 1)


def paged(*name: str, short_context: int = 40, **options: Any) -> Any:
    options = {"buffer": 8, "dtype": torch.float32, **options}
    module = made(*name).module
    return module.Cache.empty(SLOTS, LAYERS, device="cpu", short_context=short_context, **options)


# who holds which pages ---------------------------------------------------------------------------


@settings(
    max_examples=30,
    suppress_health_check=[
        *settings.default.suppress_health_check,
        HealthCheck.function_scoped_fixture,
    ],
)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["reserve", "release"]),
            st.lists(st.integers(-1, SLOTS - 1), max_size=SLOTS, unique=True),
            st.integers(1, 60),
        ),
        max_size=20,
    ),
    st.integers(1, 14),
    st.integers(1, 5),
    st.sampled_from([0, 1, 4]),
)
def test_no_page_is_held_twice(
    calls: list[tuple[str, list[int], int]], pages: int, states: int, window: int
) -> None:
    cache = paged("gated_deltanet", pages=pages, states=states, window=window)
    step = max(1, window)
    tokens = [0] * SLOTS
    for call, slots, more in calls:
        used = [slot for slot in slots if slot >= 0]
        before = {name: cache.tensors[name].clone() for name in BOOKS}
        free = cache.free
        if call == "release":
            for name in ("cursors", "skipped", "pending", "stateful"):
                cache.tensors[name].fill_(1)
            cache.release(slots)
            for slot in used:
                tokens[slot] = 0
            for name in ("cursors", "skipped", "pending", "stateful"):
                kept = sorted(set(range(SLOTS)) - set(used))
                assert not cache.tensors[name][used].any()
                assert cache.tensors[name][kept].all()
        else:
            try:
                cache.reserve(slots, more)
            except MemoryError as error:
                assert "needed" in str(error) and "free" in str(error)
                assert cache.free == free
                for name, x in before.items():
                    assert torch.equal(cache.tensors[name], x), name
            else:
                for slot in used:
                    tokens[slot] += more
        table, owners = cache.tensors["pages"].tolist(), cache.tensors["state_pages"].tolist()
        held = [page for row in table for page in row if page >= 0]
        owned = [page for page in owners if page >= 0]
        for numbers, size, kind in ((held, pages, "pages"), (owned, states, "states")):
            assert len(set(numbers)) == len(numbers)
            assert all(page < size for page in numbers)
            assert cache.free[kind] == size - len(numbers)
        for slot in range(SLOTS):
            # a window's drafts have room after the last token
            places = tokens[slot] + step - 1 if tokens[slot] else 0
            wanted = min(-(-places // PAGE), cache.width)
            assert table[slot] == sorted(table[slot], key=lambda page: page < 0)
            assert sum(page >= 0 for page in table[slot]) == wanted
            assert (owners[slot] >= 0) == (tokens[slot] > 40 - step)


def test_exhaustion_says_what_is_needed() -> None:
    cache = paged("mamba2", pages=3, states=1)
    cache.reserve([0], 32)
    with pytest.raises(MemoryError, match=r"6 pages needed, 1 free, 2 states needed, 1 free"):
        cache.reserve([1, 2], 40)
    assert cache.free == {"pages": 1, "states": 1}
    cache.release([0])
    assert cache.free == {"pages": 3, "states": 1}


def test_tables_keep_their_addresses() -> None:
    cache = paged("mamba2")
    before = {name: cache.tensors[name].data_ptr() for name in BOOKS}
    cache.reserve(range(SLOTS), 100)
    cache.release(torch.tensor([0, 3]))
    assert {name: cache.tensors[name].data_ptr() for name in BOOKS} == before


@pytest.mark.parametrize("name", ["gated_deltanet", "mlstm"])
def test_memory_of_a_server_with_rows_in_it(name: str) -> None:
    old = paged(name, window=2)
    old.reserve([4, 1], 30)
    old.reserve([2], 50)
    tensors = {key: x for key, x in old.tensors.items() if key not in ("work", "pending")}
    new = made(name).module.Cache.wrap(tensors, window=2, short_context=40, buffer=8)
    assert isinstance(new, made(name).module.Cache)
    assert new.free == old.free
    assert new.bytes_per_slot == old.bytes_per_slot
    new.reserve([0], 20)
    held = new.tensors["pages"]
    assert held[held >= 0].unique().numel() == (held >= 0).sum() == 9
    tensors["pages"][5, 0] = tensors["pages"][1, 0]
    refused(lambda: made(name).module.Cache.wrap(tensors, 2, 40, 8), "pages: [", "distinct numbers")


def test_memory_of_a_server_without_tables() -> None:
    old = paged("mlstm")
    kept = {k: x for k, x in old.tensors.items() if k not in BOOKS or k == "cursors"}
    new = made("mlstm").module.Cache.wrap(kept, short_context=40, buffer=8)
    assert new.free == {"pages": SLOTS * 3, "states": SLOTS}
    assert (new.tensors["pages"] == -1).all() and (new.tensors["state_pages"] == -1).all()


# records in pages --------------------------------------------------------------------------------


class Pair:
    """A paged cache, and one without pages, in which rows hold the same."""

    def __init__(self, name: tuple[str, ...], places: int, seed: int = 0, window: int = 0) -> None:
        self.made, self.draw = made(*name), random.Random(seed)
        torch.manual_seed(seed)
        self.module, form = self.made.module, self.made.analysis.form
        self.places = places
        self.form, self.records = form, self.made.analysis.records
        self.window = window
        options = {"device": "cpu", "dtype": torch.float32, "window": window}
        options["buffer"] = self.places
        self.plain = self.module.Cache.empty(SLOTS, LAYERS, **options)
        self.paged = self.module.Cache.empty(SLOTS, LAYERS, short_context=self.places, **options)
        self.planes = self.paged.tensors.keys() - {*BOOKS, *(s.name for s in self.records.stored)}
        self.planes -= {carry.tensor.name for carry in form.carries}
        for key, tensor in self.paged.tensors.items():
            if key not in BOOKS:
                poison(tensor)
        # pages in no order
        rows = list(range(SLOTS))
        for _ in range(self.paged.width):
            self.draw.shuffle(rows)
            for slot in rows:
                self.paged.reserve([slot], PAGE)
        self.paged.reserve(rows, 1000)
        for cache in (self.plain, self.paged):
            cache.reset(cache.every_slot)
        self.sampler = Sampler(self.made.analysis.spec, "cpu", seed)

    def load(self, slots: list[int]) -> None:
        for layer in range(LAYERS):
            states = self.sampler.states(len(slots))
            given = states if len(states) > 1 else states[self.form.state.name]
            for cache in (self.plain, self.paged):
                cache.load(layer, ids(*slots), given)

    def fill(self, slot: int, cursor: int, skipped: int, recorded: int = 0) -> None:
        """Records of any content up to the cursor, and of the tokens of a step behind it: those
        that a window recorded, or a decode's one."""
        written = cursor + max(1, recorded)
        plain, paged = self.plain.tensors, self.paged.tensors
        for stored in self.records.stored:
            own = plain[stored.name][slot].movedim(2 if stored.heads else 1, 0)
            own[:written].uniform_(-0.2, 0)
            for place in range(written):
                page = paged[stored.name][paged["pages"][slot, place // PAGE]]
                at = page.movedim(2 if stored.heads else 1, 0)[place % PAGE]
                at.copy_(own[place])
        ring = self.paged.ring
        for carry in self.form.carries:
            own, other = (cache[carry.tensor.name][slot] for cache in (plain, paged))
            for place in range(cursor, written + 1):
                own[:, place].normal_()
                other[:, place % ring] = own[:, place]
        # what lies beyond the cursor means nothing
        marks = skipped & ~(-1 << cursor) | self.draw.getrandbits(63) << cursor
        plain["skipped"][slot] = (marks + 2**63) % 2**64 - 2**63
        for word in range(self.paged.width):
            ahead = cursor - word * PAGE
            garbage = self.draw.getrandbits(31) << max(ahead, 0) if ahead < PAGE else 0
            word_bits = (skipped & ~(-1 << cursor)) >> word * PAGE & 0xFFFF | garbage & 0x7FFFFFFF
            paged["skipped"][slot, word] = word_bits
        for tensors in (plain, paged):
            tensors["cursors"][slot] = cursor
            tensors["pending"][slot] = -recorded

    def fill_all(self, recorded: int = 0) -> None:
        for slot in range(SLOTS):
            cursor = self.draw.randint(0, self.places - max(1, recorded))
            # the last record counts
            skipped = (
                self.draw.getrandbits(64)
                & self.draw.getrandbits(64)
                & ~(1 << cursor - 1 if cursor else 0)
            )
            self.fill(slot, cursor, skipped, self.draw.randint(0, recorded))

    def compare(self) -> None:
        """Every layer's states, and what the books say."""
        for layer in range(LAYERS):
            plain, paged = (cache.read(layer, cache.every_slot) for cache in self.caches)
            for name in plain if isinstance(plain, dict) else [""]:
                one, other = (x[name] if name else x for x in (plain, paged))
                assert torch.equal(bits(one), bits(other)), (layer, name)
        one, other = (cache.tensors for cache in self.caches)
        for name in ("cursors", "pending"):
            assert torch.equal(one[name], other[name]), name
        for slot, cursor in enumerate(self.plain.cursors.tolist()):
            marks = sum(
                (int(word) & 0xFFFF) << PAGE * number
                for number, word in enumerate(other["skipped"][slot])
            )
            below = ~(-1 << cursor)
            assert marks & below == int(one["skipped"][slot]) & below, slot

    @property
    def caches(self) -> tuple[Any, Any]:
        return self.plain, self.paged


@pytest.mark.parametrize("name", RECORDS, ids="-".join)
def test_records_fold_as_without_pages(name: tuple[str, ...]) -> None:
    pair = Pair(name, 44)
    pair.load([1, 4])
    assert pair.paged.tensors["stateful"].tolist() == [0, 1, 0, 0, 1, 0]
    pair.fill_all()
    pair.compare()
    before = [pair.paged.read(layer, pair.paged.every_slot) for layer in range(LAYERS)]
    for cache in pair.caches:
        pair.module.flush(cache, ids(3, -1, 1, 0, 4))
    pair.compare()
    assert not pair.paged.cursors[[0, 1, 3, 4]].any()
    for layer in range(LAYERS):
        for slot in (2, 5):
            after, held = pair.paged.read(layer, ids(slot)), before[layer]
            after, held = (x if torch.is_tensor(x) else x["S"] for x in (after, held))
            assert torch.equal(after[0], held[slot])
    # once more, on top of states
    pair.fill_all()
    for cache in pair.caches:
        pair.module.flush(cache)
    pair.compare()


def test_pages_hold_each_token_own_decay() -> None:
    """Without pages keys are divided by the decay up to them, which a long row has no room for."""
    pair = made("kimi_delta_attention_bounded")
    assert pair.analysis.form.factored
    cache = paged("kimi_delta_attention_bounded", short_context=100, pages=10)
    cache.reset(cache.every_slot)
    cache.reserve([3, 1], 40)
    cache.reserve([3], 60)
    tensors = cache.tensors
    state = torch.zeros(LAYERS, 1, 16, 8)
    pages = tensors["pages"][3].long()
    for place in range(84):
        at = pages[place // PAGE], slice(None), slice(None), place % PAGE
        log, key, value = (tensors[name][at] for name in ("log_decay_K", "k", "d"))
        log.uniform_(-5, 0)
        key.normal_()
        value.normal_()
        state = state * log.exp()[..., None] + key[..., None] * value[..., None, :]
    cache.cursors[3] = 84
    for _ in range(2):
        for layer in range(LAYERS):
            torch.testing.assert_close(cache.read(layer, ids(3))[0], state[layer])
        pair.module.flush(cache, ids(3))
    assert cache.cursors[3] == 0 and tensors["stateful"][3] == 1


@pytest.mark.parametrize("window", [0, 3, 16])
@pytest.mark.parametrize("name", [RECORDS[0], RECORDS[4], RECORDS[6]], ids="-".join)
def test_steps_end_as_without_pages(
    name: tuple[str, ...], window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(name, 23, window=window)
    # of records that are written by hand the host knows nothing
    monkeypatch.setattr(pair.module, "strict", lambda _: False)
    most = max(1, window)
    draw = random.Random(window)
    pair.load([0, 5])
    for step in range(8):
        pair.fill_all(min(window, pair.places - 1))
        slots = draw.sample(range(SLOTS), 4)
        slots[draw.randrange(4)] = -1
        force = torch.tensor([draw.random() < 0.2 for _ in slots])
        given: dict[str, Any] = {}
        if step % 3 == 0:
            given["counts"] = ids(*(draw.randint(0, most) for _ in slots))
        elif step % 3 == 1:
            chosen = [sorted(draw.sample(range(most), draw.randint(0, most))) for _ in slots]
            paths = [[*path, *[-1] * most][:most] for path in chosen]
            given["path"] = torch.tensor(paths, dtype=torch.int32)
        pending = pair.plain.tensors["pending"]
        if step % 4 == 3 and "path" not in given:
            # a prompt has gone into these rows' states
            for slot in (slots[0], slots[3]):
                if slot >= 0:
                    pending[slot] = pair.paged.tensors["pending"][slot] = 1
                    prompted(pair, slot)
            given = {"counts": ids(*[1] * 4)} if given else {}
        for cache in pair.caches:
            if given:
                pair.module.accept(cache, ids(*slots), **given, force=force)
            else:
                pair.module.advance(cache, ids(*slots), force=force)
        for cache in pair.caches:
            left = [slot for slot in range(SLOTS) if slot not in slots]
            cache.tensors["pending"][left] = 0
        pair.compare()


def prompted(pair: Pair, slot: int) -> None:
    """What `extend` leaves of a row: a state of its own, carried ones behind the newest record."""
    cursor = min(int(pair.plain.cursors[slot]), pair.places - 1)
    for cache in pair.caches:
        cache.cursors[slot] = cursor
    page = int(pair.paged.tensors["state_pages"][slot])
    for name in pair.planes:
        own, other = (cache.tensors[name] for cache in pair.caches)
        other[page] = own[slot]
    for carry in pair.form.carries:
        own, other = (cache.tensors[carry.tensor.name][slot] for cache in pair.caches)
        own[:, cursor + 1].normal_()
        other[:, (cursor + 1) % pair.paged.ring] = own[:, cursor + 1]


def test_a_row_keeps_what_its_pages_hold() -> None:
    """Without pages for more, and without one for a state, tokens are not recorded."""
    module, cache = made("mamba2").module, paged("mamba2", short_context=20, window=4)
    cache.reset(cache.every_slot)
    cache.reserve([2], 10)
    cache.reserve([3], 17)
    assert cache.tensors["state_pages"].tolist() == [-1, -1, -1, 0, -1, -1]
    cache.tensors["pending"].fill_(-4)
    cache.cursors.fill_(14)
    module.accept(cache, ids(0, 2, 3), counts=ids(4, 4, 4), force=torch.tensor([True, True, False]))
    # slot 3 has fewer than 4 of 20 places left
    assert cache.cursors.tolist() == [0, 14, 16, 0, 14, 14]
    assert cache.tensors["stateful"].tolist() == [0, 0, 0, 1, 0, 0]
    module.flush(cache)
    assert cache.cursors[2] == 16


@pytest.mark.parametrize("name", [RECORDS[1], RECORDS[6]], ids="-".join)
def test_rows_are_copied_at_any_cursor(name: tuple[str, ...]) -> None:
    pair = Pair(name, 45)
    pair.load([1, 4])
    pair.fill_all()
    for cache in pair.caches:
        cache.copy(ids(1, 2, -1), ids(0, 3, 5))
    pair.compare()
    assert pair.paged.tensors["stateful"].tolist() == [1, 1, 0, 0, 1, 0]
    for cache in pair.caches:
        pair.module.flush(cache)
    pair.compare()


def test_a_reset_row_keeps_its_pages() -> None:
    pair = Pair(("mlstm",), 45)
    pair.load([1, 4])
    pair.fill_all()
    tables = {name: pair.paged.tensors[name].clone() for name in ("pages", "state_pages")}
    for cache in pair.caches:
        cache.reset(ids(4, 2))
    pair.compare()
    assert all(torch.equal(pair.paged.tensors[name], x) for name, x in tables.items())
    for name in ("cursors", "skipped", "pending", "stateful"):
        assert not pair.paged.tensors[name][[2, 4]].any()


@pytest.mark.parametrize("name", ["gated_deltanet", "mlstm"])
def test_wrong_books_of_a_row_are_its_own(name: str) -> None:
    """The device's numbers of one row may be anything: no other row's memory changes."""
    draw = random.Random(1)
    for _ in range(4):
        runs = []
        for wrong in (False, True):
            pair = Pair((name,), 30, seed=3, window=4)
            pair.load([1, 2])
            pair.fill_all(4)
            cache = pair.paged
            if wrong:
                for key in ("cursors", "skipped", "pending", "stateful"):
                    cache.tensors[key][2] = draw.choice(WILD)
            path = torch.tensor([[0, 2, 3, -1], [1, -1, -1, -1], [0, 1, 2, 3]], dtype=torch.int32)
            pair.module.accept(cache, ids(1, 0, 4), path=path)
            if wrong:
                for key in ("cursors", "skipped", "pending", "stateful"):
                    cache.tensors[key][2] = draw.choice(WILD)
            cache.run_advance(ids(2, 3), None, "one")
            cache.run_advance(ids(5, 2, 1), None, "all")
            others = [slot for slot in range(SLOTS) if slot != 2]
            found = {key: cache.tensors[key][others] for key in BOOKS if key != "work"}
            tables = cache.tensors["pages"][others], cache.tensors["state_pages"][others]
            for key, tensor in cache.tensors.items():
                if key in {s.name for s in pair.records.stored}:
                    found[key] = tensor[tables[0].flatten().long()]
                elif key in pair.planes:
                    found[key] = tensor[tables[1].long()]
                elif key not in BOOKS:
                    found[key] = tensor[others]
            runs.append({key: bits(x) for key, x in found.items()})
        for key, x in runs[0].items():
            assert torch.equal(runs[1][key], x), key


# wrong arguments ---------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["reserve", "release"])
def test_slots_of_the_host(call: str) -> None:
    cache = paged("gated_deltanet")
    more = (1,) if call == "reserve" else ()

    def given(slots: object) -> Any:
        return lambda: getattr(cache, call)(slots, *more)

    refused(given(3), "slots: int 3", "expected distinct integers on the host")
    refused(given([0, 0]), "slots: [0, 0]", "distinct")
    refused(given([SLOTS]), f"slots: {SLOTS}", f"less than {SLOTS} slots")
    refused(given([1.0]), "slots: 1.0", "integers")
    refused(given("ab"), "slots: 'a'", "integers")
    refused(given(torch.tensor([0.5])), "slots: 0.5", "integers")
    refused(given(torch.tensor([[1]])), "slots: [1, 1]", "integers on the host")
    refused(given(torch.empty(2, device="meta")), "slots: [2]", "on meta", "integers on the host")
    getattr(cache, call)([], *more)
    assert cache.free == {"pages": SLOTS * cache.width, "states": SLOTS}


@pytest.mark.parametrize("tokens", [0, -1, 1.5, None, torch.tensor(3)])
def test_tokens_to_reserve(tokens: object) -> None:
    refused(lambda: paged("gated_deltanet").reserve([0], tokens), "tokens: ", "an integer >= 1")


@pytest.mark.parametrize("wrong", [-1, 3, 2.5, None, "8"])
def test_short_context(wrong: object) -> None:
    cache = made("gated_deltanet").module.Cache
    options = {"device": "cpu", "buffer": 8, "window": 4}
    refused(
        lambda: cache.empty(2, **options, short_context=wrong),
        f"short_context: {wrong!r}",
        "expected 0, or an integer >= 4",
    )
    tensors = cache.empty(2, **options, short_context=32).tensors
    refused(lambda: cache.wrap(tensors, 4, wrong, 8), f"short_context: {wrong!r}")


def test_sizes_of_the_pools() -> None:
    cache = made("gated_deltanet").module.Cache

    def empty(**options: Any) -> Any:
        return lambda: cache.empty(2, device="cpu", **options)

    for name in ("pages", "states"):
        for wrong in (0, -1, 1.5, "a"):
            call = empty(short_context=32, **{name: wrong})
            refused(call, f"{name}: {wrong!r}, expected an integer >= 1")
        refused(empty(**{name: 3}), f"{name}: 3", "expected None")
    whole = cache.empty(2, device="cpu", buffer=8).tensors
    assert cache.wrap(dict(whole), buffer=8).buffer == 8
    refused(lambda: cache.wrap(whole, buffer=9), "buffer: 9", "expected None or 8")
    pages = cache.empty(2, device="cpu", buffer=8, short_context=32).tensors
    refused(lambda: cache.wrap(pages, short_context=64, buffer=8), "skipped: [2, 2]", "[2, 4]")
    refused(lambda: cache.wrap(pages, buffer=None), "tensors: pages, state_pages, stateful unknown")
    del pages["cursors"]
    refused(lambda: cache.wrap(pages, short_context=32, buffer=8), "tensors: cursors missing")


def test_a_state_is_loaded_where_there_is_a_page_for_it() -> None:
    cache = paged("gated_deltanet", window=4)
    cache.reserve([0], 36)
    cache.reserve([1], 37)
    state = torch.zeros(1, 2, 16, 8)
    refused(lambda: cache.load(0, ids(0), state), "slots: slot 0", "`reserve` of 37 tokens")
    cache.load(0, ids(1), state)
    refused(lambda: cache.copy(ids(1), ids(0)), "dst: slot 0 has 3 pages and 0 state", "3 and 1")
    cache.copy(ids(2), ids(0))


def test_counts_of_a_prompt_in_records() -> None:
    module, cache = made("gated_deltanet").module, paged("gated_deltanet", window=4)
    cache.reserve([0, 1], 30)
    cache.tensors["pending"][0] = -24 - module.PROMPT
    counts = ids(24, 5)
    refused(
        lambda: module.accept(cache, ids(0, 1), counts=counts), "counts: 5 for slot 1", "0 to 4"
    )
    counts = ids(25, 0)
    refused(lambda: module.accept(cache, ids(0, 1), counts=counts), "counts: 25", "0 to 24")
    module.accept(cache, ids(0, 1), counts=ids(24, 0))
    assert cache.cursors[:2].tolist() == [24, 0]


def test_the_plain_kernel_needs_states() -> None:
    pair = made("gated_deltanet")
    cache = paged("gated_deltanet")
    spec = pair.analysis.spec
    given = {
        t.name: torch.zeros(*([1] if t.kind == "input" else []), *map(spec.size, t.axes))
        for t in (*spec.inputs, *spec.params)
    }
    refused(
        lambda: pair.module.recurrent(cache, 0, ids(0), **given),
        "cache: short_context = 40, expected a cache without short_context",
    )


# what a short request costs ----------------------------------------------------------------------


@pytest.mark.parametrize(("state", "part"), [("bfloat16", 0.4), ("float32", 0.2)])
def test_pages_of_a_short_context_are_a_part_of_a_state(
    state: str, part: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = {"storage.state": "bfloat16", "storage.records": "input"}
    analysis = compiler.analyse(resolve("gated_deltanet"), overrides)
    module = compiler.built(analysis)
    monkeypatch.setattr(module, "launch", lambda *_, **__: None)
    cache = module.Cache.empty(4, 3, device="meta", short_context=128)
    spec = analysis.spec
    whole = 3 * spec.size("HV") * spec.size("K") * spec.size("V") * (4 if state == "float32" else 2)
    cache.reserve([1], 32)
    used = 4 * 8 - cache.free["pages"]
    assert cache.free["states"] == 4
    assert used == 2
    records = [cache.tensors[stored.name] for stored in analysis.records.stored]
    assert (
        used * sum(x[0].numel() * x.element_size() for x in records) == used * cache.bytes_per_page
    )
    assert used * cache.bytes_per_page + cache.bytes_per_slot <= part * whole
    assert (
        cache.bytes_per_state == whole
        if state == "bfloat16"
        else 2 * cache.bytes_per_state == whole
    )


def test_bytes_are_all_there_are() -> None:
    cache = paged("mlstm", pages=7, states=2)
    found = sum(x.numel() * x.element_size() for name, x in cache.tensors.items() if name != "work")
    parts = SLOTS * cache.bytes_per_slot + 7 * cache.bytes_per_page + 2 * cache.bytes_per_state
    assert found == parts
