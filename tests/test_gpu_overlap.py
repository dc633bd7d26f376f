"""Decodes and chains of drafts that begin early, on a GPU: `pytest -m gpu`.

In a captured step only a decode behind a decode, and a fold behind what lists its rows, have a
programmatic edge in front of them. Kernels that let the next one go long before they write stand in
front of every call: what they write is seen.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from kvgen.checking.samples import draw
from kvgen.checking.twin import Made
from tests.test_gpu import gpu, made  # noqa: F401

pytestmark = pytest.mark.gpu

ROWS, LAYERS, STEPS = 4, 4, 20
# nanoseconds: longer than a busy host takes from one launch to the next
WAIT = 2_000_000
# and what of them counts at a time: while others have the GPU, the clock goes on
TURN = 10_000
# at seeing what is read too early
TRIES = 5
STATES = ({"storage.state": "split"}, {"storage.state": "bfloat16", "storage.records": "input"})
NAMES = ("gated_deltanet", "kimi_delta_attention")


@pytest.fixture(autouse=True)
def hopper() -> None:
    if torch.cuda.get_device_capability()[0] < 9 or torch.version.hip:
        pytest.skip("nothing begins early on this GPU")


@triton.jit
def _late_kernel(dst_ptr, src_ptr, size, wait, turn, BLOCK: tl.constexpr):
    """Let the next kernel go, and write a long time after."""
    tl.extra.cuda.gdc_wait()
    tl.extra.cuda.gdc_launch_dependents()
    before = tl.extra.cuda.globaltimer()
    spent = before - before
    while spent < wait:
        now = tl.extra.cuda.globaltimer()
        spent += tl.minimum(now - before, turn)
        before = now
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(dst_ptr + at, tl.load(src_ptr + at, mask=at < size), mask=at < size)


def write_late(target: torch.Tensor, values: torch.Tensor) -> None:
    size = target.numel()
    _late_kernel[(triton.cdiv(size, 1024),)](
        target, values, size, WAIT, TURN, BLOCK=1024, launch_pdl=True
    )


class Session:
    """Steps of one module on its own cache, all from the same seed."""

    def __init__(self, made: Made, early: bool, tokens: int = 1) -> None:
        self.module: ModuleType = made.module
        self.spec, self.tokens = made.analysis.spec, tokens
        for kernel in ("decode", "chain"):
            for config in self.module.CONFIGS["default"][kernel].values():
                config["PDL"] = int(early)
        torch.manual_seed(0)
        window = tokens if tokens > 1 else 0
        self.cache: Any = self.module.Cache.empty(ROWS + 1, LAYERS, device="cuda", window=window)
        self.slots = torch.tensor([3, 0, 4, 1], dtype=torch.int32, device="cuda")
        for name, tensor in self.cache.tensors.items():
            if tensor.dim() > 2 and "decay" not in name and tensor.is_floating_point():
                tensor.normal_(std=0.1)
        params = draw(self.spec, ROWS, dtype=torch.float32, device="cuda", seed=1)
        self.params = {tensor.name: params[tensor.name] for tensor in self.spec.params}

    def inputs(self, step: int, layer: int) -> dict[str, torch.Tensor]:
        seed = 100 + step * LAYERS + layer
        rows = ROWS * self.tokens
        found = draw(self.spec, rows, dtype=torch.bfloat16, device="cuda", seed=seed)
        front = (ROWS,) if self.tokens == 1 else (ROWS, self.tokens)
        return {t.name: found[t.name].unflatten(0, front).contiguous() for t in self.spec.inputs}

    def call(self, layer: int, given: dict[str, torch.Tensor]) -> torch.Tensor:
        function = self.module.decode if self.tokens == 1 else self.module.verify
        return function(self.cache, layer, self.slots, **given, **self.params)

    def end(self) -> None:
        if self.tokens == 1:
            self.module.advance(self.cache, self.slots)
        else:
            self.module.accept(self.cache, self.slots, counts=self.slots.clamp(1, self.tokens))

    def run(
        self,
        before: Callable[[int], None] = lambda step: None,
        late: tuple[str, ...] = (),
    ) -> list[torch.Tensor]:
        """before: what happens in front of a step. late: inputs that come when a decode of theirs
        may have begun."""
        outputs: list[torch.Tensor] = []
        for step in range(STEPS):
            given = [self.inputs(step, layer) for layer in range(LAYERS)]
            shown = [dict(each) for each in given]
            for each in shown:
                each |= {name: torch.full_like(each[name], 3.0) for name in late}
            torch.cuda.synchronize()
            before(step)
            for layer in range(LAYERS):
                for name in late:
                    write_late(shown[layer][name], given[layer][name])
                outputs.append(self.call(layer, shown[layer]))
            self.end()
        torch.cuda.synchronize()
        return outputs


def same(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("tokens", [1, 4])
@pytest.mark.parametrize("overrides", STATES, ids=("split", "bfloat16"))
@pytest.mark.parametrize("name", NAMES)
def test_inputs_that_come_late_are_seen(name: str, overrides: dict[str, str], tokens: int) -> None:
    pair = made(name, overrides)
    wanted = Session(pair, False, tokens).run()
    assert same(Session(pair, True, tokens).run(), wanted)
    for tensor in pair.analysis.spec.inputs:
        assert same(Session(pair, True, tokens).run(late=(tensor.name,)), wanted), tensor.name
    every = tuple(tensor.name for tensor in pair.analysis.spec.inputs)
    assert same(Session(pair, True, tokens).run(late=every), wanted)


def disturbed(session: Session, name: str, careless: bool) -> list[torch.Tensor]:
    """What a server writes in front of a step comes late: into a tensor of the cache, or `slots`.

    careless: the first decode of the step does as if it stood behind another one.
    """
    tensor = session.slots if name == "slots" else session.cache.tensors[name]
    if tensor.dim() > 2:
        # what a first decode reads, of one head: the few programs that write it leave units of the
        # GPU to a kernel that needs more shared memory than they do
        tensor = tensor[session.slots[0], 0, 0]

    def before(step: int) -> None:
        right = tensor.clone()
        if tensor.is_floating_point():
            tensor.fill_(3.0)
        else:
            # another row's, or an empty buffer
            tensor.copy_(tensor.flip(0) if name == "slots" else torch.zeros_like(tensor))
        torch.cuda.synchronize()
        write_late(tensor, right)
        if careless:
            identity, _, slots = session.module.step_of(session.cache, 0, session.slots)
            session.cache.step = identity, 0, slots

    return session.run(before)


@pytest.mark.parametrize("tokens", [1, 4])
@pytest.mark.parametrize("overrides", STATES, ids=("split", "bfloat16"))
def test_what_is_written_in_front_of_a_step_is_seen(overrides: dict[str, str], tokens: int) -> None:
    pair = made("gated_deltanet", overrides)
    wanted = Session(pair, False, tokens).run()
    session = Session(pair, True, tokens)
    read = [n for n in session.cache.tensors if n not in ("pending", "work", "S_lo")]
    missed: list[str] = []
    for name in ("slots", *read):
        assert same(disturbed(Session(pair, True, tokens), name, careless=False), wanted), name
        # what else runs on the GPU may hold a kernel back until what comes late is there
        tries = (disturbed(Session(pair, True, tokens), name, careless=True) for _ in range(TRIES))
        if any(not same(found, wanted) for found in tries):
            missed.append(name)
    # the rule is what makes it so
    assert {"slots", "cursors"} <= set(missed)
    assert set(missed) & {"S", "S_hi"}


# a captured step ---------------------------------------------------------------------------------


class Edge(ctypes.Structure):
    _fields_ = (
        ("from_port", ctypes.c_ubyte),
        ("to_port", ctypes.c_ubyte),
        ("kind", ctypes.c_ubyte),
        ("reserved", ctypes.c_ubyte * 5),
    )


class Kernel(ctypes.Structure):
    _fields_ = (
        ("function", ctypes.c_void_p),
        ("sizes", ctypes.c_uint * 7),
        ("arguments", ctypes.c_void_p),
        ("extra", ctypes.c_void_p),
        ("kernel", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
    )


def edges(graph: int) -> list[tuple[str, str, bool]]:
    """The kernels at both ends of every edge of a graph, and whether it is programmatic."""
    cuda = ctypes.CDLL("libcuda.so.1")

    def ask(function: str, *args: Any) -> None:
        assert getattr(cuda, function)(*args) == 0, function

    count = ctypes.c_size_t()
    ask("cuGraphGetEdges_v2", ctypes.c_void_p(graph), None, None, None, ctypes.byref(count))
    ends = [(ctypes.c_void_p * count.value)() for _ in range(2)]
    found = (Edge * count.value)()
    ask("cuGraphGetEdges_v2", ctypes.c_void_p(graph), *ends, found, ctypes.byref(count))

    def name(node: int) -> str:
        kernel, text = Kernel(), ctypes.c_char_p()
        ask("cuGraphKernelNodeGetParams_v2", ctypes.c_void_p(node), ctypes.byref(kernel))
        ask("cuFuncGetName", ctypes.byref(text), ctypes.c_void_p(kernel.function))
        assert text.value is not None
        return text.value.decode()

    return [
        (name(first), name(second), edge.kind == 1)
        for first, second, edge in zip(*ends, found, strict=True)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_only_decodes_behind_decodes_and_folds_behind_lists_begin_early(name: str) -> None:
    session = Session(made(name, STATES[0]), early=True)
    module, cache = session.module, session.cache
    given = [session.inputs(0, layer) for layer in range(LAYERS)]

    def step() -> None:
        for layer in range(LAYERS):
            module.decode(cache, layer, session.slots, **given[layer], **session.params)
        module.advance(cache, session.slots)
        for layer in range(LAYERS):
            module.recurrent(cache, layer, session.slots, **given[layer], **session.params)
        module.advance(cache, session.slots)
        for layer in range(LAYERS):
            module.decode(cache, layer, session.slots, **given[layer], **session.params)

    step()
    # as a warm-up leaves it, in the middle of a step
    graph = torch.cuda.CUDAGraph(keep_graph=True)
    with torch.cuda.graph(graph):
        step()
    found = edges(graph.raw_cuda_graph())
    early = [(first, second) for first, second, kind in found if kind]
    behind = [("_decode_kernel", "_decode_kernel")] * 2 * (LAYERS - 1)
    # what is listed is folded: the fold waits, but is there
    behind += [("_advance_kernel", "_fold_kernel")] * 2
    assert sorted(early) == sorted(behind)
    assert len(found) > len(early)
    graph.instantiate()
    graph.replay()
    torch.cuda.synchronize()
