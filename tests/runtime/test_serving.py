"""What a server asks of a module: memory of its own, slots of 64 bits with some for padding, packed
prompts, rows that leave and come back, drafts that are accepted late."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from twins import made

from kvgen.checking.errors import worst
from kvgen.checking.samples import Sampler
from kvgen.checking.twin import Made

LAYERS, SLOTS, WINDOW = 2, 6, 3
NAMES = ["gated_deltanet", "mlstm", "kimi_delta_attention"]


class Server:
    """Rows by request: a cache in memory that the server allocated, and the exact states."""

    def __init__(self, name: str, *storage: str, short: int = 0, apart: bool = False) -> None:
        self.made: Made = made(name, *storage)
        self.module, spec = self.made.module, self.made.analysis.spec
        options = {"dtype": torch.float32, "buffer": 6, "window": WINDOW, "short_context": short}
        layout = self.module.Cache.layout(SLOTS, LAYERS, **options)
        tensors: dict[str, Any] = {
            name: torch.full(each.shape, -1 if "pages" in name else 0, dtype=each.dtype)
            for name, each in layout.items()
            if name not in ("skipped", "pending", "work")
        }
        if apart:
            # each layer has tensors of its own
            for held in self.module.Cache.table.held:
                shape, dtype = layout[held.name].shape, layout[held.name].dtype
                own = (shape[0], *shape[2:])
                tensors[held.name] = [torch.zeros(own, dtype=dtype) for _ in range(LAYERS)]
        more = {"short_context": short, "buffer": 6} if short else {}
        self.cache = self.module.Cache.wrap(tensors, window=WINDOW, first_slot=1, **more)
        self.sampler = Sampler(spec, "cpu", 5)
        self.params = [self.sampler.params() for _ in range(LAYERS)]
        self.exact: dict[str, list[dict[str, torch.Tensor]]] = {}
        self.errors: list[float] = []
        self.cache.reset(torch.arange(SLOTS))

    def begin(self, request: str) -> None:
        self.exact[request] = [self.fresh() for _ in range(LAYERS)]

    def fresh(self) -> dict[str, torch.Tensor]:
        spec = self.made.analysis.spec
        return {
            each.name: torch.full((1, *map(spec.size, each.axes)), each.init, dtype=torch.float64)
            for each in spec.states
        }

    def drawn(self, tokens: int) -> dict[str, torch.Tensor]:
        return self.sampler.inputs(tokens, torch.float32)

    def follow(self, request: str, layer: int, inputs: Any, got: torch.Tensor, keep: int) -> None:
        """The recurrence over a row's tokens, beside what came out; the first ones stay."""
        state = self.exact[request][layer]
        params = {name: x.double() for name, x in self.params[layer].items()}
        for token in range(got.shape[0]):
            given = {name: x[token : token + 1].double() for name, x in inputs.items()}
            wanted, state = self.module.reference(state, **given, **params)
            self.errors.append(worst(got[token : token + 1], wanted))
            if token < keep:
                self.exact[request][layer] = state

    def states(self, request: str, slot: int) -> None:
        for layer in range(LAYERS):
            read = self.cache.read(layer, torch.tensor([slot]))
            read = read if isinstance(read, dict) else {self.made.analysis.form.state.name: read}
            for name, got in read.items():
                self.errors.append(worst(got, self.exact[request][layer][name]))


def ids(*slots: int) -> torch.Tensor:
    return torch.tensor(slots, dtype=torch.int64)


def counts(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


@pytest.mark.parametrize("kind", ["whole", "apart", "short"])
@pytest.mark.parametrize("name", NAMES)
def test_a_serving_loop(name: str, kind: str) -> None:
    short = 16 if kind == "short" else 0
    server = Server(name, short=short, apart=kind == "apart")
    module, cache = server.module, server.cache
    if short:
        cache.reserve([1, 2, 3, 4], 40)
    # three prompts one behind the other, the second of them padding
    server.begin("a")
    server.begin("b")
    starts, slots = counts(0, 5, 7, 11), ids(3, 0, 1)
    for layer in range(LAYERS):
        inputs = server.drawn(12)
        out = module.extend(cache, layer, slots, **inputs, **server.params[layer], starts=starts)
        assert not out[5:7].any()
        for request, first, last in (("a", 0, 5), ("b", 7, 11)):
            part = {key: x[first:last] for key, x in inputs.items()}
            server.follow(request, layer, part, out[first:last], last - first)
    module.accept(cache, slots, counts=starts.diff())
    server.states("a", 3)
    # drafts, of which it is known only when the next step begins how many are kept
    rows = {"a": 3, "b": 1}
    for turn in range(6):
        kept = [1 + turn % 3, 3 - turn % 3]
        slots = ids(*rows.values(), 0)
        for layer in range(LAYERS):
            inputs = {key: x.unflatten(0, (3, 3)) for key, x in server.drawn(9).items()}
            out = module.verify(cache, layer, slots, **inputs, **server.params[layer])
            assert not out[2].any()
            for row, request in enumerate(rows):
                part = {key: x[row] for key, x in inputs.items()}
                server.follow(request, layer, part, out[row], kept[row])
        # a row that was not part of that step is left as it is
        before = cache.cursors[4].item()
        module.accept(cache, ids(*rows.values(), 4), counts=counts(*kept, 2), late=True)
        assert cache.cursors[4].item() == before
        if turn == 2:
            # one row leaves for the host, and comes back elsewhere
            saved = {key: x.cpu().clone() for key, x in cache.save(ids(rows["b"])).items()}
            cache.reset(ids(rows["b"]))
            rows["b"] = 2
            cache.restore(ids(2), saved)
        server.states("a", rows["a"])
        server.states("b", rows["b"])
    # and a row is decoded alone
    slots = ids(0, rows["b"])
    for layer in range(LAYERS):
        inputs = server.drawn(2)
        out = module.decode(cache, layer, slots, **inputs, **server.params[layer])
        assert not out[0].any()
        server.follow("b", layer, {key: x[1:] for key, x in inputs.items()}, out[1:], 1)
    module.advance(cache, slots)
    server.states("b", rows["b"])
    assert max(server.errors) < 2e-5


def test_cursors_are_set_on_the_device() -> None:
    server = Server("gated_deltanet")
    module, cache = server.module, server.cache
    server.begin("a")
    for token in range(3):
        for layer in range(LAYERS):
            inputs = server.drawn(1)
            out = module.decode(cache, layer, ids(2), **inputs, **server.params[layer])
            # the last token is taken back
            server.follow("a", layer, inputs, out, int(token < 2))
        module.advance(cache, ids(2))
    cache.seek(ids(2, 0), counts(2, 5))
    assert cache.cursors.tolist() == [0, 0, 2, 0, 0, 0]
    server.states("a", 2)
    assert max(server.errors) < 1e-5
    with pytest.raises(ValueError, match="cursors: 7 for slot 2, expected 0 to buffer = 6"):
        cache.seek(ids(2), counts(7))


def test_rows_come_back_into_another_cache() -> None:
    server = Server("gated_deltanet", "state=split", "records=input")
    module, cache = server.module, server.cache
    server.begin("a")
    for _ in range(3):
        for layer in range(LAYERS):
            inputs = server.drawn(1)
            out = module.decode(cache, layer, ids(5), **inputs, **server.params[layer])
            server.follow("a", layer, inputs, out, 1)
        module.advance(cache, ids(5))
    saved = cache.save(ids(5, 0))
    # padding has nothing
    assert not any(x[1].any() for name, x in saved.items() if name != "spec")
    alone = {name: x[:1] for name, x in saved.items()}
    other = module.Cache.empty(3, LAYERS, device="cpu", dtype=torch.float32, buffer=9)
    other.restore(ids(0), alone)
    for layer in range(LAYERS):
        assert torch.equal(other.read(layer, ids(0)), cache.read(layer, ids(5)))
    small = module.Cache.empty(3, LAYERS, device="cpu", dtype=torch.float32, buffer=2)
    with pytest.raises(ValueError, match="a cursor of 3, expected 0 to buffer = 2"):
        small.restore(ids(0), alone)
    with pytest.raises(ValueError, match="saved: rows of another spec"):
        other.restore(ids(0), {**alone, "spec": alone["spec"] + 1})
    with pytest.raises(ValueError, match="saved: cursors, skipped missing"):
        other.restore(ids(0), {n: x for n, x in alone.items() if n not in ("cursors", "skipped")})
    half = module.Cache.empty(3, LAYERS, device="cpu", dtype=torch.bfloat16, buffer=9)
    with pytest.raises(ValueError, match=r"saved: .* expected .* torch.bfloat16"):
        half.restore(ids(0), alone)


def test_a_layout_is_what_is_allocated() -> None:
    module = made("mlstm").module
    options = {"dtype": torch.float16, "buffer": 5, "window": 2}
    layout = module.Cache.layout(7, 3, **options)
    cache = module.Cache.empty(7, 3, device="cpu", **options)
    assert layout.keys() == cache.tensors.keys()
    for name, tensor in cache.tensors.items():
        size = tensor.numel() * tensor.element_size()
        assert layout[name] == (tuple(tensor.shape), tensor.dtype, size)
    meta = {name: x.to("meta") for name, x in cache.tensors.items()}
    assert module.Cache.wrap(meta, window=2).buffer == 5


def test_what_a_module_says_of_itself() -> None:
    built = made("gated_deltanet")
    module, spec = built.module, built.analysis.spec
    assert {each.name: each.axes for each in spec.inputs} == module.INPUTS
    assert {each.name: each.axes for each in spec.params} == module.PARAMS
    assert {each.name: each.axes for each in spec.states} == module.STATES
    assert dict(spec.sizes) == module.SIZES


@pytest.mark.parametrize(
    ("starts", "message"),
    [
        (counts(0, 3, 2), r"starts: \[0, 3, 2\], expected numbers from 0 to 4 that do not decr"),
        (counts(0, 3, 5), "starts: .* expected numbers from 0 to 4"),
        (counts(0, 3), r"starts: \[2\] torch.int32 on cpu, expected contiguous \[3\]"),
    ],
)
def test_starts_are_checked(starts: torch.Tensor, message: str) -> None:
    server = Server("gated_deltanet")
    with pytest.raises(ValueError, match=message):
        server.module.extend(
            server.cache, 0, ids(1, 2), **server.drawn(4), **server.params[0], starts=starts
        )
    with pytest.raises(ValueError, match="lengths, starts: neither, expected one of them"):
        server.module.extend(server.cache, 0, ids(1, 2), **server.drawn(4), **server.params[0])


def test_tokens_of_no_prompt_are_blank() -> None:
    for tokens, starts, slots in (
        (12, counts(2, 5, 5, 9), ids(3, 1, 2)),
        (40, counts(20, 20), ids(3)),
        (3, counts(1), ids()),
    ):
        server = Server("gated_deltanet")
        module, cache = server.module, server.cache
        out = torch.full((tokens, cache.heads, 8), torch.nan)
        inputs = server.drawn(tokens)
        for x in inputs.values():
            x[: starts[0]] = x[starts[-1] :] = torch.nan
        module.extend(cache, 0, slots, **inputs, **server.params[0], starts=starts, out=out)
        assert not out[: starts[0]].any() and not out[starts[-1] :].any()
        assert out[starts[0] : starts[-1]].isfinite().all()


def test_a_copy_of_padding_changes_nothing() -> None:
    server = Server("gated_deltanet", short=16)
    module, cache = server.module, server.cache
    cache.reserve([2, 3], 20)
    for layer in range(LAYERS):
        module.decode(cache, layer, ids(2), **server.drawn(1), **server.params[layer])
    # slot 0 is padding here
    cache.copy(ids(0), ids(2))
    cache.copy(ids(2), ids(0))
    module.flush(cache, ids(0))
    module.advance(cache, ids(2))
    assert cache.cursors.tolist() == [0, 0, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("spec", None, r"spec is NoneType None, expected \[2\] torch.int64"),
        (
            "spec",
            torch.zeros(0, dtype=torch.int64),
            r"spec is \[0\] .*, expected \[2\] torch.int64",
        ),
        ("cursors", counts(-3, 0), "a cursor of -3, expected 0 to buffer = 6"),
        ("cursors", counts(0, 7), None),
    ],
)
def test_what_is_restored_is_checked(name: str, value: Any, message: str | None) -> None:
    cache = Server("gated_deltanet").cache
    saved = cache.save(ids(2, 0))
    given = saved | {name: value}
    if message is None:
        # of padding nothing is looked at
        cache.restore(ids(2, 0), given)
        return
    with pytest.raises(ValueError, match=f"saved: {message}"):
        cache.restore(ids(2, 0), given)


@pytest.mark.parametrize("short", [0, 16])
@pytest.mark.parametrize("slots", [[1], [1, 2, 3], []])
def test_as_many_rows_are_restored_as_there_are_slots(slots: list[int], short: int) -> None:
    module = made("mlstm").module
    options = {"dtype": torch.float32, "buffer": 6, "short_context": short}
    cache = module.Cache.empty(4, device="cpu", **options)
    saved = cache.save(ids(2, 0))
    # beside what else a server keeps of them
    for given in (saved, {**saved, "tokens": torch.zeros(9)}):
        with pytest.raises(
            ValueError, match=f"saved: 2 rows, expected as many as slots, {len(slots)}"
        ):
            cache.restore(torch.tensor(slots, dtype=torch.int32), given)


@pytest.mark.parametrize("name", ["gated_deltanet", "mlstm"])
def test_a_row_without_room_folds_where_it_comes_back(name: str) -> None:
    server = Server(name)
    module = server.module
    server.begin("a")
    decoded(server, "a", 5, 3)
    saved = server.cache.save(ids(5))
    options = {"device": "cpu", "dtype": torch.float32}
    server.cache = cache = module.Cache.empty(6, LAYERS, **options, buffer=4, window=3)
    cache.restore(ids(1), saved)
    assert cache.cursors.tolist() == [0] * 6
    server.states("a", 1)
    decoded(server, "a", 1, 3)
    assert max(server.errors) < 2e-5


def decoded(server: Server, request: str, slot: int, tokens: int) -> None:
    for _ in range(tokens):
        for layer in range(LAYERS):
            inputs = server.drawn(1)
            out = server.module.decode(
                server.cache, layer, ids(slot), **inputs, **server.params[layer]
            )
            server.follow(request, layer, inputs, out, 1)
        server.module.advance(server.cache, ids(slot))
        server.states(request, slot)


@pytest.mark.parametrize("short", [0, 40])
@pytest.mark.parametrize("name", ["gated_deltanet", "mlstm"])
def test_rows_with_fewer_records_than_their_cursors_say_are_refused(name: str, short: int) -> None:
    """And such as have as many come back."""
    tokens = 18 if short else 3
    server = Server(name, short=short)
    if short:
        server.cache.reserve([5, 2], 40)
    server.begin("a")
    decoded(server, "a", 5, tokens)
    saved = server.cache.save(ids(5))
    for held in server.module.Cache.table.held:
        # of pages there is an axis in front of layers
        paged = short and held.part == "record"
        axis = 1 if paged else None if short else held.places
        if axis is None:
            continue
        whole = saved[held.name]
        enough = 2 if paged else tokens + (held.part == "carried")
        message = f"saved: a cursor of {tokens}, expected 0 to places that are saved = "
        with pytest.raises(ValueError, match=message):
            cut = whole.narrow(axis, 0, enough - 1)
            server.cache.restore(ids(2), saved | {held.name: cut})
        saved[held.name] = whole.narrow(axis, 0, enough)
    server.cache.restore(ids(2), saved)
    server.states("a", 2)


@pytest.mark.parametrize("tokens", [5, 14, 19])
@pytest.mark.parametrize("name", NAMES)
def test_pages_come_back_into_other_pages(name: str, tokens: int) -> None:
    server = Server(name, short=16)
    module = server.module
    server.cache.reserve([5], 40)
    server.begin("a")
    decoded(server, "a", 5, tokens)
    saved = server.cache.save(ids(5, 0))
    options = {"device": "cpu", "dtype": torch.float32}
    for buffer, window, context in ((6, 1, 35), (9, 4, 16), (20, 2, 17)):
        options |= {"buffer": buffer, "window": window, "short_context": context}
        server.cache = cache = module.Cache.empty(4, LAYERS, **options)
        cache.reserve([2], max(40, context))
        cache.restore(ids(2, -1), saved)
        server.states("a", 2)
        saved = cache.save(ids(2, -1))
    decoded(server, "a", 2, 8)
    assert max(server.errors) < 2e-5
    small = module.Cache.empty(4, 2, **options | {"buffer": 2, "window": 1, "short_context": 3})
    small.reserve([2], 40)
    cursor = int(cache.cursors[2])
    with pytest.raises(ValueError, match=f"saved: a cursor of {cursor}, expected 0 to (buf|short)"):
        small.restore(ids(2), cache.save(ids(2)))


def test_where_rows_in_pages_may_be_set_to() -> None:
    for name, least in (("gated_deltanet", 0), ("mlstm", 3)):
        server = Server(name, short=16)
        server.cache.reserve([1], 40)
        server.begin("a")
        decoded(server, "a", 1, 3)
        for cursor in (17, *([2] if least else [])):
            message = f"cursors: {cursor} for slot 1, expected {least} to 16, its places"
            with pytest.raises(ValueError, match=message):
                server.cache.seek(ids(1), counts(cursor))
        with pytest.raises(ValueError, match="cursors: 1 for slot 2, expected 0 to 0, its places"):
            server.cache.seek(ids(2), counts(1))
        server.cache.seek(ids(1, 0), counts(3, 99))
        server.states("a", 1)


@pytest.mark.parametrize("at", ["heads", "buffer", "dtype", "slots", "rank"])
def test_layers_that_lie_apart_are_alike(at: str) -> None:
    module = made("gated_deltanet", "records=input").module
    options: dict[str, Any] = {"buffer": 6, "dtype": torch.float32}
    other = {"heads": 4, "buffer": 4, "dtype": torch.bfloat16}
    changed = options | {key: x for key, x in other.items() if key == at}
    caches = [
        module.Cache.empty(3, device="cpu", **options),
        module.Cache.empty(2 if at == "slots" else 3, device="cpu", **changed),
    ]
    names = [held.name for held in module.Cache.table.held]
    tensors: dict[str, Any] = {n: [c.tensors[n].squeeze(1) for c in caches] for n in names}
    if at == "rank":
        tensors["S"] = [c.tensors["S"] for c in caches]
    expected = "a list of tensors of 4 axes, slots first" if at == "rank" else r".* as in layer 0"
    with pytest.raises(ValueError, match=rf"\w+: .* expected {expected}"):
        module.Cache.wrap(tensors)
