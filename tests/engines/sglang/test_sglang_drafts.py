"""Drafts in chains over SGLang's rings for them, against the recurrence in float64."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
import sglang.kernels.ops.attention.fla.gdn_replayssm_spec_fold as folding
import sglang.kernels.ops.attention.fla.kda_replayssm_spec_decode as folding_kimi
import sglang.kernels.ops.mamba.mamba_state_scatter_triton as scattering
import sglang.srt.layers.attention.linear.gdn_backend as gdn
import sglang.srt.layers.attention.linear.kda_backend as kda
import sglang.srt.speculative.spec_utils as speculative
import torch
from sglang.srt.configs.mamba_utils import Mamba2StateDType
from sglang.srt.plugins.hook_registry import HookRegistry, HookType
from sglang_exact import Exact, folded
from sglang_server import Server

from kvgen.integrations.refused import Refused
from kvgen.integrations.sglang import drafts, plugin
from kvgen.integrations.sglang.backends import BufferedGatedDeltaNet, BufferedKimiDeltaAttention

STOCK = {False: gdn.GDNAttnBackend, True: kda.KDAAttnBackend}
OURS = {False: BufferedGatedDeltaNet, True: BufferedKimiDeltaAttention}
TOKENS = 3
TOLERANCE = {"float32": 2e-5, "bfloat16": 3e-2}


@pytest.fixture(autouse=True)
def hooked(monkeypatch: pytest.MonkeyPatch) -> Any:
    own = folding.commit_gdn_replayssm_fold_all_layers
    kimi = folding_kimi.commit_kda_replayssm_spec_all_layers
    commit = speculative.commit_mamba_states_after_verify
    HookRegistry.reset()
    for target in plugin.FOLDED:
        HookRegistry.register(target, drafts.fold, HookType.AROUND)
    HookRegistry.register(plugin.COMMITTED, drafts.committed, HookType.AROUND)
    HookRegistry.apply_hooks()
    # SGLang's own of convolutions wants a GPU
    monkeypatch.setattr(scattering, "fused_conv_window_scatter_with_mask", scattered)
    # there is no model around the pool
    monkeypatch.setattr(speculative, "mambaish_config", lambda config: True)
    yield
    HookRegistry.reset()
    folding.commit_gdn_replayssm_fold_all_layers = own
    folding_kimi.commit_kda_replayssm_spec_all_layers = kimi
    speculative.commit_mamba_states_after_verify = commit


def scattered(
    kept: torch.Tensor, windows: torch.Tensor, slots: torch.Tensor, steps: torch.Tensor
) -> None:
    for row, (slot, step) in enumerate(zip(slots.tolist(), steps.tolist(), strict=True)):
        kept[:, slot] = windows[:, row, step]


# three nodes: two after the last token that was sampled, or a chain
TREE = {"parents": [-1, 0, 0], "next": [1, -1, -1], "sibling": [-1, 2, -1]}
PATHS = {False: [[0], [0, 1], [0, 1, 2]], True: [[0], [0, 1], [0, 2]]}


class Run:
    """Requests whose windows of drafts are kept in part, step by step."""

    def __init__(self, server: Server, backend: Any, tree: bool = False) -> None:
        self.server, self.backend, self.tree = server, backend, tree
        self.choose, self.draw = random.Random(2), torch.Generator().manual_seed(3)
        self.requests: list[tuple[Any, Any]] = []

    def admit(self) -> None:
        request = self.server.admit(self.draw)
        self.requests.append((request, Exact(self.server, int(request.mamba_pool_idx))))

    def step(self, padding: int = 0) -> None:
        server, backend = self.server, self.backend
        rows = len(self.requests) + padding
        batch = server.batch([each for each, _ in self.requests], [9] * len(self.requests), padding)
        if self.tree:
            for name in ("next", "sibling"):
                nodes = torch.tensor([TREE[name]] * rows, dtype=torch.int32)
                end = "token" if name == "next" else name
                setattr(batch.spec_info, f"retrieve_next_{end}", nodes)
        parents = TREE["parents"] if self.tree else [-1, 0, 1]
        backend.init_forward_metadata(batch)
        bound = TOLERANCE[str(server.held.temporal.dtype).removeprefix("torch.")]
        for place, layer in enumerate(server.layers):
            tokens = server.tokens(rows * TOKENS, self.draw)
            right = [
                exact.verify(place, layer, tokens, row * TOKENS, parents)
                for row, (_, exact) in enumerate(self.requests)
            ]
            found = backend.forward_extend(layer, batch, *(each.clone() for each in tokens))
            for each, exact in zip(found[0].unflatten(0, (rows, TOKENS)), right, strict=False):
                assert error(each, exact) < bound
        self.commit(batch)
        for request, exact in self.requests:
            states = server.held.temporal[:, int(request.mamba_pool_idx)]
            for found, right in zip(states.transpose(-1, -2), exact.states, strict=True):
                assert error(found, right) < bound
        assert not drafts.SERVED[server.held.temporal.data_ptr()].cache.cursors.any()

    def commit(self, batch: Any) -> None:
        """As SGLang ends such a step: its pool then has what is kept, and nothing else."""
        paths = [self.choose.choice(PATHS[self.tree]) for _ in self.requests]
        wide = [path + [-1] * (TOKENS - len(path)) for path in paths]
        numbered = torch.tensor(
            [[at if at < 0 else at + row * TOKENS for at in path] for row, path in enumerate(wide)],
            dtype=torch.int32,
        )
        ended = SimpleNamespace(
            forward_mode=batch.forward_mode,
            req_pool_indices=batch.req_pool_indices[: len(paths)],
            mamba_track_indices=None,
        )
        worker = SimpleNamespace(
            model_runner=SimpleNamespace(req_to_token_pool=self.server.pool, model_config=None)
        )
        counts = torch.tensor([len(path) for path in paths], dtype=torch.int32)
        speculative.commit_mamba_states_after_verify(worker, ended, counts, numbered, TOKENS)
        for path, (_, exact) in zip(paths, self.requests, strict=True):
            if exact is not None:
                exact.keep(path[-1])


class Beside(Run):
    """The same, whose tokens nothing else computes."""

    def admit(self) -> None:
        self.requests.append((self.server.admit(self.draw), None))

    def step(self, padding: int = 0) -> None:
        server, rows = self.server, [each for each, _ in self.requests]
        batch = server.batch(rows, [9] * len(rows), padding)
        self.backend.init_forward_metadata(batch)
        for layer in server.layers:
            tokens = server.tokens(len(rows) * TOKENS, self.draw)
            self.backend.forward_extend(layer, batch, *tokens)
        self.commit(batch)


def error(found: torch.Tensor, right: torch.Tensor) -> float:
    return float((found.double() - right).norm() / right.norm())


@pytest.mark.parametrize(
    ("state", "tree"), [("float32", False), ("bfloat16", False), ("float32", True)]
)
def test_what_is_kept_of_windows_is_decoded_exactly(
    state: str, tree: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVGEN_SGLANG", f"state={state}")
    server = Server(state=state, drafts=TOKENS, branches=2 if tree else 1)
    run = Run(server, BufferedGatedDeltaNet(server.runner), tree)
    run.admit()
    run.admit()
    run.step()
    request, _ = run.requests.pop(0)
    server.release(request)
    run.admit()
    run.step(padding=2)
    run.admit()
    run.step()


RINGS = ("rawv", "rawk", "g", "beta")


@pytest.mark.parametrize("kimi", [False, True])
def test_a_slot_takes_what_sglang_reckons_for_it(
    kimi: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No state for each token of a window, and SGLang's own rings as they are, whatever the state
    and the activations are in."""
    for state, inputs in (
        ("float32", "bfloat16"),
        ("bfloat16", "bfloat16"),
        ("float32", "float32"),
    ):
        monkeypatch.setenv("KVGEN_SGLANG", f"state={state}")
        server = Server(kimi, state, places=8, drafts=TOKENS, inputs=inputs)
        held = server.held
        own = {name: getattr(held, f"replayssm_{name}") for name in RINGS}
        assert held.intermediate_ssm is None
        parameters = server.parameters(
            Mamba2StateDType(conv=getattr(torch, inputs), temporal=getattr(torch, state))
        )
        reckoned = parameters.replayssm_ring_bytes_per_req(8 if kimi else TOKENS)
        left = sum(getattr(held, f"replayssm_{name}").nbytes for name in ("d", "k") if kimi)
        taken = sum(each.nbytes for each in own.values()) + left
        assert taken == reckoned * held.temporal.shape[1]
        first, second = (OURS[kimi](server.runner) for _ in range(2))
        assert first.windows is second.windows and server.held is held
        places = {each.data_ptr() for each in first.windows.cache.flat()}
        assert places >= {held.temporal.data_ptr(), *(each.data_ptr() for each in own.values())}
        books = {"cursors", "skipped", "pending", "work"}
        assert len(first.windows.cache.tensors) == 1 + len(RINGS) + len(books)


@pytest.mark.parametrize("kimi", [False, True])
@pytest.mark.parametrize("inputs", ["float32", "bfloat16"])
def test_its_states_are_those_of_sglangs_own_fold(
    kimi: bool, inputs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows after windows: what rings hold loses nothing that a float32 state has."""
    monkeypatch.setenv("KVGEN_SGLANG", "state=float32")
    for each in (gdn, kda):
        # which in Triton's interpreter would multiply the bits of a bfloat16
        monkeypatch.setattr(each, "causal_conv1d_update", lambda mixed, *given, **more: mixed)
    states: list[list[torch.Tensor]] = []
    for backend in (OURS[kimi], STOCK[kimi]):
        if backend is STOCK[kimi]:
            monkeypatch.setattr(folding, "commit_gdn_replayssm_fold_all_layers", folded)
            monkeypatch.setattr(folding_kimi, "commit_kda_replayssm_spec_all_layers", folded)
        server = Server(kimi, places=8, drafts=TOKENS, inputs=inputs)
        run = Beside(server, backend(server.runner))
        for _ in range(2):
            run.admit()
        for _ in range(4):
            run.step()
        slots = [int(request.mamba_pool_idx) for request, _ in run.requests]
        # as far as a window reaches
        rings = [getattr(server.held, f"replayssm_{name}")[:, slots, :, :TOKENS] for name in RINGS]
        states.append([server.held.temporal[:, slots], *rings])
    for found, right in zip(*states, strict=True):
        assert error(found, right.double()) < 1e-6


def test_a_pool_that_is_not_ours_is_left_to_its_own_fold() -> None:
    seen: list[Any] = []
    own = lambda **given: seen.append(given)  # noqa: E731
    server = Server(drafts=TOKENS)
    given = SimpleNamespace(
        checkpoint_state=server.held.temporal, ssm_state_indices=1, accept_lens=2, max_cache_len=3
    )
    drafts.fold(own, **vars(given))
    assert seen == [vars(given)]


def test_a_ring_that_is_longer_than_any_window_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVGEN_SGLANG", "state=float32")
    server = Server(kimi=True, places=32, drafts=TOKENS)
    with pytest.raises(Refused, match="rings of 32 places for drafts, expected at most 16"):
        BufferedKimiDeltaAttention(server.runner)


def test_drafts_of_kimi_delta_attention_are_decoded_exactly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KVGEN_SGLANG", "state=float32")
    server = Server(kimi=True, places=8, drafts=TOKENS)
    run = Run(server, BufferedKimiDeltaAttention(server.runner))
    run.admit()
    run.step()
    run.admit()
    run.step(padding=1)
    run.step()
