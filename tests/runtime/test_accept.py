"""How a step ends: what rows keep, places that are skipped, and wrong values on the device."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from twins import ids, made, twin, within

from kvgen.checking.twin import Tokens, Twin, bits

pytestmark = pytest.mark.usefixtures("rounded")

INT32 = (-(2**31), 2**31 - 1)


# one token a step --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "storage"),
    [
        ("gated_deltanet", "state=split"),
        ("kimi_delta_attention_bounded", "state=float32"),
        ("mlstm", "state=float32"),
    ],
)
def test_a_decode_is_kept_or_not(name: str, storage: str) -> None:
    pair = twin(name, storage, layers=2)
    pair.admit([0, 3, 5])
    cursors = []
    for slots, counts, force in [
        ([3, 0, -1, 5], [1, 0, 1, 1], None),
        ([0, 5], [0, 0], None),
        ([5, 3, 0], [0, 1, 1], [True, False, False]),
        ([0, 3, 5], [1, 1, 1], [True, False, False]),
        ([5, 3], [0, 1], [True, False]),
    ]:
        pair.together(Tokens(pair, slots, counts=counts, force=force))
        cursors.append(pair.cache.cursors[[0, 3, 5]].tolist())
    assert cursors == [[0, 1, 1], [0, 1, 1], [1, 2, 0], [0, 3, 1], [0, 0, 0]]
    pair.compare()
    within(pair)


def test_a_path_of_a_decode_is_its_one_node() -> None:
    pair = twin("mamba2")
    pair.admit([1, 2])
    for row in (0, 1):
        pair.module.decode(pair.cache, 0, ids(1, 2), **pair.inputs([1, 2]), **pair.params[0])
        path = torch.tensor([[-1], [-1]], dtype=torch.int32)
        path[row] = 0
        pair.module.accept(pair.cache, ids(1, 2), path=path)
        assert pair.cache.cursors[[1, 2]].tolist() == [1, row]
    assert not pair.cache.tensors["skipped"][[1, 2]].any()


def test_a_step_that_is_in_the_state_is_kept() -> None:
    """The plain kernel cannot take its token back."""
    pair = twin("gated_deltanet")
    pair.admit([0, 2])
    pair.step([0, 2])
    step = Tokens(pair, [2, 0], kernel="recurrent", counts=[1, 1])
    pair.together(step)
    assert pair.cache.cursors[[0, 2]].tolist() == [0, 0]
    pair.compare()
    within(pair)


# places that are skipped -------------------------------------------------------------------------

RECORDS = [
    ("gated_deltanet", "state=float32"),
    ("gated_deltanet", "state=split"),
    ("gated_deltanet", "state=split records=input"),
    ("kimi_delta_attention", "state=bfloat16"),
    ("kimi_delta_attention", "records=input"),
    ("kimi_delta_attention_bounded", "state=float32"),
    ("mamba2", "records=input"),
    ("mlstm", "state=float32"),
    ("gated_oja", "state=float32"),
    ("rwkv7", "state=split"),
]


def scattered(pair: Twin, buffer: int, draw: random.Random) -> Any:
    """A cache with the same records at places of which the others are skipped."""
    old = pair.cache
    new = pair.module.Cache.empty(
        old.slots, old.layers, device="cpu", dtype=old.dtype, buffer=buffer
    )
    for name, x in old.tensors.items():
        if new.tensors[name].shape == x.shape:
            new.tensors[name].copy_(x)
        else:
            new.tensors[name].fill_(math.nan)
    for slot in range(old.slots):
        held = int(old.cursors[slot])
        # there is room for one more
        places = sorted(draw.sample(range(buffer - 1), held))
        cursor = places[-1] + 1 if places else 0
        for stored in pair.records.stored:
            axis = 2 if stored.heads else 1
            source, target = (c.tensors[stored.name][slot].movedim(axis, 0) for c in (old, new))
            target[places] = source[:held]
        for carry in pair.form.carries:
            source, target = (c.tensors[carry.tensor.name][slot] for c in (old, new))
            target[:, cursor] = source[:, held]
        new.cursors[slot] = cursor
        skipped = sum(1 << place for place in range(cursor) if place not in places)
        # from the cursor on a bit means nothing
        new.tensors["skipped"][slot] = signed(skipped | -1 << cursor)
    return new


def go_on(pair: Twin, cache: Any) -> None:
    """The same requests in another cache."""
    pair.cache = cache
    pair.kept = {name: x.clone() for name, x in cache.tensors.items()}


# every length with some records, every record with some length; the rest is slow
LENGTHS = [
    pytest.param(*record, buffer, marks=[] if (row + column) % 3 == 0 else pytest.mark.slow)
    for row, record in enumerate(RECORDS)
    for column, buffer in enumerate((7, 33, 64))
]


@pytest.mark.parametrize(("name", "storage", "buffer"), LENGTHS)
def test_a_skipped_place_counts_for_nothing(name: str, storage: str, buffer: int) -> None:
    if name == "kimi_delta_attention_bounded":
        buffer = min(buffer, 16)
    pair = twin(name, *storage.split(), buffer=6, layers=2, slots=5)
    pair.admit([0, 1, 2, 4])
    for slots in ([0, 1], [1, 4], [4, 1, 0], [1, 4]):
        pair.step(slots)
    assert pair.cache.cursors.tolist() == [2, 4, 0, 0, 3]
    compact, draw = pair.cache, random.Random(buffer)
    states = [pair.read(layer, [0, 1, 2, 4]) for layer in (0, 1)]
    go_on(pair, scattered(pair, buffer, draw))
    for layer in (0, 1):
        for each, x in pair.read(layer, [0, 1, 2, 4]).items():
            assert torch.equal(bits(x), bits(states[layer][each])), each
    # folded, and folded on the way, a state has the bits it has without the skipped places
    inputs = pair.inputs([4, 0])
    found = []
    for cache in (compact, scattered(pair_of(pair, compact), buffer, draw)):
        pair.module.flush(cache, ids(1))
        outs = [
            pair.module.recurrent(cache, layer, ids(4, 0), **inputs, **pair.params[layer])
            for layer in (0, 1)
        ]
        pair.module.advance(cache, ids(4, 0))
        assert cache.cursors[[0, 1, 4]].tolist() == [0, 0, 0]
        found.append([*outs, *(cache.read(layer, ids(0, 1, 4)) for layer in (0, 1))])
    for one, other in zip(*found, strict=True):
        values = one.values() if isinstance(one, dict) else [one]
        others = other.values() if isinstance(other, dict) else [other]
        for x, y in zip(values, others, strict=True):
            assert torch.equal(bits(x), bits(y))
    # and the server goes on
    pair.step([0, 1, 4])
    pair.step([4, -1, 2, 0], force=[True, False, False, False])
    pair.step([0, 1, 2], kernel="recurrent")
    pair.step([1, 4])
    pair.flush([4])
    pair.step([1, 2, 4])
    pair.compare()
    within(pair)


def pair_of(pair: Twin, cache: Any) -> Twin:
    """A view of the twin with another cache."""
    other = object.__new__(Twin)
    other.__dict__ = {**pair.__dict__, "cache": cache}
    return other


def test_a_skipped_place_leaves_a_state() -> None:
    """Whatever its record and the state are."""
    pair = twin("gated_deltanet", buffer=6)
    pair.admit([0])
    state = pair.cache.read(0, ids(0))
    state[..., 0] = math.inf
    state[..., 1] = math.nan
    state[..., 2] = 0.0
    pair.cache.load(0, ids(0), state)
    before = bits(pair.cache.tensors["S"]).clone()
    pair.cache.cursors[0] = 5
    pair.cache.tensors["skipped"][0] = 0b11111
    assert torch.equal(bits(pair.cache.read(0, ids(0))), bits(state))
    pair.module.flush(pair.cache)
    assert torch.equal(bits(pair.cache.tensors["S"]), before)


def test_a_copy_has_its_source_s_skipped_places() -> None:
    pair = twin("mamba2", buffer=6, slots=5)
    pair.admit([0, 1])
    pair.step([0, 1])
    pair.step([1])
    go_on(pair, scattered(pair, 9, random.Random(1)))
    pair.copy([1, 0], [2, 3])
    skipped = pair.cache.tensors["skipped"]
    assert skipped[2] == skipped[1] and skipped[3] == skipped[0] and skipped[1] != 0
    pair.step([2, 3, 0])
    pair.compare()
    within(pair)
    pair.cache.reset(ids(2))
    assert skipped[2] == 0


# the end of a step, row by row -------------------------------------------------------------------


@dataclass
class Row:
    """A row's numbers as the device holds them, and what is said of its step."""

    cursor: int
    skipped: int
    pending: int
    kept: int | list[int]
    force: bool

    def end(self, places: int, reserve: int, carries: bool) -> tuple[int, ...] | None:
        """Bring the numbers up to date; the count and bits of its entry among those to fold."""
        cursor = min(max(self.cursor, 0), places)
        skipped = {place for place in range(cursor) if self.skipped >> place & 1}
        recorded = -self.pending if self.pending < 0 else 1
        nodes: list[int] = []
        given = self.kept if isinstance(self.kept, list) else range(self.kept)
        for node in given:
            last = nodes[-1] if nodes else -1
            if node <= last or node >= min(recorded, len(given)) or cursor + node >= places:
                break
            nodes.append(node)
        used = nodes[-1] + 1 if nodes else 0
        skipped |= {cursor + node for node in range(used) if node not in nodes}
        done = self.pending > 0
        held = min(cursor + 1, places) if done else cursor + used
        entry = (-held if done else held, sum(1 << place for place in skipped))
        empty = done or self.force or places - held < reserve
        self.cursor, self.pending = (0 if empty else held), 0
        self.skipped = 0 if empty else entry[1]
        return entry if empty and held and (carries or not done) else None


def signed(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63


def unchecked(monkeypatch: pytest.MonkeyPatch, module: Any, folds: bool = True) -> None:
    """Values are not looked at, as on a GPU; folds: False leaves a fold's rows as they are."""
    launch = module.launch

    def without_folds(cache: Any, kernel: str, *given: Any, **options: Any) -> None:
        if folds or kernel != "fold":
            launch(cache, kernel, *given, **options)

    monkeypatch.setattr(module, "launch", without_folds)
    monkeypatch.setattr(module, "strict", lambda _: False)


def wild(draw: random.Random, low: int, high: int) -> int:
    """Mostly a number in the range, sometimes any int32."""
    if draw.random() < 0.85:
        return draw.randint(low, high)
    return draw.choice([*INT32, -1, draw.randint(*INT32), draw.randint(-99, 99)])


def path_of(draw: random.Random, tokens: int) -> list[int]:
    if draw.random() < 0.3:
        return [wild(draw, -1, tokens) for _ in range(tokens)]
    path = sorted(draw.sample(range(tokens), draw.randint(0, tokens)))
    return path + [-1] * (tokens - len(path))


# one of the two for every kind and size; the other is slow
ENDS = [
    pytest.param(kind, *size, name, marks=[] if (row + column + which) % 2 else pytest.mark.slow)
    for row, kind in enumerate(("one", "counts", "path"))
    for column, size in enumerate(((1, 0), (5, 3), (16, 16), (64, 8), (64, 16)))
    for which, name in enumerate(("lightning_attention", "mlstm"))
]


@pytest.mark.parametrize(("kind", "buffer", "window", "name"), ENDS)
def test_the_end_of_a_step(
    kind: str, buffer: int, window: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hundreds of rows with right and wrong numbers against what is said of one row."""
    module = made(name).module
    unchecked(monkeypatch, module, folds=False)
    slots, tokens = 600, max(1, window)
    draw = random.Random(f"{kind} {buffer} {window}")
    cache = module.Cache.empty(slots, device="cpu", buffer=buffer, window=window)
    order = draw.sample(range(slots), 500)
    given = [slot if draw.random() < 0.95 else draw.choice([-1, slots, *INT32]) for slot in order]
    table = []
    for _ in range(slots):
        kept = {
            "one": 1,
            "counts": wild(draw, 0, tokens),
            "path": path_of(draw, tokens),
        }[kind]
        table.append(
            Row(
                wild(draw, 0, buffer),
                draw.choice([0, draw.getrandbits(64), draw.getrandbits(64)]),
                draw.choice([0, -tokens, wild(draw, -tokens, 1)]),
                kept,
                draw.random() < 0.1,
            )
        )
    for name_, column in (("cursors", "cursor"), ("pending", "pending"), ("skipped", "skipped")):
        values = [signed(getattr(row, column)) for row in table]
        cache.tensors[name_].copy_(torch.tensor(values))
    rows = [table[slot] for slot in order]
    force = torch.tensor([row.force for row in rows])
    kept = torch.tensor([row.kept for row in rows], dtype=torch.int32)
    if kind == "one":
        module.advance(cache, ids(*given), force)
    else:
        module.accept(cache, ids(*given), **{kind: kept}, force=force)
    entries = []
    for slot, row in zip(given, rows, strict=True):
        if 0 <= slot < slots:
            entry = row.end(buffer, max(1, window), name == "mlstm")
            entries += [(slot, entry[0], signed(entry[1]))] if entry else []
    for name_, column in (("cursors", "cursor"), ("pending", "pending"), ("skipped", "skipped")):
        assert cache.tensors[name_].tolist() == [signed(getattr(row, column)) for row in table]
    work = cache.tensors["work"].tolist()
    assert work[: 1 + 3 * len(entries)] == [len(entries), *(n for entry in entries for n in entry)]


# wrong values ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gated_deltanet", "kimi_delta_attention_bounded", "mlstm"])
def test_no_value_of_a_row_reaches_another(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the numbers on the device are, a call changes its own rows."""
    slots, window = 7, 3
    pair = twin(name, layers=2, slots=slots, buffer=5, window=window)
    unchecked(monkeypatch, pair.module)
    draw = random.Random(name)
    pair.admit(range(slots))
    cache, module = pair.cache, pair.module

    def of(each: Callable[[], Any], count: int) -> torch.Tensor:
        return torch.tensor([each() for _ in range(count)], dtype=torch.int32)

    for turn in range(40):
        cache.cursors.copy_(of(lambda: wild(draw, 0, 5), slots))
        cache.tensors["pending"].copy_(of(lambda: wild(draw, -window, 1), slots))
        marks = [signed(draw.getrandbits(64)) for _ in range(slots)]
        cache.tensors["skipped"].copy_(torch.tensor(marks))
        used = draw.sample(range(slots), 3)
        rows = [*used, draw.choice([-1, slots, *INT32])]
        before = {each: bits(x).clone() for each, x in cache.tensors.items() if each != "work"}
        call = ("decode", "recurrent", "counts", "path", "advance", "flush", "read")[turn % 7]
        force = torch.tensor([draw.random() < 0.5 for _ in rows])
        if call in ("decode", "recurrent"):
            inputs = pair.inputs([*used, -1])
            getattr(module, call)(cache, turn % 2, ids(*rows), **inputs, **pair.params[0])
        elif call == "counts":
            counts = of(lambda: wild(draw, 0, window), 4)
            module.accept(cache, ids(*rows), counts=counts, force=force)
        elif call == "path":
            path = torch.tensor([path_of(draw, window) for _ in rows], dtype=torch.int32)
            module.accept(cache, ids(*rows), path=path)
        elif call == "advance":
            module.advance(cache, ids(*rows), force)
        elif call == "flush":
            module.flush(cache, ids(*rows))
        else:
            cache.read(turn % 2, ids(*rows))
        others = [slot for slot in range(slots) if slot not in used]
        for each, x in before.items():
            assert torch.equal(bits(cache.tensors[each])[others], x[others]), (call, each)


def test_values_that_are_wrong_for_a_row_are_cut_to_what_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = twin("gated_deltanet", buffer=6, window=3)
    unchecked(monkeypatch, pair.module)
    pair.admit([0, 1])
    pair.step([0])
    pair.module.decode(pair.cache, 0, ids(0, 1), **pair.inputs([0, 1]), **pair.params[0])
    pair.module.accept(pair.cache, ids(0, 1), counts=ids(99, -5))
    assert pair.cache.cursors[:2].tolist() == [2, 0]


def test_marks_from_the_cursor_on_mean_nothing() -> None:
    pair = twin("gated_deltanet", buffer=6)
    pair.admit([0])
    pair.step([0])
    pair.step([0])
    pair.cache.tensors["skipped"][0] = -1 << 2
    pair.step([0])
    pair.cache.tensors["skipped"][0] = -1 << 3
    pair.compare()
    within(pair)
    pair.cache.cursors[0] = 1
    pair.cache.tensors["skipped"][0] = -1 << 1
    one = pair.cache.read(0, ids(0))
    pair.module.flush(pair.cache)
    assert torch.equal(pair.cache.read(0, ids(0)), one)
