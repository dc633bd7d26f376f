"""The plug-in in SGLang's own registry of hooks: what it replaces, refuses and says."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import pytest
import sglang.kernels.ops.attention.fla.gdn_replayssm_spec_fold as folding
import sglang.srt.layers.attention.linear.gdn_backend as gdn
import sglang.srt.layers.attention.linear.kda_backend as kda
from sglang.srt import plugins
from sglang.srt.configs.mamba_utils import BaseLinearStateParams
from sglang.srt.layers.attention.hybrid_linear_attn_backend import (
    Mamba2AttnBackend,
    MambaAttnBackendBase,
)
from sglang.srt.plugins.hook_registry import HookRegistry
from sglang.srt.server_args import ServerArgs
from sglang_server import Server, arguments

from kvgen.integrations.refused import Refused
from kvgen.integrations.sglang import plugin
from kvgen.integrations.sglang.backends import BufferedGatedDeltaNet, BufferedKimiDeltaAttention

OWN = (gdn.GDNAttnBackend, kda.KDAAttnBackend)


@pytest.fixture(autouse=True)
def unhooked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """SGLang as it is, before and after."""
    resolve, reckon = ServerArgs.__post_init__, BaseLinearStateParams.replayssm_ring_bytes_per_req
    fold, begin = folding.commit_gdn_replayssm_fold_all_layers, MambaAttnBackendBase.__init__
    monkeypatch.setattr(plugins, "_plugins_loaded", False)
    monkeypatch.delenv("KVGEN_SGLANG", raising=False)
    HookRegistry.reset()
    yield
    HookRegistry.reset()
    ServerArgs.__post_init__ = resolve
    BaseLinearStateParams.replayssm_ring_bytes_per_req = reckon
    folding.commit_gdn_replayssm_fold_all_layers = fold
    MambaAttnBackendBase.__init__ = begin
    gdn.GDNAttnBackend, kda.KDAAttnBackend = OWN


def test_its_entry_point_is_found_and_changes_nothing_by_itself() -> None:
    (found,) = (
        each for each in metadata.entry_points(group=plugins.GENERAL_PLUGINS_GROUP)
        if each.name == "kvgen"
    )  # fmt: skip
    assert found.value == "kvgen.integrations.sglang:register"
    plugins.load_plugins()
    assert (gdn.GDNAttnBackend, kda.KDAAttnBackend) == OWN and not HookRegistry._hooks


def test_it_replaces_both_backends_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVGEN_SGLANG", "state=float32")
    plugins.load_plugins()
    assert gdn.GDNAttnBackend is BufferedGatedDeltaNet
    assert kda.KDAAttnBackend is BufferedKimiDeltaAttention
    # how a window of drafts ends
    assert folding.commit_gdn_replayssm_fold_all_layers.__wrapped__


def test_arguments_that_go_against_it_stop_the_server_before_they_are_resolved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KVGEN_SGLANG", "state=float32")
    plugins.load_plugins()
    with pytest.raises(Refused) as refused:
        ServerArgs(model_path="none", page_size=16, mamba_ssm_dtype="bfloat16")
    assert len(refused.value.reasons) == 3


def test_its_own_defaults_but_for_the_schedule_are_agreed_to() -> None:
    given: Any = arguments(disable_overlap_schedule=True)
    plugin_environment = {"KVGEN_SGLANG": "state=float32"}
    assert plugin.settings.agreed(plugin_environment, given).state == "float32"
    before = arguments()
    with pytest.raises(Refused) as refused:
        plugin.settings.agreed(plugin_environment, before)
    assert [each.split(":")[0] for each in refused.value.reasons] == ["--disable-overlap-schedule"]


def test_an_unknown_version_is_logged_and_nothing_changes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("KVGEN_SGLANG", "state=float32")
    monkeypatch.setattr(plugin, "metadata", SimpleNamespace(version=lambda name: "0.5.18"))
    plugins.load_plugins()
    assert "SGLang 0.5.18 is not known to kvgen" in caplog.text
    assert (gdn.GDNAttnBackend, kda.KDAAttnBackend) == OWN and not HookRegistry._hooks


def test_it_says_what_it_serves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("KVGEN_SGLANG", "state=float32")
    caplog.set_level(logging.INFO)
    BufferedGatedDeltaNet(Server(places=5).runner)
    assert "kvgen accelerates SGLang 0.5.17" in caplog.text
    assert "2 layers (layer0, layer2); state float32, buffer of 5" in caplog.text


def test_a_pool_or_a_gate_that_it_cannot_serve_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVGEN_SGLANG", "state=bfloat16")
    server = Server(kimi=True)
    server.layers[1].lower_bound = -5.0
    with pytest.raises(Refused) as refused:
        BufferedKimiDeltaAttention(server.runner)
    assert [each.split(",")[0] for each in refused.value.reasons] == [
        "the pool's states are float32",
        "layer2: its gate has a lower bound",
    ]


def test_a_backend_that_has_no_use_for_rings_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVGEN_SGLANG", "state=float32")
    plugins.load_plugins()
    BufferedGatedDeltaNet(Server().runner)
    runner: Any = Server().runner
    with pytest.raises(Refused, match="Mamba2AttnBackend: kvgen has nothing for it, expected"):
        Mamba2AttnBackend(runner)


def test_a_model_of_drafts_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVGEN_SGLANG", "state=float32")
    server = Server()
    server.runner.is_draft_worker = True
    backend = BufferedGatedDeltaNet(server.runner)
    assert type(backend.kernel_dispatcher.decode_kernel).__name__ == "TritonGDNKernel"


def test_trees_are_given_the_rings_of_chains_once_arguments_are_resolved() -> None:
    drafting: Any = {"speculative_algorithm": "EAGLE", "disable_overlap_schedule": True}
    for branches in (1, 4):
        given = arguments(**drafting, speculative_eagle_topk=branches)
        plugin.settings.complete(
            plugin.settings.agreed({"KVGEN_SGLANG": "state=float32"}, given), given
        )
        assert given.enable_linear_replayssm_spec is (branches == 1)
        plugin.resolved(None, given)
        assert given.enable_linear_replayssm_spec and not given.enable_linear_replayssm
