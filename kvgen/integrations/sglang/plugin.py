"""Where kvgen goes into SGLang: its arguments are looked at, and its backends replaced."""

# pyright: reportMissingImports=false

from __future__ import annotations

import os
from importlib import metadata
from typing import Any

from kvgen.integrations.sglang import settings

RESOLVED = "sglang.srt.server_args.ServerArgs.__post_init__"
LINEAR = "sglang.srt.layers.attention.linear"
BACKEND = "sglang.srt.layers.attention.hybrid_linear_attn_backend.MambaAttnBackendBase.__init__"
COMMITTED = "sglang.srt.speculative.spec_utils.commit_mamba_states_after_verify"
KERNELS = "sglang.kernels.ops.attention.fla"
FOLDED = (
    f"{KERNELS}.gdn_replayssm_spec_fold.commit_gdn_replayssm_fold_all_layers",
    f"{KERNELS}.kda_replayssm_spec_decode.commit_kda_replayssm_spec_all_layers",
)


def install() -> None:
    """Register what SGLang then puts in place; nothing unless the environment asks for it. Raises
    UnknownVersion; SGLang then logs that, and serves as it is."""
    if not settings.mentioned(os.environ):
        return
    settings.KNOWN.require(metadata.version("sglang"))
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    from kvgen.integrations.sglang import backends, drafts

    HookRegistry.register(RESOLVED, look, HookType.BEFORE)
    HookRegistry.register(RESOLVED, resolved, HookType.AFTER)
    HookRegistry.register(BACKEND, backends.refuse_others, HookType.BEFORE)
    HookRegistry.register(COMMITTED, drafts.committed, HookType.AROUND)
    for target in FOLDED:
        HookRegistry.register(target, drafts.fold, HookType.AROUND)
    replaced = {
        f"{LINEAR}.gdn_backend.GDNAttnBackend": backends.BufferedGatedDeltaNet,
        f"{LINEAR}.kda_backend.KDAAttnBackend": backends.BufferedKimiDeltaAttention,
    }
    for target, backend in replaced.items():
        HookRegistry.register(target, backend, HookType.REPLACE)


def look(arguments: Any) -> None:
    """Before SGLang resolves its arguments: refuse what goes against the settings, all of it at
    once, so that it does not start, and set what follows from them."""
    settings.complete(settings.agreed(os.environ, arguments), arguments)


def resolved(result: None, arguments: Any) -> None:
    """After that: trees have the rings of chains, which SGLang by itself has for chains alone."""
    if settings.trees(arguments):
        arguments.override("kvgen", enable_linear_replayssm_spec=True)
