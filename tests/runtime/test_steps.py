"""What ends a step is held to what its calls have left of every row, where values are checked;
steps that follow the protocol pass, whatever is dropped or run again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from twins import ids, made

from kvgen.checking.samples import Sampler
from kvgen.checking.twin import bits
from tests.runtime.test_arguments import refused, table

SLOTS, LAYERS, WINDOW = 6, 3, 4


class Server:
    """A cache, and calls of some layers with random inputs."""

    def __init__(self, name: str = "gated_deltanet", layers: int = LAYERS, **options: Any) -> None:
        pair = made(name)
        self.module, self.sampler = pair.module, Sampler(pair.analysis.spec, "cpu", 0)
        options = {"dtype": torch.float32, "buffer": 8, "window": WINDOW, **options}
        self.cache = self.module.Cache.empty(SLOTS, layers, device="cpu", **options)
        self.params = self.sampler.params()
        if "short_context" in options:
            self.cache.reserve(range(SLOTS), 16)

    def call(
        self, kernel: str, *slots: int, layers: Any = None, tokens: int = 2, **given: Any
    ) -> None:
        rows = len(slots)
        inputs = self.sampler.inputs(rows * tokens, torch.float32)
        inputs = {name: x.unflatten(0, (rows, tokens)) for name, x in inputs.items()}
        if kernel in ("decode", "recurrent"):
            inputs = {name: x[:, 0] for name, x in inputs.items()}
        if kernel == "extend" and "lengths" not in given:
            given["lengths"] = ids(*[tokens] * rows)
        for layer in range(self.cache.layers) if layers is None else layers:
            call = getattr(self.module, kernel)
            call(self.cache, layer, ids(*slots), **inputs, **self.params, **given)

    def advance(self, *slots: int) -> None:
        self.module.advance(self.cache, ids(*slots))

    def accept(self, *slots: int, counts: Any = None, path: Any = None) -> None:
        given = {"counts": ids(*counts)} if path is None else {"path": table(*path)}
        self.module.accept(self.cache, ids(*slots), **given)

    def memory(self) -> dict[str, torch.Tensor]:
        return {name: bits(x).clone() for name, x in self.cache.tensors.items()}

    def refuses(self, call: Callable[[], object], *parts: str) -> None:
        """Refused, and nothing is changed."""
        before = self.memory()
        refused(call, *parts)
        for name, x in self.memory().items():
            assert torch.equal(x, before[name]), name


@pytest.fixture(params=[{}, {"short_context": 40}], ids=["states", "pages"])
def server(request: pytest.FixtureRequest) -> Server:
    return Server(**request.param)


# how many tokens ---------------------------------------------------------------------------------


def test_a_decode_leaves_one_token(server: Server) -> None:
    server.call("decode", 3, -1, 0)
    said = ("counts: 4 for slot 0", "expected 0 to 1", "`decode`")
    server.refuses(lambda: server.accept(3, -1, 0, counts=(1, 9, 4)), *said)
    paths = [[0, -1], [7, 7], [0, 1]]
    said = ("path: [0, 1] for slot 0", "below 1", "`decode`")
    server.refuses(lambda: server.accept(3, -1, 0, path=paths), *said)
    server.accept(3, -1, 0, counts=(1, 9, 0))
    assert server.cache.cursors.tolist() == [0, 0, 0, 1, 0, 0]


def test_a_verify_leaves_its_tokens(server: Server) -> None:
    server.call("verify", 2, 5)
    said = ("counts: 3 for slot 5", "expected 0 to 2", "`verify`")
    server.refuses(lambda: server.accept(2, 5, counts=(2, 3)), *said)
    paths = [[0, -1, -1], [0, 1, 2]]
    server.refuses(lambda: server.accept(2, 5, path=paths), "path: [0, 1, 2] for slot 5", "below 2")
    server.accept(2, 5, counts=(2, 1))
    assert server.cache.cursors[[2, 5]].tolist() == [2, 1]


def test_the_last_verify_of_a_layer_counts(server: Server) -> None:
    server.call("verify", 2, 5, tokens=4)
    server.call("verify", 2, 5, tokens=2)
    server.refuses(lambda: server.accept(2, 5, counts=(3, 0)), "counts: 3 for slot 2", "0 to 2")
    server.call("decode", 5)
    server.refuses(lambda: server.accept(2, 5, counts=(2, 2)), "counts: 2 for slot 5", "0 to 1")
    server.accept(2, 5, counts=(2, 1))


@pytest.mark.parametrize("counts", [(4, 2), (6, 2), (5, 0), (5, 1)])
def test_a_prompt_is_kept_whole(server: Server, counts: tuple[int, int]) -> None:
    server.call("extend", 4, 1, tokens=5, lengths=ids(5, 2))
    if server.cache.short_context and counts[1] == 0:
        # records are dropped as they came
        server.accept(4, 1, counts=counts)
        assert server.cache.cursors[[4, 1]].tolist() == [5, 0]
        return
    row = counts != (5, 0) and counts != (5, 1)
    wrong = f"counts: {counts[0 if row else 1]} for slot {4 if row else 1}"
    server.refuses(lambda: server.accept(4, 1, counts=counts), wrong)
    server.accept(4, 1, counts=(5, 2))


def test_a_row_of_no_length_has_nothing(server: Server) -> None:
    server.call("extend", 4, 1, tokens=5, lengths=ids(5, 0))
    said = ("slots: slot 1 has no token in this step", "`accept`")
    server.refuses(lambda: server.accept(4, 1, counts=(5, 1)), *said)
    server.accept(4, 1, counts=(5, 0))


# which nodes -------------------------------------------------------------------------------------

#  -1 ── 0 ── 2
#     └─ 1 ── 3
TREE = [-1, -7, 0, 1]


@pytest.mark.parametrize(
    ("path", "right"),
    [
        ([0, 2, -1, -1], True),
        ([1, 3, -1, 0], True),
        ([1, -1, -1, -1], True),
        ([-1, -1, -1, -1], True),
        ([0, 1, -1, -1], False),
        ([0, 3, -1, -1], False),
        ([2, -1, -1, -1], False),
        ([0, 2, 3, -1], False),
    ],
)
def test_a_path_goes_from_parent_to_child(server: Server, path: list[int], right: bool) -> None:
    chain = [-1, 0, 1, 2]
    server.call("verify", 2, 5, tokens=4, parents=table(chain, TREE))
    paths = [[0, 1, 2, -1], path]
    if right:
        server.accept(2, 5, path=paths)
    else:
        said = f"path: {path} for slot 5", "the child of the one before"
        server.refuses(lambda: server.accept(2, 5, path=paths), *said)


@pytest.mark.parametrize("path", [[1, 2, -1, -1], [0, 2, -1, -1], [3, -1, -1, -1]])
def test_a_path_along_a_chain_leaves_out_nothing(server: Server, path: list[int]) -> None:
    server.call("verify", 5, tokens=4)
    server.refuses(lambda: server.accept(5, path=[path]), f"path: {path} for slot 5", "child")
    server.accept(5, path=[[0, 1, 2, 3]])


@pytest.mark.parametrize(("tree", "most"), [(TREE, 1), ([-1, 0, 0, 1], 2), ([-1, 0, 1, 0], 3)])
def test_counts_of_a_tree_are_of_its_first_nodes_in_a_chain(
    server: Server, tree: list[int], most: int
) -> None:
    for count in range(5):
        server.call("verify", 2, 5, tokens=4, parents=table([-1, 0, 1, 2], tree))
        if count <= most:
            server.accept(2, 5, counts=(4, count))
        else:
            said = f"counts: {count} for slot 5", "a `path`"
            server.refuses(lambda count=count: server.accept(2, 5, counts=(4, count)), *said)


# which rows, which layers ------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["decode", "recurrent", "extend", "verify"])
@pytest.mark.parametrize("left_out", range(LAYERS))
def test_no_layer_is_left_out(server: Server, kernel: str, left_out: int) -> None:
    if kernel == "recurrent" and server.cache.short_context:
        pytest.skip("needs states")
    server.call(kernel, 1, 3, layers=[each for each in range(LAYERS) if each != left_out])
    server.call(kernel, 3, layers=[left_out])
    said = (f"slots: slot 1 has no token in layer {left_out}", "all 3 layers")
    tokens = 1 if kernel in ("decode", "recurrent") else 2
    server.refuses(lambda: server.accept(1, 3, counts=(tokens, tokens)), *said, "`accept`")
    if kernel != "verify":
        server.refuses(lambda: server.advance(3, 1), *said, "`advance`")
    server.call(kernel, 1, layers=[left_out])
    server.accept(1, 3, counts=(tokens, tokens))


def test_only_rows_of_the_step_end(server: Server) -> None:
    server.call("decode", 1, 3)
    said = ("slots: slot 2 has no token in this step", "`advance`")
    server.refuses(lambda: server.advance(1, 2, 3), *said)
    server.refuses(lambda: server.accept(1, 2, counts=(1, 1)), "slots: slot 2", "`accept`")
    server.accept(1, 2, counts=(1, 0))
    server.refuses(lambda: server.advance(1), "slots: slot 1 has no token")
    server.advance(3)
    server.refuses(lambda: server.accept(3, counts=(1,)), "slots: slot 3 has no token")
    server.accept(3, counts=(0,))


def test_drafts_are_accepted(server: Server) -> None:
    server.call("verify", 2)
    server.refuses(lambda: server.advance(2), "slots: slot 2", "`verify` of 2 tokens", "`accept`")
    server.call("verify", 2, tokens=1)
    server.advance(2)


def test_all_layers_do_the_same(server: Server) -> None:
    server.call("decode", 2, layers=[0, 1])
    server.call("verify", 2, layers=[2])
    said = ("slots: slot 2", "`decode` of 1 token in layer 0", "`verify` of 2 tokens in layer 2")
    server.refuses(lambda: server.advance(2), *said)


@pytest.mark.parametrize("kernel", ["recurrent", "extend"])
def test_what_writes_in_place_runs_once(kernel: str) -> None:
    server = Server()
    end = {"recurrent": "advance", "extend": "accept"}[kernel]
    server.call(kernel, 2, 4, layers=[0])
    again = lambda: server.call(kernel, 4, layers=[0])  # noqa: E731
    server.refuses(again, f"layer: 0 has run `{kernel}` for slot 4", f"`{end}` first")
    for other in ("decode", "verify"):
        early = lambda other=other: server.call(other, 2, layers=[1])  # noqa: E731
        server.refuses(early, f"slots: slot 2 comes from `{kernel}`", f"`{end}` first")
    # another request may begin
    server.cache.reset(ids(4))
    server.call(kernel, 4)
    server.call(kernel, 2, layers=[1, 2])
    server.accept(2, 4, counts=(1, 1) if kernel == "recurrent" else (2, 2))


def test_a_prompt_in_records_ends_first() -> None:
    server = Server(short_context=40)
    server.call("extend", 2, 4, tokens=5)
    for call in (
        lambda: server.call("decode", 3, 4, layers=[0]),
        lambda: server.call("verify", 4, layers=[0]),
        lambda: server.module.flush(server.cache),
        lambda: server.module.flush(server.cache, ids(0, 4)),
        lambda: server.cache.read(0, ids(4)),
    ):
        server.refuses(call, "slots: slot ", "comes from `extend`", "expected `accept` first")
    server.module.flush(server.cache, ids(0, 1, -1))
    server.accept(2, 4, counts=(5, 5))
    server.call("decode", 2, 4)
    server.advance(2, 4)
    assert server.cache.cursors[[2, 4]].tolist() == [6, 6]


def test_a_flush_waits_for_a_prompt_in_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where values are not checked such a row is left to its `accept`."""
    server = Server(short_context=8, window=0)
    server.cache.reserve([2], 40)
    server.call("extend", 2, tokens=5)
    server.accept(2, counts=(5,))
    server.call("extend", 2, tokens=2)
    monkeypatch.setattr(server.module, "strict", lambda _: False)
    server.module.flush(server.cache)
    server.accept(2, counts=(2,))
    assert server.cache.cursors[2] == 7 or server.cache.tensors["stateful"][2] == 1
    found = server.cache.read(0, ids(2))
    other = Server(short_context=8, window=0)
    other.cache.reserve([2], 40)
    other.call("extend", 2, tokens=5)
    other.accept(2, counts=(5,))
    other.call("extend", 2, tokens=2)
    other.accept(2, counts=(2,))
    torch.testing.assert_close(found, other.cache.read(0, ids(2)))


# rows without room -------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["decode", "verify", "extend"])
def test_a_short_row_has_room(kernel: str) -> None:
    server = Server(short_context=40)
    tokens = 1 if kernel == "decode" else 2
    server.cache.release([1])
    early = lambda: server.call(kernel, 0, 1, layers=[0])  # noqa: E731
    said = f"slots: slot 1 has room for 0 tokens, expected {tokens}: `reserve` first"
    server.refuses(early, said)
    server.cache.reserve([1], 1)
    server.call("extend", 1, tokens=15)
    server.accept(1, counts=(15,))
    if kernel != "decode":
        refused(early, "slots: slot 1 has room for 1 tokens, expected 2")
        server.cache.reserve([1], 16)
    server.call(kernel, 0, 1)
    server.accept(0, 1, counts=(tokens, tokens))
    assert server.cache.cursors[[0, 1]].tolist() == [tokens, 15 + tokens]


def test_a_prompt_goes_into_a_state_if_there_is_one() -> None:
    server = Server(short_context=20)
    server.cache.release([1])
    server.cache.reserve([1], 16)
    early = lambda: server.call("extend", 1, tokens=30)  # noqa: E731
    server.refuses(early, "slots: slot 1 has room for 20 tokens, expected 30: `reserve` first")
    server.cache.reserve([1], 14)
    server.call("extend", 1, tokens=30)
    server.accept(1, counts=(30,))
    assert server.cache.tensors["stateful"][1] == 1


# what is right stays so --------------------------------------------------------------------------


def test_steps_are_dropped_and_layers_run_again(server: Server) -> None:
    server.call("verify", 1, 2, tokens=4, layers=[0, 1])
    server.call("decode", 3, 1)
    server.call("decode", 3, 1, layers=[1])
    server.advance(3)
    server.call("verify", 1, -1, 2, tokens=3)
    server.call("decode", 3, 0)
    server.accept(2, 0, 1, 3, counts=(3, 0, 1, 1))
    assert server.cache.cursors[:4].tolist() == [0, 1, 3, 2]


def test_rows_of_several_calls_end_together_or_apart(server: Server) -> None:
    for layer in range(LAYERS):
        server.call("decode", 0, layers=[layer])
        server.call("decode", 1, layers=[layer])
        server.call("verify", 2, layers=[layer], tokens=3)
        server.call("extend", 3, 4, layers=[layer], lengths=ids(2, 0))
    server.advance(1)
    server.accept(4, 3, 2, 0, -1, counts=(0, 2, 3, 1, 5))
    assert server.cache.cursors[[0, 1, 2]].tolist() == [1, 1, 3]


def test_requests_in_a_pipeline(server: Server) -> None:
    """One half of the rows is a layer ahead of the other."""
    server.call("decode", 0, 1, layers=[0])
    for layer in range(1, LAYERS):
        server.call("decode", 0, 1, layers=[layer])
        server.call("decode", 2, 3, layers=[layer - 1])
    server.advance(0, 1)
    server.call("decode", 0, 1, layers=[0])
    server.call("decode", 2, 3, layers=[LAYERS - 1])
    server.advance(2, 3)


@pytest.mark.parametrize("what", ["reset", "flush", "copy", "release"])
def test_what_takes_a_row_s_token_away(what: str) -> None:
    server = Server(**({"short_context": 40} if what == "release" else {}))
    server.call("decode", 1, 2)
    match what:
        case "reset":
            server.cache.reset(ids(2))
        case "flush":
            server.module.flush(server.cache, ids(2))
        case "copy":
            server.cache.copy(ids(3), ids(2))
        case "release":
            server.cache.release([2])
    server.refuses(lambda: server.advance(1, 2), "slots: slot 2 has no token")
    server.advance(1)


def test_a_copy_has_the_open_step_of_its_source(server: Server) -> None:
    server.call("verify", 1, tokens=3)
    server.cache.copy(ids(1), ids(2))
    server.refuses(lambda: server.accept(2, counts=(4,)), "counts: 4 for slot 2", "0 to 3")
    server.accept(1, 2, counts=(1, 3))
    assert server.cache.cursors[[1, 2]].tolist() == [1, 3]


# where the host does not look --------------------------------------------------------------------


def test_calls_that_are_not_checked_are_not_held_against_a_step(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(server.module, "strict", lambda _: False)
        server.call("decode", 1, 2)
    server.advance(1, 2)
    # from here on the host has seen all there is
    server.refuses(lambda: server.advance(1), "slots: slot 1 has no token")
    with monkeypatch.context() as patch:
        patch.setattr(server.module, "strict", lambda _: False)
        server.call("decode", 1, 2, layers=[0])
        server.advance(1, 2)
    server.call("decode", 1, layers=[0, 1])
    server.refuses(lambda: server.advance(1), "slots: slot 1 has no token in layer 2")


def test_what_is_in_a_graph_may_run_at_any_time(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(server.module, "strict", lambda _: False)
        patch.setattr(server.module, "captured", lambda _: True)
        server.call("decode", 1, 2)
        server.advance(1, 2)
    for _ in range(2):
        server.advance(1, 2)
    # what can be told from the call alone is still refused
    refused(lambda: server.accept(1, counts=(5,)), "counts: 5 for slot 1", "0 to 4")


def test_nothing_is_kept_of_calls_that_are_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    monkeypatch.setattr(server.module, "strict", lambda _: False)
    before = copy.deepcopy(server.cache.calls.of)
    server.call("decode", 1, 2)
    server.cache.reset(ids(1))
    assert server.cache.calls.of == before == {}
