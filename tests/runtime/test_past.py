"""The past of an input: what it means, what a cache keeps of it, what becomes of it in a step."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import Any

import pytest
import torch

from kvgen import compiler
from kvgen.checking.check import check
from kvgen.checking.twin import Made, Twin
from kvgen.checking.windows import Extend, Server, Tokens, Verify
from kvgen.explaining.explain import data, text
from kvgen.language import spec
from kvgen.wisdom.identity import form_hash

LAYER = """\
kvgen: 1
name: whole_layer
sizes: {H: 1, HV: 2, K: 12, V: 8, W: 4}
inputs: {q: [H, K], k: [H, K], v: [HV, V], a: [HV], b: [HV], z: [HV, V]}
params:
  A_log: [HV]
  dt_bias: [HV]
  wq: [W, H, K]
  wk: [W, H, K]
  wv: [W, HV, V]
  bv: [HV, V]
  g: [V]
state: {S: [HV, K, V]}
sample: {A_log: log_uniform, dt_bias: gate}
step: |
  q = silu(conv(q, wq))
  k = l2norm(silu(conv(k, wk)))
  v = silu(conv(v, wv, bv))
  S = exp(-exp(A_log) * softplus(a + dt_bias)) * S
  S = S + outer(k, sigmoid(b) * (v - k @ S))
  o = rmsnorm((l2norm(q) * K**-0.5) @ S) * g * silu(z)
"""
# inputs of all axes, that go back as far as each other or not; one feeds a carried state
MIXED = """\
kvgen: 1
name: mixed
sizes: {H: 2, HV: 4, K: 8, V: 8}
inputs: {q: [H, K], k: [K], v: [HV, V], a: [HV], h: [H], c: [], u: [V]}
state: {S: [HV, K, V], n: [HV]}
sample: {u: small, a: gate}
step: |
  n = 0.5 * n + h[-2] * c[-1]
  S = exp(-softplus(a[-1])) * S + outer(k + 0.5 * k[-3], v - v[-1] + u[-1])
  o = (q + h * q[-1]) @ S + n
"""


def made(source: str = LAYER, **overrides: str) -> Made:
    return _made(source, tuple(sorted(overrides.items())))


@cache
def _made(source: str, overrides: tuple[tuple[str, str], ...]) -> Made:
    given = {key.replace("__", "."): value for key, value in overrides}
    analysis = compiler.analyse(source, given)
    return Made(analysis, compiler.built(analysis))


def twin(source: str = LAYER, storage: Mapping[str, str] | None = None, **options: Any) -> Twin:
    return Twin(made(source, **(storage or {})), "cpu", **{"buffer": 4, "layers": 1, **options})


def fine(found: Twin, bound: float = 2e-5) -> None:
    found.compare()
    assert max(found.found.values()) <= bound, found.found


# -- the language


def test_a_convolution_is_a_sum_over_the_past() -> None:
    written = {
        "conv(q, wq)": "wq[3] * q + wq[2] * q[-1] + wq[1] * q[-2] + wq[0] * q[-3]",
        "conv(k, wk)": "wk[3] * k + wk[2] * k[-1] + wk[1] * k[-2] + wk[0] * k[-3]",
        "conv(v, wv, bv)": "wv[3] * v + wv[2] * v[-1] + wv[1] * v[-2] + wv[0] * v[-3] + bv",
    }
    other = LAYER
    for call, terms in written.items():
        other = other.replace(call, terms)
    assert form_hash(compiler.analyse(other)) == form_hash(compiler.analyse(LAYER))
    farther = other.replace("q[-2]", "q[-4]")
    assert form_hash(compiler.analyse(farther)) != form_hash(compiler.analyse(LAYER))


def test_what_a_spec_goes_back() -> None:
    found, _ = spec.read(MIXED)
    assert found is not None
    kept = {past.name: past.count for past in found.pasts}
    assert kept == {
        "past_q": 1, "past_k": 3, "past_v": 1, "past_a": 1, "past_h": 2, "past_c": 1, "past_u": 1,
    }  # fmt: skip
    again, _ = spec.read(spec.show(found))
    assert again is not None and {past.name: past.count for past in again.pasts} == kept


def test_a_loop_s_index_may_go_back() -> None:
    looped = MIXED.replace(
        "  o = (q + h * q[-1])",
        "  for i in range(2):\n      n = n + a[-i - 1]\n  o = (q + h * q[-1])",
    )
    plain = MIXED.replace("  o = (q + h", "  n = n + a[-1]\n  n = n + a[-2]\n  o = (q + h")
    assert form_hash(compiler.analyse(looped)) == form_hash(compiler.analyse(plain))


def test_a_range_of_the_past_holds_the_zeros_before_a_request() -> None:
    bounded = MIXED.replace("a: [HV], h", "a: {axes: [HV], range: [0.5, 1]}, h")
    bounded = bounded.replace("exp(-softplus(a[-1]))", "(1 - a[-1])")
    form = compiler.analyse(bounded).form
    (past,) = (n for n in form.graph.nodes.values() if n.op == "past" and n.args[0].value == "a")
    assert (past.bounds.lo, past.bounds.hi) == (0.0, 1.0)


def test_explain_says_what_is_kept() -> None:
    said = text(compiler.analyse(LAYER))
    assert "past        the last tokens of q 3, k 3, v 3; as they came" in said
    assert "wk[3] * raw_k + wk[2] * raw_k[-1] + wk[1] * raw_k[-2] + wk[0] * raw_k[-3]" in said
    assert data(compiler.analyse(LAYER))["past"] == {"q": 3, "k": 3, "v": 3}


def test_reference_is_the_convolution_of_torch() -> None:
    module = made().module
    torch.manual_seed(1)
    kind = {"dtype": torch.float64}
    tokens = 9
    axes = {**module.INPUTS, **module.PARAMS}
    drawn = {n: torch.randn(*(module.SIZES[a] for a in axes[n]), **kind) for n in module.PARAMS}
    given = {
        name: torch.randn(2, tokens, *(module.SIZES[a] for a in axes[name]), **kind)
        for name in module.INPUTS
    }

    def whole(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        rows, flat = x.flatten(2).transpose(1, 2), w.flatten(1).T[:, None]
        found = torch.nn.functional.conv1d(rows, flat, padding=3, groups=rows.shape[1])
        return found[..., :tokens].transpose(1, 2).reshape(x.shape)

    q = torch.nn.functional.silu(whole(given["q"], drawn["wq"]))
    k = torch.nn.functional.silu(whole(given["k"], drawn["wk"]))
    v = torch.nn.functional.silu(whole(given["v"], drawn["wv"]) + drawn["bv"])
    q, k = (x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt() for x in (q, k))
    state, after = torch.zeros(2, 2, 12, 8, **kind), None
    for t in range(tokens):
        out, after = module.reference(after, **{n: x[:, t] for n, x in given.items()}, **drawn)
        soft = torch.nn.functional.softplus(given["a"][:, t] + drawn["dt_bias"])
        state = torch.exp(-drawn["A_log"].exp() * soft)[..., None, None] * state
        read = (k[:, t, :, :, None] * state).sum(2)
        d = given["b"][:, t].sigmoid()[..., None] * (v[:, t] - read)
        state = state + k[:, t, :, :, None] * d[:, :, None]
        o = (q[:, t, :, :, None] * 12**-0.5 * state).sum(2)
        o = o / (o.square().mean(-1, keepdim=True) + 1e-6).sqrt() * drawn["g"]
        torch.testing.assert_close(out, o * torch.nn.functional.silu(given["z"][:, t]))
    assert after is not None
    torch.testing.assert_close(after["past_q"], given["q"][:, -3:])
    torch.testing.assert_close(after["S"], state)


# -- kernels beside float64


STORAGES = [{"state": "split"}, {"records": "input", "layout": "vk"}]


@pytest.mark.slow
@pytest.mark.parametrize("storage", STORAGES, ids=lambda each: "-".join(each.values()))
def test_a_layer_passes_check(storage: dict[str, str]) -> None:
    given = {f"storage.{key}": value for key, value in storage.items()}
    report = check(compiler.analyse(LAYER, given), "cpu")
    assert report.ok, [row for row in report.rows if not row.ok]


# how far outputs and states may be off
BOUNDS = {"float32": 2e-5, "split": 1e-2}


@pytest.mark.parametrize("state", BOUNDS)
@pytest.mark.parametrize("source", [LAYER, MIXED], ids=["layer", "mixed"])
def test_random_steps_of_a_server(source: str, state: str) -> None:
    found = twin(source, {"storage__state": state}, window=4, buffer=5, layers=1, seed=7)
    found.admit([5, 2])
    server = Server(found, random.Random(7))
    for step in range(12):
        if step == 3:
            found.reset([6])
        if step == 5:
            found.copy([5], [1])
        server.step([5, 2, 6] if step > 3 else [5, 2])
        found.compare()
    fine(found, BOUNDS[state])
    assert max(found.found[past.name] for past in found.form.spec.pasts) == 0.0


def test_rows_start_with_zeros_when_they_are_recycled() -> None:
    found = twin(buffer=2)
    found.reset([3, 4])
    for _ in range(5):
        found.step([3, 4])
    found.reset([3])
    assert found.read(0, [3])["past_k"].eq(0).all()
    found.step([4, 3])
    fine(found)


def test_a_window_needs_fewer_tokens_than_the_past_and_more() -> None:
    for tokens in (1, 2, 7):
        found = twin(window=7, buffer=8)
        found.admit([1, 2])
        for kept in (tokens, 0, 1):
            found.together(Verify(found, [1, 2], tokens, counts=[kept, min(kept, 1)]))
            found.step([2, 1])
        fine(found)


def test_a_path_of_a_tree_is_what_comes_next() -> None:
    found = twin(window=6, buffer=12)
    found.admit([1, 2])
    trees = [[-1, 0, 0, 2, 3, 1], [-1, -1, 1, 0, 3, 4]]
    for paths in ([[0, 2, 3, 4], [1, 2]], [[0, 1, 5], []], [[0], [0, 3, 4, 5]]):
        found.together(Verify(found, [1, 2], 6, parents=trees, paths=paths))
        found.compare()
        found.step([2, 1])
    fine(found)


def test_prompts_shorter_and_longer_than_the_past() -> None:
    found = twin()
    found.reset([0, 1, 2, 3, 4])
    found.step([4, 3])
    for lengths in ([1, 2, 3, 4, 0], [0, 9, 1, 2, 2]):
        found.together(Extend(found, [0, 1, 2, 3, 4], lengths, 9))
        found.compare()
    found.step([0, 1, 2, 3, 4])
    fine(found)


def test_packed_prompts_are_padded_ones() -> None:
    module = made().module
    torch.manual_seed(3)
    params = parameters(module)
    lengths = torch.tensor([2, 0, 5], dtype=torch.int32)
    padded = inputs(module, 3, 5)
    packed = {
        name: torch.cat([x[row, :length] for row, length in enumerate(lengths.tolist())])
        for name, x in padded.items()
    }
    starts = torch.tensor([0, 2, 2, 7], dtype=torch.int32)
    slots = torch.tensor([2, 0, 1])
    found = []
    for given, how in ((padded, {"lengths": lengths}), (packed, {"starts": starts})):
        cache = module.Cache.empty(4, device="cpu", dtype=torch.float32, buffer=3)
        module.extend(cache, 0, slots, **given, **params, **how)
        module.accept(cache, slots, counts=lengths)
        found.append(cache.read(0, slots))
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name])
    assert found[0]["past_q"][2].equal(padded["q"][2, 2:])


def test_a_late_accept_leaves_rows_of_no_window() -> None:
    module = made().module
    torch.manual_seed(4)
    params, slots = parameters(module), torch.tensor([1, 2])
    cache = module.Cache.empty(4, device="cpu", dtype=torch.float32, buffer=8, window=3)
    first, drafts = inputs(module, 2, 3), inputs(module, 1, 3)
    module.extend(cache, 0, slots, **first, **params, lengths=torch.full_like(slots, 3).int())
    module.accept(cache, slots, counts=torch.full_like(slots, 3).int())
    module.verify(cache, 0, slots[:1], **drafts, **params)
    module.accept(cache, slots, counts=torch.tensor([2, 3], dtype=torch.int32), late=True)
    found = cache.read(0, slots)["past_v"]
    assert found[0].equal(torch.cat([first["v"][0, 2:], drafts["v"][0, :2]]))
    assert found[1].equal(first["v"][1])


# -- what a cache does with it


def inputs(module: ModuleType, *front: int) -> dict[str, torch.Tensor]:
    sizes = module.SIZES
    return {n: torch.randn(*front, *(sizes[a] for a in axes)) for n, axes in module.INPUTS.items()}


def parameters(module: ModuleType) -> dict[str, torch.Tensor]:
    sizes = module.SIZES
    return {n: torch.randn(*(sizes[a] for a in axes)) for n, axes in module.PARAMS.items()}


def test_rows_are_saved_and_put_back_where_windows_differ() -> None:
    found = twin(window=3, layers=2)
    found.admit([1, 2])
    for _ in range(3):
        found.step([2, 1])
    found.together(Verify(found, [1, 2], 3, counts=[2, 1]))
    saved = found.cache.save(found.ids([2, 1]))
    assert saved["past_k"].shape == (2, 2, 3, 1, 12)
    before = [found.read(layer, [2, 1]) for layer in range(2)]
    other = twin(window=0, buffer=6, layers=2)
    other.cache.restore(other.ids([5, 0]), saved)
    for layer in range(2):
        for name, x in other.read(layer, [5, 0]).items():
            torch.testing.assert_close(x, before[layer][name])
    other.used |= {5, 0}
    other.params = found.params
    other._admit([5, 0])
    for layer in range(2):
        for name in other.states[layer]:
            other.states[layer][name][[5, 0]] = found.states[layer][name][[2, 1]]
    other.together(Tokens(other, [0, 5]))
    fine(other)


def test_load_takes_zeros_for_what_is_missing_and_refuses_other_shapes() -> None:
    module = made().module
    cache = module.Cache.empty(4, device="cpu", dtype=torch.float32, buffer=3)
    slots = torch.tensor([3, 1])
    state = torch.randn(2, 2, 12, 8)
    past = torch.randn(2, 3, 1, 12)
    cache.load(0, slots, {"S": state, "past_q": past})
    found = cache.read(0, slots)
    assert found["past_q"].equal(past) and found["past_k"].eq(0).all()
    cache.load(0, slots, state)
    assert cache.read(0, slots)["past_q"].eq(0).all()
    for wrong in (past[:, :2], past.double(), past[:1]):
        with pytest.raises(ValueError, match=r"state: past_q is .* expected \[2, 3, 1, 12\]"):
            cache.load(0, slots, {"S": state, "past_q": wrong})
    with pytest.raises(ValueError, match="no state is called 'past_z', expected S, past_q, past_k"):
        cache.load(0, slots, {"S": state, "past_z": past})


@pytest.mark.parametrize("past", [None, torch.zeros(2, 5, 1, 12), torch.zeros(1, 3, 1, 12)])
def test_reference_refuses_a_past_of_another_shape(past: torch.Tensor | None) -> None:
    module = made().module
    given = {**inputs(module, 2), **parameters(module)}
    _, states = module.reference(None, **given)
    _, again = module.reference(states, **given)
    assert again["past_q"][:, -1].equal(given["q"])
    with pytest.raises(ValueError, match=r"state: past_q is .* expected \[2, 3, 1, 12\]"):
        module.reference({**states, "past_q": past}, **given)


def test_a_server_s_memory_is_adopted() -> None:
    module = made().module
    layout = module.Cache.layout(6, 2, window=5, buffer=5)
    assert layout["past_q"].shape == (6, 2, 8, 1, 12) and layout["order"].shape == (6, 8)
    assert layout["past_q"].dtype == torch.bfloat16
    tensors = {name: torch.zeros(x.shape, dtype=x.dtype) for name, x in layout.items()}
    cache = module.Cache.wrap(tensors, window=5)
    slots = torch.tensor([4, 2])
    cache.reset(slots)
    torch.manual_seed(5)
    given = {name: x.bfloat16() for name, x in inputs(module, 2).items()}
    for layer in range(2):
        module.decode(cache, layer, slots, **given, **parameters(module))
    module.advance(cache, slots)
    assert cache.read(1, slots)["past_q"][:, -1].equal(given["q"])
    assert cache.read(1, slots)["past_q"][:, :-1].eq(0).all()
    without = {name: x for name, x in tensors.items() if name != "order"}
    adopted = module.Cache.wrap(without, window=5)
    # rows that nobody resets have a place for each token
    assert adopted.tensors["order"].tolist() == [list(range(8))] * 6
    past = torch.randn(2, 3, 1, 12).bfloat16()
    adopted.load(0, slots, {"S": torch.zeros(2, 2, 12, 8), "past_q": past})
    assert adopted.read(0, slots)["past_q"].equal(past)
    with pytest.raises(ValueError, match="past_q: NoneType None, expected a tensor"):
        module.Cache.wrap({**tensors, "past_q": None}, window=5)
    with pytest.raises(
        ValueError, match=r"past_q: \[6, 2, 8, 1, 12\].*expected \[6, 2, 7, 1, 12\]"
    ):
        module.Cache.wrap(tensors, window=4)


def test_layers_may_lie_apart() -> None:
    module = made().module
    layout = module.Cache.layout(4, 2, buffer=3, dtype=torch.float32)
    held = [each.name for each in module.Cache.table.held]
    tensors: dict[str, Any] = {
        name: [torch.zeros(x.shape[:1] + x.shape[2:], dtype=x.dtype) for _ in range(2)]
        for name, x in layout.items()
        if name in held
    }
    cache, slots = module.Cache.wrap(tensors), torch.tensor([3, 0])
    plain = module.Cache.empty(4, 2, device="cpu", buffer=3, dtype=torch.float32)
    cache.reset(slots)
    torch.manual_seed(6)
    params = parameters(module)
    for _ in range(5):
        given = inputs(module, 2)
        for layer in range(2):
            outputs = [
                module.decode(each, layer, slots, **given, **params) for each in (cache, plain)
            ]
            assert outputs[0].equal(outputs[1])
        for each in (cache, plain):
            module.advance(each, slots)
    for name, x in cache.save(slots).items():
        assert x.equal(plain.save(slots)[name])


def test_inputs_with_a_past_have_the_cache_s_dtype() -> None:
    module = made().module
    cache = module.Cache.empty(4, device="cpu", buffer=3)
    given, params = inputs(module, 1), parameters(module)
    with pytest.raises(ValueError, match=r"k: torch.float32, expected the cache's dtype"):
        module.decode(cache, 0, torch.tensor([1]), **given, **params)


def test_there_are_no_short_contexts() -> None:
    module = made().module
    assert "short" not in module.FEATURES
    with pytest.raises(ValueError, match="no room for the past of inputs"):
        module.Cache.empty(4, device="cpu", short_context=16)


def test_no_other_module_has_any_of_it() -> None:
    plain = LAYER.replace("conv(q, wq)", "q").replace("conv(k, wk)", "k")
    plain = plain.replace("conv(v, wv, bv)", "v")
    other = compiler.emit(compiler.analyse(plain))
    assert "order_ptr" not in other and "Remembering" not in other
