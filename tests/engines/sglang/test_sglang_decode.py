"""Decoding over SGLang's own pool, against the recurrence in float64 and its own kernel."""

from __future__ import annotations

import random
from typing import Any

import pytest
import sglang.kernels.ops.attention.fla.fused_recurrent as fused_recurrent
import sglang.srt.layers.attention.linear.gdn_backend as gdn
import sglang.srt.layers.attention.linear.kda_backend as kda
import torch
import triton.language as tl
from sglang.srt.layers.attention.linear.kernels.gdn_triton import TritonGDNKernel
from sglang.srt.layers.attention.linear.kernels.kda_triton import TritonKDAKernel
from sglang_exact import Exact
from sglang_server import TRACKED, Server

from kvgen.checking.interpreter import rounding
from kvgen.integrations.sglang.backends import BufferedGatedDeltaNet, BufferedKimiDeltaAttention

OURS = {False: BufferedGatedDeltaNet, True: BufferedKimiDeltaAttention}
# of a row's output, and of its state
TOLERANCE = {"float32": (2e-5, 2e-5), "bfloat16": (2e-2, 2e-2)}


@pytest.fixture(params=[False, True], ids=["gated delta rule", "Kimi"])
def kimi(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVGEN_SGLANG", "state=float32")


class Run:
    """Requests that come and go, decoded step by step beside the exact recurrence."""

    def __init__(self, server: Server, backends: list[Any], graphs: bool = False) -> None:
        self.server, self.backends, self.graphs = server, backends, graphs
        self.choose, self.draw = random.Random(2), torch.Generator().manual_seed(3)
        self.exact: dict[Any, Exact] = {}
        self.requests: list[Any] = []
        self.lengths: dict[int, int] = {}
        self.folded = {"full": 0, "forced": 0, "early": 0}
        if graphs:
            for each in backends:
                each.init_cuda_graph_state(8, 8)

    def admit(self) -> None:
        request = self.server.admit(self.draw)
        self.requests.append(request)
        self.exact[id(request)] = Exact(self.server, int(request.mamba_pool_idx))
        self.lengths[id(request)] = self.choose.randint(1, TRACKED)

    def release(self, request: Any) -> None:
        self.requests.remove(request)
        self.server.release(request)

    def step(self, padding: int = 0) -> float:
        """A token of every request; the largest error of an output."""
        server, backend = self.server, self.choose.choice(self.backends)
        rows = self.requests
        for each in rows:
            self.lengths[id(each)] += 1
        lengths = [self.lengths[id(each)] for each in rows]
        slots = [int(each.mamba_pool_idx) for each in rows]
        before = [int(server.cursors[slot]) for slot in slots]
        kept = server.held.temporal.clone()
        batch = server.batch(rows, lengths, padding)
        if self.graphs:
            backend.init_forward_metadata_out_graph(batch)
        else:
            backend.init_forward_metadata(batch)
        worst = 0.0
        for place, layer in enumerate(server.layers):
            tokens = server.tokens(len(rows) + padding, self.draw)
            exact = [
                self.exact[id(each)].decode(place, layer, tokens, row)
                for row, each in enumerate(rows)
            ]
            mixed, a, b = (each.clone() for each in tokens)
            found = backend.forward_decode(layer, batch, mixed, a, b)[0]
            for row, right in enumerate(exact):
                worst = max(worst, error(found[row], right))
        changed = self.check_states(slots, lengths, before, kept)
        after = [0 if slot in changed else n + 1 for slot, n in zip(slots, before, strict=True)]
        assert server.cursors[slots].tolist() == after
        return worst

    def check_states(
        self, slots: list[int], lengths: list[int], before: list[int], kept: torch.Tensor
    ) -> list[int]:
        """States change where SGLang folds, and in rows that fold before they must, and only
        there; a state that was folded is the exact one. The slots that were folded."""
        states, changed = self.server.held.temporal, []
        for slot, length, cursor, request in zip(
            slots, lengths, before, self.requests, strict=True
        ):
            full = cursor == self.server.places - 1
            forced = length % TRACKED == 0 and not self.server.kimi
            if int(self.server.cursors[slot]):
                assert not full and not forced
                continue
            self.folded["full" if full else "forced" if forced else "early"] += 1
            changed.append(slot)
            for place, exact in enumerate(self.exact[id(request)].states):
                bound = TOLERANCE[str(states.dtype).removeprefix("torch.")][1]
                assert error(states[place, slot].transpose(-1, -2), exact) < bound
        same = [slot for slot in range(states.shape[1]) if slot not in changed]
        assert torch.equal(states[:, same], kept[:, same])
        return changed


def error(found: torch.Tensor, right: torch.Tensor) -> float:
    return float((found.double() - right).norm() / right.norm())


def mixed(run: Run, steps: int, bound: float) -> None:
    """Admissions, ends, padding and folds at random."""
    for _ in range(3):
        run.admit()
    for _ in range(steps):
        if len(run.requests) > 1 and run.choose.random() < 0.2:
            run.release(run.choose.choice(run.requests))
        if len(run.requests) < 5 and run.choose.random() < 0.3:
            run.admit()
        run.choose.shuffle(run.requests)
        assert run.step(padding=run.choose.choice([0, 0, 2])) < bound
    assert run.folded["full"] and (run.folded["forced"] or run.server.kimi)


def test_requests_that_come_and_go_are_decoded_exactly(kimi: bool) -> None:
    server = Server(kimi)
    mixed(Run(server, [OURS[kimi](server.runner)]), 20, TOLERANCE["float32"][0])


def test_a_pool_in_bfloat16_takes_records_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVGEN_SGLANG", "state=bfloat16")
    server = Server(state="bfloat16")
    mixed(Run(server, [OURS[False](server.runner)]), 12, TOLERANCE["bfloat16"][0])


def test_states_are_those_of_its_own_decode(kimi: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Activations in bfloat16: what SGLang without rings rounds of them is rounded alike."""
    for each in (gdn, kda):
        # which in Triton's interpreter would multiply the bits of a bfloat16
        monkeypatch.setattr(each, "causal_conv1d_update", lambda mixed, *given, **more: mixed)
    # as the interpreter has it, and not as it was when SGLang's kernels were read
    monkeypatch.setattr(fused_recurrent, "exp", lambda x: tl.exp(x))
    server, draw = Server(kimi, places=3, inputs="bfloat16"), torch.Generator().manual_seed(4)
    backend, own = OURS[kimi](server.runner), (TritonKDAKernel if kimi else TritonGDNKernel)()
    requests = [server.admit(draw) for _ in range(2)]
    slots = torch.tensor([int(each.mamba_pool_idx) for each in requests], dtype=torch.int32)
    states = server.held.temporal.clone()
    with rounding():
        for _ in range(server.places):
            batch = server.batch(requests, [1, 1], 0)
            backend.init_forward_metadata(batch)
            for place, layer in enumerate(server.layers):
                mixed, a, b = server.tokens(len(requests), draw)
                found = backend.forward_decode(layer, batch, mixed.clone(), a.clone(), b.clone())
                right = own.packed_decode(
                    mixed, a, b, A_log=layer.A_log, dt_bias=layer.dt_bias,
                    scale=layer.head_k_dim**-0.5, ssm_states=states[place], cache_indices=slots,
                    num_v_heads=layer.num_v_heads, head_v_dim=layer.head_v_dim,
                )  # fmt: skip
                assert error(found, right.double()) < 2e-4
    assert not server.cursors[slots].any()
    assert error(server.held.temporal[:, slots], states[:, slots].double()) < 1e-6


def test_its_own_kernel_and_ours_take_turns_over_the_same_rings(kimi: bool) -> None:
    """Each goes on from what the other has left in rings and states."""
    server = Server(kimi, places=4)
    # by their modules: a hook replaces a class wherever it is known
    own = kda.KDAAttnBackend if kimi else gdn.GDNAttnBackend
    assert own is not OURS[kimi]
    mixed(Run(server, [own(server.runner), OURS[kimi](server.runner)]), 16, 2e-5)


def test_captured_steps_take_turns_with_its_own(kimi: bool) -> None:
    """SGLang moves the cursors before a captured step, ours after it."""
    server = Server(kimi, places=4)
    own = kda.KDAAttnBackend if kimi else gdn.GDNAttnBackend
    backends = [own(server.runner), OURS[kimi](server.runner)]
    mixed(Run(server, backends, graphs=True), 24, 2e-5)


def test_a_captured_step_does_not_wait_for_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As SGLang does to move its cursors: how many slots there are is known on the GPU alone."""
    server = Server()
    backends = [gdn.GDNAttnBackend(server.runner), OURS[False](server.runner)]
    run = Run(server, backends, graphs=True)
    run.admit()
    waited: list[str] = []
    unique = torch.unique

    def heard(*args: Any, **options: Any) -> Any:
        waited.append("unique")
        return unique(*args, **options)

    monkeypatch.setattr(torch, "unique", heard)
    batch = server.batch(run.requests, [TRACKED], padding=1)
    for backend, waits in zip(backends, (["unique"], []), strict=True):
        waited.clear()
        backend.init_forward_metadata_out_graph(batch)
        assert waited == waits
        assert backend.forward_metadata.replayssm_force_flush.tolist() == [1, 0]


def test_a_ring_of_one_place_folds_at_every_step() -> None:
    server = Server(places=1)
    run = Run(server, [OURS[False](server.runner)])
    run.admit()
    for _ in range(3):
        assert run.step() < 2e-5
    assert run.folded["full"] == 3


def test_what_graphs_hold_stays_where_it_is() -> None:
    server = Server()
    backend = OURS[False](server.runner)
    run = Run(server, [backend], graphs=True)
    run.admit()
    addresses = set()
    for _ in range(5):
        assert run.step(padding=2) < 2e-5
        held = backend.forward_metadata
        addresses.add(
            (
                held.mamba_cache_indices.data_ptr(),
                held.replayssm_force_flush.data_ptr(),
            )
        )
        # where the cursors are the step's own
        assert held.replayssm_write_pos is None
    assert len(addresses) == 1


def test_a_capture_changes_nothing_of_the_pool() -> None:
    """SGLang captures with rows of its padding slot, which lie in the pool."""
    server = Server()
    backend = OURS[False](server.runner)
    backend.init_cuda_graph_state(4, 4)
    batch = server.batch([], [], 3)
    batch.num_padding = 0
    kept = {name: getattr(server.held, name).clone() for name in ("temporal", "replayssm_d")}
    backend.init_forward_metadata_out_graph(batch, in_capture=True)
    for layer in server.layers:
        tokens = server.tokens(3, torch.Generator().manual_seed(5))
        assert not backend.forward_decode(layer, batch, *tokens).any()
    for name, before in kept.items():
        assert torch.equal(getattr(server.held, name)[:, 1:], before[:, 1:])
    assert not server.cursors.any()


def test_a_state_that_is_copied_for_a_prefix_starts_with_an_empty_ring() -> None:
    server = Server()
    run = Run(server, [OURS[False](server.runner)])
    run.admit()
    while True:
        run.step()
        if int(server.cursors[int(run.requests[0].mamba_pool_idx)]) == 0:
            break
    (first,) = run.requests
    run.admit()
    second = run.requests[1]
    run.step()
    run.step()
    # the second request is dropped, and another takes its slot with a prefix that is known
    run.release(first)
    slot = second.mamba_pool_idx.reshape(1)
    while int(server.cursors[slot]) != 0:
        run.step()
    run.admit()
    third = run.requests[1]
    server.pool.mamba_pool.copy_from(slot, third.mamba_pool_idx.reshape(1))
    run.exact[id(third)] = Exact(server, int(third.mamba_pool_idx))
    for _ in range(4):
        assert run.step() < 2e-5
