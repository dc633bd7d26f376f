"""SGLang's backends of gated delta rules, that decode with generated modules over its pool."""

# pyright: reportMissingImports=false

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import metadata
from types import ModuleType
from typing import Any

import torch
from sglang.srt.layers.attention.linear.gdn_backend import GDNAttnBackend
from sglang.srt.layers.attention.linear.kda_backend import KDAAttnBackend
from sglang.srt.layers.attention.linear.kernels.gdn_triton import TritonGDNKernel
from sglang.srt.layers.attention.linear.kernels.kda_triton import TritonKDAKernel
from sglang.srt.layers.radix_linear_attention import RadixLinearAttention
from sglang.srt.utils.common import rank0_log

from kvgen.integrations import modules, report
from kvgen.integrations.refused import Refused
from kvgen.integrations.sglang import drafts, settings
from kvgen.integrations.sglang.inputs import GATED_DELTANET, KIMI_DELTA_ATTENTION, Recurrence
from kvgen.integrations.sglang.rings import Rings, Windows
from kvgen.language.spec import MAX_WINDOW


class Buffered:
    """A mixin in front of one of SGLang's backends. It convolves and runs prompts; what it decodes
    with is replaced, and what moves the cursors of a captured step."""

    recurrence: Recurrence
    # where there are drafts
    windows: Windows | None = None
    # by the number of rows of a captured step, which of them fold after it
    folds: Sequence[torch.Tensor] = ()

    def __init__(self, model_runner: Any) -> None:
        super().__init__(model_runner)  # pyright: ignore[reportCallIssue]
        if not model_runner.is_draft_worker:
            self.serve(model_runner)

    def serve(self: Any, runner: Any) -> None:
        """Compile the module for this pool, run it, and say so."""
        wanted = settings.asked(os.environ)
        pool = runner.req_to_token_pool.mamba_pool
        layers = {
            name: each
            for name, each in runner.model.named_modules()
            if isinstance(each, RadixLinearAttention)
            and each.layer_id in self.req_to_token_pool.mamba_map
        }
        wrong = contradictions(wanted, pool, layers)
        if wrong:
            raise Refused(wrong)
        module = compiled(self.recurrence, wanted, pool)
        if pool.enable_linear_replayssm_spec:
            self.windows = drafts.windows(module, pool, self.recurrence.drafts)
            self.verifies()
            cache = self.windows.cache
        else:
            records = self.recurrence.records(pool)
            rings = Rings(module, pool.mamba_cache.temporal, records, pool.replayssm_write_pos)
            dispatcher = self.kernel_dispatcher
            dispatcher.decode_kernel = DECODING[self.recurrence.name](rings, self.recurrence)
            dispatcher.supports_packed_decode = True
            cache = rings.cache
        done = report.Accelerated(list(layers), module, wanted.state, cache.buffer, cache.window)
        rank0_log(report.text(f"SGLang {metadata.version('sglang')}", [done], [], gpu(cache)))

    def verifies(self) -> None:
        """Where SGLang's kernel of windows is replaced, and not a method of its backend."""

    def init_cuda_graph_state(self: Any, max_bs: int, max_num_tokens: int) -> None:
        super().init_cuda_graph_state(max_bs, max_num_tokens)  # pyright: ignore
        if self._replayssm_enabled():
            size = range(1, max_bs + 1)
            self.folds = [torch.zeros(n, dtype=torch.bool, device=self.device) for n in size]
            # steps whose last rows had some that fold
            self.folding: set[int] = set()
            # SGLang would move the cursors before the step, and wait for the GPU to do so; the end
            # of the step moves them
            self.replayssm_write_pos_list = None

    def _replay_metadata(
        self: Any,
        bs: int,
        req_pool_indices: torch.Tensor,
        forward_mode: Any,
        spec_info: Any,
        seq_lens_cpu: torch.Tensor | None,
        **own: Any,
    ) -> Any:
        """What a captured step of bs rows reads. seq_lens_cpu: [B], None while it is captured."""
        found = super()._replay_metadata(  # pyright: ignore
            bs, req_pool_indices, forward_mode, spec_info, seq_lens_cpu, **own
        )
        if self.folds:
            self.fold_after(bs, seq_lens_cpu if forward_mode.is_decode_or_idle() else None)
            found.replayssm_force_flush = self.folds[bs - 1]
        return found

    def fold_after(self: Any, rows: int, lengths: torch.Tensor | None) -> None:
        """Say of a step which rows fold after it: those that the prefix cache is about to read."""
        if self.recurrence is KIMI_DELTA_ATTENTION or lengths is None:
            forced = torch.zeros(rows, dtype=torch.bool)
        else:
            forced = self._replayssm_track_flush_mask(lengths, rows)
        if forced.any():
            self.folds[rows - 1].copy_(forced, non_blocking=True)
            self.folding.add(rows)
        elif rows in self.folding:
            self.folds[rows - 1].zero_()
            self.folding.discard(rows)

    def place(self: Any, layer: Any) -> int:
        """Where a layer stands in the pool."""
        return self.req_to_token_pool.mamba_map[layer.layer_id]

    def forward_decode(self: Any, layer: Any, *args: Any, **options: Any) -> Any:
        kernel = self.kernel_dispatcher.decode_kernel
        if isinstance(kernel, Decoding):
            kernel.layer = self.place(layer)
        return super().forward_decode(layer, *args, **options)  # pyright: ignore


class BufferedGatedDeltaNet(Buffered, GDNAttnBackend):
    recurrence = GATED_DELTANET

    def _replayssm_fold_target_verify(
        self,
        *,
        layer: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        cache_indices: torch.Tensor,
        query_start_loc: torch.Tensor,
        retrieve_parent_token: torch.Tensor | None,
        **own: Any,
    ) -> torch.Tensor:
        """query, key, value: [1, B T, heads, channels]. a, b: [B T, HV] → as value."""
        if self.windows is None:
            return super()._replayssm_fold_target_verify(
                layer=layer, query=query, key=key, value=value, a=a, b=b,
                cache_indices=cache_indices, query_start_loc=query_start_loc,
                retrieve_parent_token=retrieve_parent_token, **own,
            )  # fmt: skip
        out = value.new_empty(value.shape)
        rows = query_start_loc.shape[0] - 1
        given = windows_of(rows, layer, q=query, k=key, v=value, a=a, b=b)
        self.windows.verify(
            self.place(layer),
            cache_indices,
            retrieve_parent_token,
            given,
            out.view(given["v"].shape),
        )
        return out


class BufferedKimiDeltaAttention(Buffered, KDAAttnBackend):
    recurrence = KIMI_DELTA_ATTENTION

    def verifies(self) -> None:
        assert self.windows is not None
        self.kernel_dispatcher.verify_kernel = KimiDeltaAttentionVerifying(self.windows)

    def _forward_target_verify(self, layer: Any, *args: Any) -> torch.Tensor:
        kernel = self.kernel_dispatcher.verify_kernel
        if isinstance(kernel, KimiDeltaAttentionVerifying):
            kernel.layer, kernel.place = layer, self.place(layer)
        return super()._forward_target_verify(layer, *args)


class Decoding:
    """A mixin in front of one of SGLang's kernels: one token of each row."""

    supports_packed_decode = True
    # the layer that is about to run, by its place in the pool
    layer = 0

    def __init__(self, rings: Rings, recurrence: Recurrence) -> None:
        super().__init__()
        self.rings, self.recurrence = rings, recurrence

    def packed_decode(
        self,
        mixed_qkv: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        *,
        A_log: torch.Tensor,
        dt_bias: torch.Tensor,
        ssm_states: torch.Tensor,
        cache_indices: torch.Tensor,
        replayssm_write_pos: torch.Tensor | None,
        replayssm_force_flush: torch.Tensor | None,
        **own: Any,
    ) -> torch.Tensor:
        """mixed_qkv: [B, H K + H K + HV V], after the convolution → [1, B, HV, V]."""
        _, heads, values, _ = ssm_states.shape
        out = mixed_qkv.new_empty(1, mixed_qkv.shape[0], heads, values)
        given = self.recurrence.given(mixed_qkv, a, b, A_log, dt_bias, ssm_states)
        self.rings.decode(
            self.layer, cache_indices, replayssm_write_pos, replayssm_force_flush, given, out[0]
        )
        return out


class GatedDeltaNetDecoding(Decoding, TritonGDNKernel):
    pass


class KimiDeltaAttentionDecoding(Decoding, TritonKDAKernel):
    pass


class KimiDeltaAttentionVerifying(TritonKDAKernel):
    """In front of SGLang's kernel: windows of drafts."""

    # the layer that is about to run, and its place in the pool
    layer: Any = None
    place = 0

    def __init__(self, windows: Windows) -> None:
        super().__init__()
        self.windows = windows

    def target_verify(
        self,
        *,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        cache_indices: torch.Tensor,
        query_start_loc: torch.Tensor,
        retrieve_parent_token: torch.Tensor | None,
        **own: Any,
    ) -> torch.Tensor:
        """q, k, v: [1, B T, heads, channels]. a: HV K values a token, b: HV → as v."""
        out = v.new_empty(v.shape)
        rows = query_start_loc.shape[0] - 1
        given = windows_of(rows, self.layer, q=q, k=k, v=v, b=b)
        heads, keys = self.layer.num_v_heads, self.layer.head_k_dim
        given["f"] = a.reshape(rows, -1, heads, keys)
        given["A_log"] = given["A_log"].reshape(-1)
        given["dt_bias"] = given["dt_bias"].reshape(heads, keys)
        self.windows.verify(
            self.place, cache_indices, retrieve_parent_token, given, out.view(given["v"].shape)
        )
        return out


DECODING = {
    GATED_DELTANET.name: GatedDeltaNetDecoding,
    KIMI_DELTA_ATTENTION.name: KimiDeltaAttentionDecoding,
}


def compiled(recurrence: Recurrence, wanted: settings.Settings, pool: Any) -> ModuleType:
    """The module for a pool's heads, which are those of a rank."""
    held = pool.mamba_cache
    drafting = pool.enable_linear_replayssm_spec
    _, _, heads, values, keys = held.temporal.shape
    shared = (held.replayssm_rawk if drafting else held.replayssm_k).shape[2]
    sizes = {"H": shared, "HV": heads, "K": keys, "V": values}
    records = wanted.drafts if drafting else wanted.records
    more = {"storage.layout": "vk", "storage.records": records}
    features = ["decode", "verify"] if drafting else ["decode"]
    rounds = held.conv[0].dtype == torch.bfloat16 and not drafting
    path = recurrence.rounding if rounds else None
    return modules.serving(recurrence.name, sizes, wanted.state, features, path, **more)


def contradictions(
    wanted: settings.Settings,
    pool: Any,
    layers: Mapping[str, Any],
) -> list[str]:
    """What of a pool and of a model's layers, by name, goes against the settings."""
    found = []
    if pool.enable_linear_replayssm_spec:
        most = pool.mamba_cache.replayssm_rawv.shape[3]
        if most > MAX_WINDOW:
            found.append(f"rings of {most} places for drafts, expected at most {MAX_WINDOW}")
    elif not pool.enable_linear_replayssm:
        found.append("the pool has no rings, expected --enable-linear-replayssm")
    dtype = str(pool.mamba_cache.temporal.dtype).removeprefix("torch.")
    if dtype != wanted.state:
        found.append(f"the pool's states are {dtype}, expected {wanted.state} (--mamba-ssm-dtype)")
    for name, layer in layers.items():
        if layer.lower_bound is not None:
            found.append(f"{name}: its gate has a lower bound, expected none")
    return found


def refuse_others(backend: Any, *args: Any) -> None:
    """Before a backend of states is made. SGLang's arguments have been set for rings, which others
    than ours have no use for."""
    if not isinstance(backend, Buffered):
        raise Refused(
            [
                f"{type(backend).__name__}: kvgen has nothing for it, expected layers of Gated "
                f"DeltaNet or Kimi delta attention, or no {settings.KEY}"
            ]
        )


def windows_of(rows: int, layer: Any, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    """Inputs of tokens one behind the other as windows, [B, T, …], and a layer's parameters."""
    inner = {
        "q": (layer.num_q_heads, layer.head_q_dim),
        "k": (layer.num_k_heads, layer.head_k_dim),
        "v": (layer.num_v_heads, layer.head_v_dim),
    }
    gates = (layer.num_v_heads,)
    return {
        **{name: x.reshape(rows, -1, *inner.get(name, gates)) for name, x in inputs.items()},
        "A_log": layer.A_log,
        "dt_bias": layer.dt_bias,
    }


def gpu(cache: Any) -> str:
    return torch.cuda.get_device_name(cache.device) if cache.device.type == "cuda" else "cpu"
