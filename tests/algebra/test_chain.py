"""A chain of tokens as one step: its graph in float64 against the recurrence token by token."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from itertools import cycle
from typing import Any

import pytest
import torch
from twins import LAYERS, OTHERS, SPECS, analysed, ids, made, twin

from kvgen import compiler
from kvgen.algebra.chain import TOKENS, chained, chains
from kvgen.algebra.form import Form
from kvgen.algebra.graph import Node, leaf_of, reachable
from kvgen.checking.checker import SAME, bounds
from kvgen.checking.errors import worst
from kvgen.checking.samples import Sampler
from kvgen.checking.twin import Tensors, Twin, bits
from kvgen.checking.windows import Verify
from kvgen.rendering import render

# a column meets a state of 16 bits in two parts, of which bfloat16 keeps 16 bits
IN_PARTS = 1e-5
UNARY: dict[str, Callable[[Any], Any]] = {
    "neg": torch.neg, "exp": torch.exp, "log": torch.log, "sigmoid": torch.sigmoid,
    "softplus": torch.nn.functional.softplus, "tanh": torch.tanh, "relu": torch.relu,
    "abs": torch.abs, "sqrt": torch.sqrt,
}  # fmt: skip
BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "pow": torch.pow,
    "minimum": torch.minimum, "maximum": torch.maximum, "logaddexp": torch.logaddexp,
}  # fmt: skip


def evaluated(
    form: Form, roots: list[Node], state: Tensors, tokens: list[Tensors], params: Tensors
) -> Mapping[Node, torch.Tensor]:
    """Every node as [HV, K, V], an axis that it lacks of length 1. What is not at a token of a
    chain is at the first."""
    ratio, values = form.spec.ratio, {}

    def wide(given: torch.Tensor, node: Node) -> torch.Tensor:
        axes = node.axes
        shape = [given.shape[axes.names.index(a)] if a in axes.names else 1 for a in "KV"]
        heads = given.shape[0] if axes.head else 1
        found = given.double().reshape(heads, *shape)
        return found.repeat_interleave(ratio, 0) if axes.head == "H" else found

    def computed(node: Node) -> torch.Tensor:
        leaf = leaf_of(node)
        if leaf.op in ("input", "param"):
            at = node if node.op != "index" else node.args[0]
            token = at.value if at.op == "at" else 0
            given = (tokens[int(token or 0)] | params)[str(leaf.value)]
            index = next((n for n in (node, *node.args) if n.op == "index"), None)
            return wide(given if index is None else given[int(index.value or 0)], node)
        if node.op == "const":
            return torch.tensor(node.const, dtype=torch.float64).reshape(1, 1, 1)
        if node.op == "carried":
            return wide(state[str(node.value)], node)
        if node.op == "previous":
            return torch.full((1, 1, 1), -0.75, dtype=torch.float64)
        args = [values[arg] for arg in node.args]
        if node.op == "read":
            axis = 1 if node.args[0].axes.channels == "K" else 2
            return (state[form.state.name] * args[0]).sum(axis, keepdim=True)
        if node.op == "sum":
            return args[0].sum(1 if node.value == "K" else 2, keepdim=True)
        return UNARY[node.op](*args) if node.op in UNARY else BINARY[node.op](*args)

    below = lambda node: () if leaf_of(node).op in ("input", "param") else node.args  # noqa: E731
    for node in reachable(roots, below=below):
        values[node] = computed(node)
    return values


CHAINED = [name for name in [*SPECS, *OTHERS] if chains(analysed(name).form)]


def test_which_specs_have_a_chain() -> None:
    assert {*SPECS} <= {*CHAINED}
    assert {*SPECS, *OTHERS} - {*CHAINED} == set()
    # inputs with a past have none
    assert not [name for name in LAYERS if chains(analysed(name).form)]


RECORDS = ("records=float32", "records=input")


@pytest.mark.parametrize(("name", "storage"), list(zip(CHAINED, cycle(RECORDS), strict=False)))
def test_a_chain_is_its_tokens_one_by_one(name: str, storage: str) -> None:
    module, analysis = made(name, storage).module, analysed(name, storage)
    form, spec = analysis.form, analysis.spec
    sampler = Sampler(spec, "cpu", random.Random(name).randrange(1000))
    params = {n: x.double() for n, x in sampler.params().items()}
    state = {n: x.double() for n, x in sampler.states(1).items()}
    drawn = [
        {n: x.double() for n, x in sampler.inputs(1, torch.float64).items()} for _ in range(TOKENS)
    ]
    first = {n: x[0] for n, x in state.items()}
    inputs = [{n: x[0] for n, x in token.items()} for token in drawn]
    chain = chained(form)
    whole = evaluated(form, chain.roots, first, inputs, params)
    before = state
    for token, given in enumerate(drawn):
        asked = [*form.roots, *(s.node for s in analysis.records.stored)]
        if form.factored:
            # a sum over the tokens so far, which one token alone does not know
            asked = [n for n in asked if form.factored.before not in reachable([n])]
        here = {n: x[0] for n, x in before.items()}
        alone = evaluated(form, asked, here, [inputs[token]], params)
        for node in asked:
            got = whole[chain.tokens[token][node]].expand(alone[node].shape)
            assert worst(got.reshape(1, -1), alone[node].reshape(1, -1)) < 1e-11
        out, before = module.reference(before, **given, **params)
        got = whole[chain.tokens[token][form.output]].expand(spec.size("HV"), 1, -1)
        assert worst(got.reshape(1, -1), out.reshape(1, -1)) < 1e-11
        for carry in form.carries:
            got = whole[chain.tokens[token][carry.after]]
            wanted = before[carry.tensor.name]
            if carry.axes.head == "H":
                wanted = wanted.repeat_interleave(spec.ratio, 1)
            assert worst(got.reshape(1, -1), wanted.reshape(1, -1)) < 1e-11
    if form.factored:
        # its keys are the writes, and what has decayed up to each of them is taken back
        for token in chain.tokens:
            total = whole[token[form.factored.after]]
            for key, write in zip(form.keys, form.writes, strict=True):
                assert worst((whole[token[key]] * total.exp())[0], whole[token[write.w]][0]) < 1e-11


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "storage"), list(zip(CHAINED, cycle(RECORDS[::-1]), strict=False))
)
def test_more_chains_are_their_tokens_one_by_one(name: str, storage: str) -> None:
    test_a_chain_is_its_tokens_one_by_one(name, storage)


# the kernel --------------------------------------------------------------------------------------

# with carried states, decays over the head and either channel, two writes, reads over V
CHAINS = [
    ("gated_deltanet", "state=split records=input"),
    ("kimi_delta_attention", "state=float32"),
    ("kimi_delta_attention_bounded", "state=bfloat16 records=input"),
    ("rwkv7", "state=split layout=vk"),
    ("mlstm", "state=float32"),
    ("gated_oja", "state=float32 records=input"),
    ("gated_deltaproduct", "state=float16"),
]


def test_which_windows_are_chains(launched: Callable[[Twin], list[str]]) -> None:
    pair = twin("gated_deltanet", buffer=8, window=5)
    pair.admit([1, 2])
    names = launched(pair)
    wanted = {1: "chain", 4: "chain", 5: "verify"}
    for tokens, kernel in wanted.items():
        Verify(pair, [2, 1], tokens, counts=[0, 0]).run(0)
        assert names.pop() == kernel
    trees = [[-1, 0, 1], [-1, 0, 0]]
    Verify(pair, [2, 1], 3, parents=trees, counts=[0, 0]).run(0)
    assert names.pop() == "verify"


@pytest.mark.parametrize("tokens", range(1, TOKENS + 1))
@pytest.mark.parametrize(("name", "storage"), CHAINS)
def test_a_chain_leaves_what_its_tokens_would(name: str, storage: str, tokens: int) -> None:
    """Outputs, records and carried states of tokens decoded one by one; nothing beyond them."""
    pairs = [twin(name, *storage.split(), buffer=9, window=w, seed=21) for w in (0, TOKENS)]
    bound = SAME if "state=float32" in storage else IN_PARTS
    for pair in pairs:
        pair.admit([5, 2])
        pair.step([5, 2])
        pair.step([5])
    alone, chain = pairs
    before = {name: bits(x).clone() for name, x in chain.cache.tensors.items()}
    inputs = chain.inputs([2, -1, 5], tokens)
    outputs = chain.run("verify", 0, ids(2, -1, 5), inputs)
    for token in range(tokens):
        given = {each: x[:, token] for each, x in inputs.items()}
        out = alone.run("decode", 0, ids(2, -1, 5), given)
        assert worst(outputs[:, token][[0, 2]], out[[0, 2]]) <= bound
        alone.module.advance(alone.cache, ids(2, -1, 5))
    assert not outputs[1].any()
    heads = {stored.name: stored.heads for stored in chain.records.stored}
    for each, got in chain.cache.tensors.items():
        carried = each in {carry.tensor.name for carry in chain.form.carries}
        if not carried and each not in heads:
            assert each == "pending" or torch.equal(bits(got), before[each])
            continue
        first, axis = (1, 2) if carried else (0, 3 if heads[each] else 2)
        got, wanted = got.movedim(axis, 2), alone.cache.tensors[each].movedim(axis, 2)
        changed = (bits(got) != before[each].movedim(axis, 2)).movedim(2, 0).flatten(1).any(1)
        for slot, held in ((2, 1), (5, 2)):
            places = range(held + first, held + first + tokens)
            for place in places:
                a, b = (x[slot, 0, place].flatten()[None] for x in (got, wanted))
                assert worst(a, b) <= bound, each
        # the two rows' places overlap
        assert changed.nonzero().flatten().tolist() == list(range(1 + first, 2 + first + tokens))


@pytest.mark.parametrize(("name", "storage"), CHAINS)
def test_a_chain_ends_with_the_buffer(name: str, storage: str) -> None:
    """Where a row has fewer places left than a window takes, nothing is written that has no place,
    least of all to the next head's first one."""
    pair = twin(name, *storage.split(), buffer=6, window=0, seed=22)
    pair.admit([3, 1])
    for _ in range(4):
        pair.step([3, 1])
    # which the cache would have folded before, had it known
    pair.cache.window = 4
    before = {each: bits(x).clone() for each, x in pair.cache.tensors.items()}
    pair.run("verify", 0, ids(3), pair.inputs([3], 4))
    heads = {stored.name: stored.heads for stored in pair.records.stored}
    for each, got in pair.cache.tensors.items():
        carried = each in {carry.tensor.name for carry in pair.form.carries}
        different = bits(got) != before[each]
        if not carried and each not in heads:
            assert each == "pending" or not different.any()
            continue
        first, axis = (1, 2) if carried else (0, 3 if heads[each] else 2)
        places = different.movedim(axis, 2).nonzero()[:, [0, 2]].unique(dim=0)
        assert places.tolist() == [[3, 4 + first], [3, 5 + first]], each


@pytest.mark.newest
@pytest.mark.parametrize("name", ["gated_deltanet", "kimi_delta_attention", "mlstm", "gated_oja"])
@pytest.mark.parametrize("state", ["float32", "bfloat16"])
def test_odd_sizes(name: str, state: str) -> None:
    analysis = analysed(name, f"state={state}", K=20, V=12)
    pair = Twin(
        made(name, f"state={state}", K=20, V=12), "cpu", layers=1, buffer=7, window=4, seed=23
    )
    assert chains(analysis.form)
    pair.admit([1, 4])
    pair.step([4, 1])
    for count in (3, 0, 4):
        pair.together(Verify(pair, [4, -1, 1], 4, counts=[count, 0, 4 - count]))
        pair.compare()
    output, bound = bounds(pair.form.spec.storage, pair.dtype)
    assert pair.found["output"] <= max(output, 3 * pair.rounding)
    assert pair.found[pair.form.state.name] <= bound and not pair.found["padding"]


def test_every_value_has_a_name_of_its_own() -> None:
    """Norms of components too: of none it is not known of what."""
    text = compiler.emit(analysed("gated_deltaproduct"))
    assert "k0_inverse_norm_0 = " in text and "k1_inverse_norm_3 = " in text
    assert "None_" not in text


def kernel_of(text: str) -> str:
    return text[text.index("def _chain_kernel(") :].partition("\n\n\n")[0]


def test_tokens_beyond_the_window_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may lie outside the inputs' memory."""
    # a load a line
    monkeypatch.setattr(render, "wrapped", lambda line: [line])
    text = compiler.emit(analysed("gated_deltaproduct"))
    loads = [
        line for line in kernel_of(text).splitlines() if re.search(r"tl\.load\(.*_token\b", line)
    ]
    # three inputs of which each token has two components, and two of one
    assert len(loads) == (TOKENS - 1) * 8
    for line in loads:
        times = re.search(r"(\d) \* \w+_token", line)
        assert f"mask=WINDOW > {times[1] if times else 1}" in line
