"""Other libraries' kernels compute what our references do: in the interpreter, at small sizes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.autotuner import Autotuner
from twins import analysed, made

from kvgen import bench as benches
from kvgen import compiler
from kvgen.benching import contest, lineup
from kvgen.benching.peers import fla, peer, sglang
from kvgen.benching.peers.peer import Problem
from kvgen.checking.samples import draw
from kvgen.shipped import resolve
from kvgen.timing import clock, cycles, errors, steps
from kvgen.timing.producer import Producer

# the least that each kernel takes
SIZES = {
    "gated_deltanet": {"K": 32, "V": 16},
    "kimi_delta_attention": {"K": 32, "V": 32},
    "kimi_delta_attention_bounded": {"K": 32, "V": 32},
    "mamba2": {"K": 16, "V": 8},
    "lightning_attention": {"K": 128, "V": 128},
    "rwkv7": {"K": 16, "V": 16},
}
PACKAGES = {"fla": "fla.ops", "sglang": "sglang.kernels"}
TOKENS = 20
BOUND = 5e-6


@triton.jit
def exp(x):
    return tl.exp(x)


@triton.jit
def log(x):
    return tl.log(x)


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    def first(self: Autotuner, *args: Any, **kwargs: Any) -> Any:
        return self.fn.run(*args, **kwargs, **self.configs[0].all_kwargs())

    # a configuration is not chosen by time here, and a CPU is no device to switch to
    monkeypatch.setattr(torch.cpu, "device", lambda index: nullcontext(), raising=False)
    monkeypatch.setattr(Autotuner, "run", first)
    monkeypatch.setattr(steps, "DEVICE", "cpu")
    monkeypatch.setattr(clock, "captured", lambda run: nullcontext(run()))


def aliases_patched(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels name tl.exp `exp`, which the interpreter takes for a function of the host's."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == library:
            for alias, function in (("exp", exp), ("log", log)):
                if vars(module).get(alias) is getattr(tl, alias):
                    monkeypatch.setattr(module, alias, function)


def tried(
    peer: peer.Peer, monkeypatch: pytest.MonkeyPatch, state: str = "float32"
) -> lineup.Entrant | lineup.Absent:
    """The peer over some tokens, run twice: the first run imports what is to be patched."""
    if peer.library in PACKAGES:
        pytest.importorskip(PACKAGES[peer.library])
    analysis = analysed(peer.family, f"state={state}", **SIZES[peer.family])
    module = made(peer.family, f"state={state}", **SIZES[peer.family]).module
    right = errors.exact(analysis, module, TOKENS)
    # the interpreter multiplies bfloat16 as if it were integers
    inputs = [{name: x.float() for name, x in token.items()} for token in right.inputs]
    right = replace(right, inputs=inputs)
    found = lineup.tried(peer, analysis, right, state)
    if isinstance(found, lineup.Absent):
        aliases_patched(peer.library, monkeypatch)
        found = lineup.tried(peer, analysis, right, state)
    return found


def named(peer: peer.Peer) -> str:
    return f"{peer.name} {peer.family}"


@pytest.mark.parametrize("peer", [*fla.PEERS, *sglang.PEERS], ids=named)
def test_peers_compute_the_same(
    peer: peer.Peer, interpreted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More tokens than a buffer of theirs holds, so that it is flushed."""
    assert peer.buffer < TOKENS
    found = tried(peer, monkeypatch)
    assert isinstance(found, lineup.Entrant), found
    assert found.error < BOUND


@pytest.mark.parametrize("peer", [*fla.PEERS, *sglang.PEERS], ids=named)
def test_peers_step_through_layers(
    peer: peer.Peer, interpreted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they are timed: on random states, each layer on its own; every output is written."""
    entrant = tried(peer, monkeypatch)
    assert isinstance(entrant, lineup.Entrant), entrant
    analysis = analysed(peer.family, **SIZES[peer.family])
    drawn = [draw(analysis.spec, 3, dtype=torch.float32, device="cpu", seed=n) for n in range(2)]
    inputs = [{tensor.name: each[tensor.name] for tensor in analysis.spec.inputs} for each in drawn]
    params = [{tensor.name: each[tensor.name] for tensor in analysis.spec.params} for each in drawn]
    slots = torch.tensor([2, 0, 1], dtype=torch.int32)
    problem = Problem(dict(analysis.spec.sizes), "float32", slots, inputs, params)
    found = contest.theirs(analysis, problem, entrant)
    for _ in range(2):
        found.cycle.run()
    found.check()
    [layout] = problem._states
    first, second = problem.states(layout)
    assert first.data_ptr() != second.data_ptr() and not first.equal(second)
    if found.cycle.cursors is not None:
        # the call that compiles moves them too
        assert found.cycle.cursors.tolist() == [3] * 3


def test_a_head_of_mamba2_has_one_decay(monkeypatch: pytest.MonkeyPatch) -> None:
    """SGLang's kernel sees it by strides of 0, and reads a decay for every element else."""
    seen: list[tuple[int, ...]] = []

    def update(state: torch.Tensor, x: Any, dt: torch.Tensor, A: torch.Tensor, *rest: Any, **named):
        seen.append((*A.stride()[1:], dt.stride(-1), named["dt_bias"].stride(-1)))

    name = "sglang.kernels.ops.mamba.triton_ops.mamba_ssm"
    module = ModuleType(name)
    vars(module)["selective_state_update"] = update
    monkeypatch.setitem(sys.modules, name, module)
    spec = analysed("mamba2").spec
    drawn = draw(spec, 2, dtype=torch.float32, device="cpu", seed=0)
    slots = torch.arange(2, dtype=torch.int32)
    sglang.mamba2(Problem(dict(spec.sizes), "float32", slots, [drawn], [drawn])).call(0)
    assert seen == [(0, 0, 0, 0)]


# which peers there are ---------------------------------------------------------------------------

FAMILIES = list(SIZES)


@pytest.mark.parametrize(
    ("name", "family"),
    [(name, name) for name in FAMILIES]
    + [("mamba2_falcon", "mamba2"), ("olmo_hybrid", ""), ("gla", "")],
)
def test_a_family_is_a_recurrence_at_any_sizes(name: str, family: str) -> None:
    assert lineup.family_of(analysed(name), FAMILIES) == family
    assert lineup.family_of(analysed(name, "state=split"), FAMILIES) == family


def test_a_copy_under_another_name_has_the_same_peers(tmp_path: Path) -> None:
    text = resolve("gated_deltanet").read_text(encoding="utf-8")
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("name: gated_deltanet", "name: mine  # and a comment"))
    assert lineup.family_of(compiler.analyse(path), FAMILIES) == "gated_deltanet"
    path.write_text(text.replace("sigmoid(b)", "2 * sigmoid(b)"))
    assert lineup.family_of(compiler.analyse(path), FAMILIES) == ""


def right(name: str, **sizes: int) -> tuple[compiler.Analysis, errors.Exact]:
    analysis = analysed(name, **sizes)
    return analysis, errors.exact(analysis, made(name, **sizes).module, 3)


def stand_in(start: Any, **more: Any) -> peer.Peer:
    return peer.Peer("fla", "kernel", "gated_deltanet", start, **more)


def absent(found: lineup.Entrant | lineup.Absent) -> tuple[str, str]:
    assert isinstance(found, lineup.Absent)
    return found.peer, found.reason


def test_why_a_peer_is_absent(interpreted: None) -> None:
    analysis, exact = right("gated_deltanet")

    def reason(start: Any, **more: Any) -> tuple[str, str]:
        return absent(lineup.tried(stand_in(start, **more), analysis, exact, "float32"))

    def missing(problem: peer.Problem) -> peer.Started:
        raise ModuleNotFoundError("No module named 'fla'")

    def broken(problem: peer.Problem) -> peer.Started:
        raise ValueError("a shape\nand more")

    def other(problem: peer.Problem) -> peer.Started:
        return peer.Started(lambda layer: torch.ones_like(problem.outputs()[layer]))

    def nothing(problem: peer.Problem) -> peer.Started:
        return peer.Started(lambda layer: problem.outputs()[layer])

    assert reason(missing) == ("fla", "cannot be imported: No module named 'fla'")
    assert reason(broken) == ("fla kernel", "ValueError: a shape")
    assert reason(other)[1].startswith("computes something else here: error ")
    assert reason(nothing) == ("fla kernel", "computes something else here: error nan")
    assert reason(other, states=("bfloat16",)) == ("fla kernel", "keeps no float32 state")
    assert reason(other, unfit=lambda sizes: f"K is {sizes['K']}") == ("fla kernel", "K is 16")


def test_a_library_that_is_missing_is_one_line(
    interpreted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("sglang", "flashinfer"):
        for name in [name for name in sys.modules if name.split(".")[0] == library]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, library, None)
    analysis, exact = right("gated_deltanet", K=128, V=128)
    found = lineup.lineup(analysis, exact, ("sglang", "flashinfer"), print)
    assert [each.peer for each in found.absent] == ["sglang", "flashinfer"]
    assert all("cannot be imported" in each.reason for each in found.absent)
    analysis, exact = right("gla")
    found = lineup.lineup(analysis, exact, ("fla",), print)
    assert absent(found.absent[0]) == ("fla", "no decode kernel of this recurrence is known here")


# floors ------------------------------------------------------------------------------------------


def test_floors_of_others() -> None:
    sizes = {"H": 2, "HV": 4, "K": 8, "V": 16}
    plain, _, *_ = sglang.PEERS
    buffered = sglang.PEERS[1]
    state = 4 * 8 * 16 * 4
    assert plain.floor_bytes(sizes, "float32", 10) == 2 * state + 10
    record = (4 * 16 + 2 * 8) * 4 + 4 * 4
    assert buffered.record and buffered.record(sizes, 4) == record
    # 16 steps: the state read every time and written once; 0 to 15 records read, 15 written
    whole = 16 * state + state + sum(range(16)) * record + 15 * record + 16 * 10
    assert buffered.floor_bytes(sizes, "float32", 10) == pytest.approx(whole / 16)
    assert buffered.floor_bytes(sizes, "bfloat16", 10) < 0.6 * whole / 16


# timing ------------------------------------------------------------------------------------------


def test_peers_take_turns_with_ours(no_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that is made up: a plain kernel in torch, with positions that move."""
    seen: list[list[int]] = []
    stand = cycles.Cycle.stand

    def standing(self: cycles.Cycle, at: Any) -> None:
        stand(self, at)
        # what stands between two decodes has none
        if self.cursors is not None:
            seen.append(self.cursors.tolist())

    monkeypatch.setattr(cycles.Cycle, "stand", standing)

    def start(problem: peer.Problem) -> peer.Started:
        positions = torch.zeros_like(problem.slots)

        def call(layer: int) -> torch.Tensor:
            return outputs[layer] if problem.chained else problem.inputs[layer]["v"]

        return peer.Started(call, positions, 3)

    analysis = analysed("gated_deltanet")
    exact = errors.exact(analysis, made("gated_deltanet").module, 4)
    outputs = [output.bfloat16() for output in exact.outputs]
    theirs = stand_in(start, buffer=3, record=lambda sizes, element: 8)
    monkeypatch.setattr(fla, "PEERS", (theirs,))
    monkeypatch.setattr(benches, "exact", lambda *given: exact)
    report = benches.bench(analysis, [6], layers=2, against=["fla"])
    assert [row.kernel for row in report.rows] == ["decode", "recurrent", "fla kernel"]
    row = report.rows[-1]
    assert (row.library, row.state, row.buffer, row.layers) == ("fla", "float32", 3, 2)
    assert 1e-4 < row.error < 4e-3 and row.share == pytest.approx(row.floor_us / row.us)
    assert [each.kernel for each in report.peers] == ["kernel"]
    # cycles begin staggered, the worst step has every row in the last place; one after another
    staggered = [row % report.buffer for row in range(6)]
    ours = [staggered, [report.buffer - 1] * 6, [0] * 6, [0] * 6]
    turn = [*ours, [0, 1, 2, 0, 1, 2], [2] * 6]
    assert seen[-12:] == turn * 2


def test_what_a_layer_adds_behind_another_kernel(
    no_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours and a peer's: a producer in front of every layer, whose own time is taken off."""
    launched: list[str] = []
    monkeypatch.setattr(contest, "Producer", lambda rows: lambda layer: launched.append("producer"))

    def start(problem: peer.Problem) -> peer.Started:
        def call(layer: int) -> torch.Tensor:
            launched.append(f"fla {layer}")
            return problem.inputs[layer]["v"]

        return peer.Started(call)

    def timed(found: Sequence[cycles.Cycle]) -> list[tuple[cycles.Times, float]]:
        launched.clear()
        for each in found:
            each.run()
        runs.append(list(launched))
        return [(cycles.Times(10.0 * (3 - at), 0.1), 40.0) for at in range(len(found))]

    runs: list[list[str]] = []
    monkeypatch.setattr(contest, "time_cycles", timed)
    analysis = analysed("gated_deltanet")
    step = steps.make_step(analysis, made("gated_deltanet").module, 2, 2)
    entrant = lineup.Entrant(stand_in(start), 0.0)
    rows, _ = contest.contest(analysis, step, {"decode": 0.0}, [entrant], 1e12)
    behind = ["producer", "fla 0", "producer", "fla 1"]
    assert runs == [["fla 0", "fla 1"], ["producer"] * 2 + behind + ["producer"] * 2]
    # decode, the peer, producers alone
    assert [row.us for row in rows] == [30.0, 20.0]
    assert [row.between_us for row in rows] == [20.0, 10.0]


def test_a_producer_goes_through_its_weights(no_gpu: None) -> None:
    producer = Producer(3, hidden=32, wide=16)
    found = [producer(layer) for layer in range(2 * len(producer.weights))]
    assert found[0].shape == (3, 16) and found[0].dtype == torch.bfloat16
    # 32 * 0.5 * 0.01, behind silu
    assert found[-1].float().mean().item() == pytest.approx(0.0864, rel=0.02)
    assert len({weights.data_ptr() for weights in producer.weights}) == len(producer.weights) > 1


def test_a_peer_that_fails_at_a_batch_is_left_out_there(
    no_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(problem: peer.Problem) -> peer.Started:
        if problem.rows == 3:
            raise RuntimeError("no memory")
        states = problem.states("vk")
        return peer.Started(lambda layer: states[layer][:, None, :, :, 0].bfloat16())

    analysis = analysed("gated_deltanet")
    entrant = lineup.Entrant(stand_in(start), 0.0)
    found = lineup.Lineup((entrant,), ())
    monkeypatch.setattr(benches, "lineup", lambda *given: found)
    report = benches.bench(analysis, [2, 3], layers=2, against=["fla"])
    batches = [row.batch for row in report.rows if row.library == "fla"]
    assert batches == [2]
    assert absent(report.absent[0]) == ("fla kernel", "at batch 3: RuntimeError: no memory")


def test_unwritten_outputs_of_a_peer_are_an_error(no_gpu: None) -> None:
    analysis = analysed("gated_deltanet")
    step = steps.make_step(analysis, made("gated_deltanet").module, 2, 1)

    def start(problem: peer.Problem) -> peer.Started:
        outputs = problem.outputs()
        return peer.Started(lambda layer: outputs[layer])

    entrant = lineup.Entrant(stand_in(start), 0.0)
    with pytest.raises(RuntimeError, match="fla kernel left outputs unwritten"):
        contest.contest(analysis, step, {"decode": 0.0}, [entrant], 1e12)
