"""Several tokens a row: drafts that are verified and accepted in part, prompts, and rows that do
different things in one step; against the recurrence in float64, in the interpreter."""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import cycle
from typing import Any

import pytest
import torch
from twins import LAYERS, OTHERS, SPECS, changed, ids, made, snapshot, twin, within_rounding
from wrong_values import WRONG, spoilt

from kvgen import compiler
from kvgen.checking.checker import SAME
from kvgen.checking.errors import worst
from kvgen.checking.samples import Sampler, packed, padded, plain
from kvgen.checking.twin import Made, Tensors, Tokens, Twin
from kvgen.checking.windows import KINDS, Extend, Server, Verify, accepted, path_to, tree

pytestmark = pytest.mark.usefixtures("rounded")

# a column meets a state of 16 bits in two parts, of which bfloat16 keeps 16 bits
IN_PARTS = 1e-5
# every state with every kind of record and either layout, dealt over the specs
STORED = (
    "state=float32",
    "state=split records=input",
    "state=bfloat16 records=input",
    "state=float32 records=input layout=vk",
    "state=split layout=vk",
    "state=float16",
)
DEALT = list(zip([*SPECS, *OTHERS, *LAYERS], cycle(STORED), strict=False))
DEALT_AGAIN = list(zip([*SPECS, *OTHERS, *LAYERS], cycle([*STORED[3:], *STORED[:3]]), strict=False))
# with carried states, decays of either channel, several writes, reads over V, grouped heads
VARIED = [
    ("gated_deltanet", "state=split records=input"),
    ("kimi_delta_attention", "state=float32"),
    ("mamba2", "state=bfloat16 layout=vk"),
    ("mlstm", "state=float32"),
    ("gated_oja", "state=float32 records=input"),
    ("gated_deltaproduct", "state=float16"),
]


def dealt(kinds: Iterable[str]) -> list[tuple[tuple[str, str], str]]:
    """Two of the varied modules for each of the kinds."""
    kinds = list(kinds)
    return [*zip(cycle(VARIED), kinds, strict=False), *zip(cycle(VARIED[3:]), kinds, strict=False)]


# random steps ------------------------------------------------------------------------------------


def serve(pair: Twin, server: Server, steps: int) -> None:
    """Rows come one after the other, are flushed, copied in mid-buffer and recycled."""
    pair.admit([1, 4])
    for step in range(steps):
        if step == 2:
            pair.reset([2])
        pair.layout = (plain, packed, padded)[step % 3]
        server.step([1, 4] if step < 2 else [1, 4, 2])
        if step % 9 == 4:
            pair.copy([4, 1], [3, 0])
            pair.flush([1, -1, 2])
        if step % 9 == 7:
            server.step([0, 3])
            pair.reset([2])
        if step % 3 == 2:
            pair.compare()
    pair.compare()
    within_rounding(pair)


@pytest.mark.parametrize(("name", "storage"), DEALT)
def test_random_steps(name: str, storage: str) -> None:
    pair = twin(name, *storage.split(), slots=6, buffer=16, window=5, seed=1)
    serve(pair, Server(pair, random.Random(name), windows=range(1, 6)), steps=11)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "storage"), [*DEALT, *DEALT_AGAIN])
def test_more_random_steps(name: str, storage: str) -> None:
    most = made(name).analysis.form.factored
    buffer = 16 if most else 40
    pair = twin(name, *storage.split(), slots=6, layers=2, buffer=buffer, window=16, seed=2)
    server = Server(pair, random.Random(name), windows=range(1, 17), longest=37)
    serve(pair, server, steps=80)


@pytest.mark.parametrize(("name", "storage"), VARIED)
def test_sixteen_nodes(name: str, storage: str) -> None:
    pair = twin(name, *storage.split(), slots=3, layers=2, buffer=20, window=16, seed=3)
    pair.admit([2, 0])
    pair.step([2, 0])
    draw = random.Random(3)
    for _ in range(3):
        trees = [tree(draw, 16) for _ in range(3)]
        paths = [accepted(draw, each) for each in trees]
        pair.together(Verify(pair, [0, -1, 2], 16, parents=trees, paths=paths))
        pair.compare()
    pair.step([0, 2])
    pair.compare()
    within_rounding(pair)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["gated_deltanet", "mlstm"])
def test_inputs_of_sixteen_bits(name: str, dtype: torch.dtype) -> None:
    pair = twin(name, "records=input", slots=6, buffer=16, window=4, dtype=dtype, seed=4)
    serve(pair, Server(pair, random.Random(4)), steps=10)


def test_random_trees() -> None:
    """What the tests above draw: paths are paths, and all kinds of them come."""
    draw = random.Random(0)
    depths, lengths = set(), set()
    for _ in range(300):
        parents = tree(draw, draw.randint(1, 16))
        assert all(parent < node for node, parent in enumerate(parents))
        paths = [path_to(parents, node) for node in range(len(parents))]
        depths.add(max(map(len, paths)))
        path = accepted(draw, parents)
        assert path in [[], *paths]
        lengths.add(len(path))
    assert depths == set(range(1, 9)) and lengths == set(range(9))


# what is equal to what ---------------------------------------------------------------------------


# random steps verify single tokens, too: of every second recurrence they are slow here
ALONE = [
    pytest.param(*each, marks=pytest.mark.slow if place % 2 else [])
    for place, each in enumerate(DEALT)
]


@pytest.mark.parametrize(("name", "storage"), ALONE)
def test_one_token_is_a_decode(name: str, storage: str) -> None:
    bound = SAME if "state=float32" in storage else IN_PARTS
    # no row folds: another last bit may round a state of 16 bits to its other neighbour
    pairs = [twin(name, *storage.split(), buffer=8, window=1, seed=5) for _ in range(2)]
    for pair in pairs:
        pair.admit([5, 2])
    decoded, verified = pairs
    for token in range(6):
        rows = [2, -1, 5] if token % 2 else [5, 2]
        first = Tokens(decoded, rows)
        second = Verify(verified, rows, 1, counts=[1] * len(rows))
        pair = zip(decoded.together(first)[0], verified.together(second)[0], strict=True)
        for wanted, got in pair:
            assert worst(got[:, 0], wanted) <= bound
    assert torch.equal(decoded.cache.cursors, verified.cache.cursors)
    states = decoded.read(0, [5, 2])
    for each, got in verified.read(0, [5, 2]).items():
        assert worst(got, states[each]) <= bound, each


@pytest.mark.parametrize(("name", "storage"), VARIED)
def test_a_tree_may_be_a_chain(name: str, storage: str) -> None:
    pairs = [twin(name, *storage.split(), buffer=8, window=4, seed=6) for _ in range(2)]
    outputs = []
    for pair, parents in zip(pairs, (None, [[-1, 0, 1, 2]] * 2), strict=True):
        pair.admit([5, 2])
        pair.step([2, 5])
        drafts = Verify(pair, [5, 2], 4, parents=parents, counts=[3, 4])
        outputs.append(pair.together(drafts)[0][0])
    assert worst(outputs[1].flatten(0, 1), outputs[0].flatten(0, 1)) <= SAME
    states = pairs[0].read(0, [5, 2])
    for each, got in pairs[1].read(0, [5, 2]).items():
        assert worst(got, states[each]) <= SAME, each


@pytest.mark.parametrize(("name", "storage"), VARIED)
def test_drafts_leave_records_only(name: str, storage: str) -> None:
    pair = twin(name, *storage.split(), layers=2, buffer=9, window=3, seed=7)
    pair.admit([4, 2])
    pair.step([4, 2])
    pair.step([-1, 4])
    before = snapshot(pair)
    exact = {slot: pair.read(1, [slot]) for slot in (4, 2)}
    drafts = Verify(pair, [2, -1, 4], 3, counts=[0, 0, 0])
    drafts.forgotten(1)
    after = snapshot(pair)
    carried = {carry.tensor.name for carry in pair.form.carries}
    recorded = {stored.name: stored.heads for stored in pair.records.stored}
    assert changed(before, after) <= {*carried, *recorded, "pending"}
    assert pair.cache.tensors["pending"].tolist() == [0, 0, -3, 0, -3, 0, 0, 0]
    for each in changed(before, after) - {"pending"}:
        # carried states lie one behind their records
        first, axis = (1, 2) if each in carried else (0, 3 if recorded[each] else 2)
        there = (before[each] != after[each]).movedim(axis, 2)
        places = {tuple(at[:3]) for at in there.nonzero().tolist()}
        held = {2: 1, 4: 2}
        assert places <= {
            (slot, 1, held[slot] + first + node) for slot in (2, 4) for node in range(3)
        }
    for slot, states in exact.items():
        assert all(torch.equal(pair.read(1, [slot])[each], x) for each, x in states.items())


def test_a_dropped_window_leaves_the_next_step_alone() -> None:
    """Whatever was verified before, a decode adds one token and a verify its own."""
    pair = twin("gated_deltanet", buffer=9, window=4)
    pair.reset([1, 3])
    long = Verify(pair, [3, 1], 4, counts=[4, 4])
    pair.drop(long)
    pair.step([3, 1])
    assert pair.cache.cursors[[1, 3]].tolist() == [1, 1]
    pair.drop(long)
    pair.together(Tokens(pair, [1, 3], counts=[1, 0]))
    assert pair.cache.cursors[[1, 3]].tolist() == [2, 1]
    pair.drop(long)
    pair.together(Verify(pair, [1, 3], 2, counts=[2, 1]))
    assert pair.cache.cursors[[1, 3]].tolist() == [4, 2]
    pair.drop(long)
    pair.step([1], kernel="recurrent")
    pair.drop(Verify(pair, [3], 4, counts=[4]))
    pair.together(Extend(pair, [3], [2], 3))
    assert pair.cache.cursors[[1, 3]].tolist() == [0, 0]
    pair.compare()
    within_rounding(pair)


@pytest.mark.newest
def test_rows_of_different_kinds_share_a_step() -> None:
    pair = twin("mlstm", layers=2, buffer=7, window=3, seed=8)
    pair.admit([0, 1, 2, 3, 4])
    for _ in range(3):
        pair.together(
            Tokens(pair, [3, -1]),
            Tokens(pair, [4], kernel="recurrent"),
            Verify(pair, [2, 0], 3, parents=[[-1, -1, 1], [-1, 0, 0]], paths=[[1, 2], [0]]),
            Extend(pair, [-1, 1], [4, 5], 6),
        )
        pair.compare()
    within_rounding(pair)


# what a spec may say -----------------------------------------------------------------------------

SAID = {
    # the tokens that fill a block up must not meet those that are there
    "zeros are no keys": (
        "b: [HV]",
        "k = k / sqrt(k @ k)",
        "S = S + outer(k, sigmoid(b) * (v - k @ S))",
        "o = (q / sqrt(q @ q)) @ S",
    ),
    # logarithms of 0 are infinite
    "a decay of 0": (
        "f: {axes: [HV], range: [0, 1]}",
        "S = f * S + outer(l2norm(k), v)",
        "o = q @ S",
    ),
    "channels with a decay of 0": (
        "f: {axes: [HV, K], range: [0, 1]}",
        "k = l2norm(k)",
        "S = f * S",
        "S = S + outer(k, 0.5 * (v - k @ S))",
        "o = q @ S",
    ),
    "values with a decay of 0": (
        "f: {axes: [HV, V], range: [0, 1]}",
        "k = l2norm(k)",
        "S = f * S",
        "S = S + outer(k, 0.5 * (v - k @ S))",
        "o = q @ S",
    ),
}


@pytest.mark.parametrize("what", SAID)
def test_zeros(what: str) -> None:
    given, *step = SAID[what]
    lines = "\n".join(f"  {line}" for line in step)
    analysis = compiler.analyse(f"""
kvgen: 1
name: zeros
sizes: {{H: 1, HV: 2, K: 16, V: 8}}
inputs:
  q: [H, K]
  k: [H, K]
  v: [HV, V]
  {given}
state:
  S: [HV, K, V]
step: |
{lines}
""")

    def change(sampler: Sampler, tensors: Tensors, token: int | None) -> Tensors:
        if token is None or "f" not in tensors:
            return tensors
        return {**tensors, "f": tensors["f"].masked_fill(sampler.uniform(tensors["f"]) < 0.3, 0.0)}

    pair = Twin(
        Made(analysis, compiler.built(analysis)), "cpu", slots=6, layers=1, buffer=11, window=3,
        seed=14, change=change,
    )  # fmt: skip
    serve(pair, Server(pair, random.Random(14), windows=(1, 3), longest=5), steps=7)


# where accepted records lie ----------------------------------------------------------------------


def test_accepted_records_stay_where_they_are() -> None:
    pair = twin("gated_deltanet", slots=2, buffer=12, window=4)
    pair.reset([1])
    cursors, skipped = pair.cache.cursors, pair.cache.tensors["skipped"]
    schedule = [
        # parents, path; cursor, places that are skipped
        ([-1, -1, 0, 1], [1, 3], 4, [0, 2]),
        ([-1, 0], [], 4, [0, 2]),
        ([-1, -1, -1], [2], 7, [0, 2, 4, 5]),
        ([-1], [0], 8, [0, 2, 4, 5]),
        ([-1, -1], [1], 0, []),
        ([-1, 0, 0, 2], [0, 2, 3], 4, [1]),
    ]
    for parents, path, cursor, marked in schedule:
        drafts = Verify(pair, [-1, 1], len(parents), parents=[parents] * 2, paths=[path] * 2)
        drafts.run(0)
        drafts.end()
        assert cursors.tolist() == [0, cursor]
        below = int(skipped[1]) & (1 << cursor) - 1
        assert [place for place in range(cursor) if below >> place & 1] == marked
        assert not pair.cache.tensors["pending"].any()
        pair.compare()
    within_rounding(pair)


@pytest.mark.parametrize("name", ["gated_deltanet", "mlstm"])
def test_skipped_places_are_copied_and_forgotten(name: str) -> None:
    pair = twin(name, layers=2, buffer=9, window=4, seed=9)
    pair.admit([0, 5])
    drafts = [[-1, -1, 0, 1], [-1, -1, -1, 2]]
    pair.together(Verify(pair, [5, 0], 4, parents=drafts, paths=[[1, 3], [2]]))
    pair.copy([5, 0], [2, 3])
    pair.step([2, 3, 0, 5])
    pair.compare()
    pair.flush([0, 2])
    pair.step([2, 0])
    pair.admit([3])
    pair.step([3, 5])
    pair.step([3, 5], kernel="recurrent")
    pair.compare()
    within_rounding(pair)
    pair.cache.reset(ids(2, 3))
    assert pair.cache.tensors["skipped"][[2, 3]].tolist() == [0, 0]


NEXT = dealt([*dict.fromkeys(KINDS), "flush"])


@pytest.mark.parametrize(("made_of", "kind"), NEXT)
def test_skipped_places_are_passed_over(made_of: tuple[str, str], kind: str) -> None:
    """The first, some in the middle, several in a row; whatever comes next."""
    name, storage = made_of
    pair = twin(name, *storage.split(), slots=6, buffer=14, window=4, seed=15)
    pair.admit([0, 5])
    for trees, paths in [
        ([[-1, -1, 0, 1], [-1, -1, -1, 2]], [[1, 3], [2]]),
        ([[-1, 0, 0, 0], [-1, -1, 0, 2]], [[0, 3], [0, 2, 3]]),
    ]:
        pair.together(Verify(pair, [5, 0], 4, parents=trees, paths=paths))
    pair.compare()
    if kind == "flush":
        pair.flush()
    else:
        server = Server(pair, random.Random(15), [kind], longest=5, wasted=0)
        pair.together(server.drawn(kind, [5, 0, -1]))
    pair.compare()
    pair.step([0, 5])
    within_rounding(pair)


def test_a_row_that_accepts_nothing_is_folded_by_force_only() -> None:
    pair = twin("gated_deltanet", buffer=6, window=3)
    pair.admit([0, 1])
    pair.step([0, 1])
    pair.together(Verify(pair, [1, 0], 3, counts=[0, 0], force=[False, True]))
    assert pair.cache.cursors.tolist()[:2] == [0, 1]
    pair.together(Verify(pair, [1, 0], 3, counts=[3, 0]))
    assert pair.cache.cursors.tolist()[:2] == [0, 0]
    pair.compare()
    within_rounding(pair)


def test_a_step_ends_in_two_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = twin("gated_deltanet", layers=3, buffer=6, window=3)
    pair.admit([0, 1])
    trees = [[-1, -1, 1], [-1, 0, 1]]
    drafts = Verify(pair, [1, 0], 3, parents=trees, paths=[[1, 2], [0, 1, 2]], force=[True, False])
    for layer in range(3):
        drafts.run(layer)
    launches: list[object] = []
    launch = pair.module.launch
    monkeypatch.setattr(
        pair.module, "launch", lambda *given, **options: launches.append(launch(*given, **options))
    )
    drafts.end()
    assert len(launches) == 2
    pair.compare()
    within_rounding(pair)


# prompts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "storage"), VARIED)
def test_prompts_in_chunks(name: str, storage: str) -> None:
    """A long prompt at once and in chunks, on a fresh row; then tokens on top of either."""
    pair = twin(name, *storage.split(), slots=4, buffer=5, window=2, seed=10)
    pair.reset([0, 2])
    pair.together(Extend(pair, [2, -1, 0], [41, 3, 17], 44))
    pair.compare()
    pair.together(Extend(pair, [0, 2], [16, 0]))
    pair.together(Extend(pair, [0, 2], [1, 33]))
    pair.compare()
    pair.step([2, 0])
    pair.together(Verify(pair, [2, 0], 2, counts=[1, 2]))
    pair.compare()
    within_rounding(pair)


def test_prompts_of_no_tokens_change_nothing() -> None:
    pair = twin("mlstm", layers=2, buffer=6, window=2, seed=11)
    pair.admit([3, 1])
    pair.step([3, 1])
    before = snapshot(pair)
    pair.together(Extend(pair, [1, -1, 3], [0, 2, 0], 4))
    assert changed(before, snapshot(pair)) == set()
    inputs = pair.inputs([], 3)
    out = pair.module.extend(pair.cache, 0, ids(), **inputs, **pair.params[0], lengths=ids())
    assert out.shape == (0, 3, 1, 8)
    out = pair.module.verify(pair.cache, 0, ids(), **pair.inputs([], 2), **pair.params[0])
    assert out.shape == (0, 2, 1, 8)
    pair.module.accept(pair.cache, ids(), counts=ids())
    pair.compare()
    within_rounding(pair)


@pytest.mark.parametrize("kernel", ["verify", "extend"])
def test_out(kernel: str) -> None:
    pair = twin("gated_deltanet", dtype=torch.bfloat16, window=3, buffer=5)
    pair.admit([1, 2])
    given = {**pair.inputs([2, -1, 1], 3), **pair.params[0]}
    given |= {"lengths": ids(3, 1, 2)} if kernel == "extend" else {}
    call = getattr(pair.module, kernel)
    states = pair.cache.read(0, ids(1, 2))
    got = call(pair.cache, 0, ids(2, -1, 1), **given)
    assert got.shape == (3, 3, 2, 8) and got.dtype == torch.bfloat16
    pair.module.accept(pair.cache, ids(2, -1, 1), counts=ids(3, 1, 2))
    pair.cache.reset(ids(1, 2))
    pair.cache.load(0, ids(1, 2), states)
    wide = torch.full((3, 4, 2, 11), float("nan"), dtype=torch.bfloat16)
    again = call(pair.cache, 0, ids(2, -1, 1), **given, out=wide[:, :3, :, :8])
    assert again.data_ptr() == wide.data_ptr()
    assert torch.equal(again, got)
    assert wide[..., 8:].isnan().all() and wide[:, 3].isnan().all()


def test_a_prompt_is_not_read_before_its_end() -> None:
    pair = twin("gated_deltanet", layers=2, buffer=5, window=3)
    pair.admit([1, 2])
    Extend(pair, [2, -1], [3, 1]).run(0)
    for early in (
        lambda: Verify(pair, [1, 2], 2, counts=[0, 0]).run(1),
        lambda: Tokens(pair, [2]).run(1),
        lambda: pair.cache.read(0, ids(2)),
    ):
        with pytest.raises(ValueError, match="slot 2"):
            early()
    Verify(pair, [1], 2, counts=[0]).run(1)


# wrong values ------------------------------------------------------------------------------------


def stay_in_their_row(name: str, storage: str, wrong: str, steps: int) -> None:
    module = made(name, *storage.split()).module
    with pytest.MonkeyPatch.context() as patch:
        # so that they reach the kernels, as on a GPU
        patch.setattr(module, "strict", lambda _: False)
        spoilt(
            lambda: twin(name, *storage.split(), slots=6, buffer=7, window=4, seed=12), wrong, steps
        )


@pytest.mark.parametrize(("made_of", "wrong"), dealt(WRONG))
def test_wrong_values_stay_in_their_row(made_of: tuple[str, str], wrong: str) -> None:
    stay_in_their_row(*made_of, wrong, steps=6)


@pytest.mark.slow
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(("name", "storage"), VARIED)
def test_many_wrong_values_stay_in_their_row(name: str, storage: str, wrong: str) -> None:
    stay_in_their_row(name, storage, wrong, steps=40)


CLAMPED = [
    ({"counts": [99, 2]}, {"counts": [4, 2]}),
    ({"counts": [-5, 2]}, {"counts": [0, 2]}),
    ({"path": [[0, 2, 1, 3], [0, 1, -1, 3]]}, {"path": [[0, 2, -1, -1], [0, 1, -1, -1]]}),
    ({"path": [[0, 0, 1, 2], [4, 0, 1, 2]]}, {"path": [[0, -1, -1, -1], [-1, -1, -1, -1]]}),
    ({"path": [[1, 99, 2, 3], [-7, 0, 1, 2]]}, {"path": [[1, -1, -1, -1], [-1, -1, -1, -1]]}),
    ({"parents": [[0, 1, 2, 2], [-9, 9, 0, 4]]}, {"parents": [[-1, -1, -1, 2], [-1, -1, 0, -1]]}),
    ({"lengths": [99, 3]}, {"lengths": [4, 3]}),
    ({"lengths": [-5, 3]}, {"lengths": [0, 3]}),
]


@pytest.mark.parametrize(("wrong", "right"), CLAMPED)
def test_wrong_values_are_clamped(
    wrong: dict[str, Any], right: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made("mlstm").module, "strict", lambda _: False)
    seen = []
    for values in (wrong, right):
        pair = twin("mlstm", slots=4, buffer=7, window=4, seed=13)
        pair.admit([1, 3])
        pair.step([1, 3])
        [(what, given)] = [(each, torch.tensor(x, dtype=torch.int32)) for each, x in values.items()]
        call = pair.module.extend if what == "lengths" else pair.module.verify
        extra = {what: given} if what in ("parents", "lengths") else {}
        out = call(pair.cache, 0, ids(3, 1), **pair.inputs([3, 1], 4), **pair.params[0], **extra)
        ended = {"counts": ids(*right.get("lengths", (4, 3)))} if extra else {what: given}
        pair.module.accept(pair.cache, ids(3, 1), **ended)
        seen.append((out, pair.read(0, [1, 3]), pair.cache.cursors))
    (wrong_out, wrong_states, wrong_cursors), (out, states, cursors) = seen
    assert torch.equal(wrong_out, out)
    assert torch.equal(wrong_cursors, cursors)
    assert all(torch.equal(wrong_states[each], states[each]) for each in states)


# texts of prompts ---------------------------------------------------------------------------------


def test_a_prompt_loads_what_is_the_same_for_all_blocks_once() -> None:
    text = compiler.emit(made("gated_deltanet").analysis)
    start = text.index("def _extend_kernel(")
    before, _, block = text[start : text.index("@triton.jit", start)].partition("in tl.range(")
    for name in ("A_log", "dt_bias"):
        assert f"{name} = tl.load(" in before
        assert f"{name} = tl.load(" not in block
    # a decay goes into values of several layouts, and each would compute it again
    assert "log_decay = _once(" in block
