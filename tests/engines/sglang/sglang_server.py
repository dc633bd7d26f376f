"""As much of SGLang as decodes: its own arguments, pool, layers, metadata and backends, without a
model around them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from sglang.srt.configs.mamba_utils import (
    KimiLinearCacheParams,
    KimiLinearStateShape,
    Mamba2CacheParams,
    Mamba2StateDType,
    Mamba2StateShape,
)
from sglang.srt.layers.radix_linear_attention import RadixLinearAttention
from sglang.srt.mem_cache.memory_pool import HybridReqToTokenPool
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang.srt.runtime_context import get_context
from sglang.srt.server_args import ServerArgs
from torch.overrides import TorchFunctionMode

# linear attention's layers, among others
LAYER_IDS = (0, 2)
TRACKED = 7
PAST = 3


def arguments(**given: Any) -> ServerArgs:
    """SGLang's arguments before they are resolved."""
    made = object.__new__(ServerArgs)
    for field in dataclasses.fields(ServerArgs):
        if field.default is not dataclasses.MISSING:
            setattr(made, field.name, field.default)
        elif field.default_factory is not dataclasses.MISSING:
            setattr(made, field.name, field.default_factory())
        else:
            setattr(made, field.name, "none")
    for name, value in given.items():
        setattr(made, name, value)
    return made


class OnCpu(TorchFunctionMode):
    """Where SGLang allocates on a GPU whatever it is told."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), options: Any = None
    ) -> Any:
        options = dict(options or {})
        if options.get("device") == "cuda":
            options["device"] = "cpu"
        return function(*args, **options)


class Server:
    """A pool, layers with drawn parameters, and what a backend needs of a model's runner.

    kimi: whether layers are Kimi delta attention. places: of a ring. drafts: tokens of a window,
    where there are drafts. branches: of a tree of drafts. inputs: the dtype of activations.
    """

    def __init__(
        self,
        kimi: bool = False,
        state: str = "float32",
        places: int = 3,
        slots: int = 6,
        drafts: int | None = None,
        branches: int = 1,
        inputs: str = "float32",
    ) -> None:
        self.kimi, self.places, self.drafts = kimi, places, drafts
        self.heads, self.wide, self.channels = (2, 2, 32) if kimi else (1, 2, 32)
        self.inputs = getattr(torch, inputs)
        draw = torch.Generator().manual_seed(1)
        get_context().set_server_args(arguments(mamba_track_interval=TRACKED))
        dtype = Mamba2StateDType(conv=self.inputs, temporal=getattr(torch, state))
        with OnCpu():
            self.pool = HybridReqToTokenPool(
                size=slots,
                mamba_size=slots,
                mamba_spec_state_size=slots,
                max_context_len=8,
                device="cpu",
                enable_memory_saver=False,
                cache_params=self.parameters(dtype),
                mamba_layer_ids=list(LAYER_IDS),
                enable_mamba_extra_buffer=False,
                speculative_num_draft_tokens=drafts,
                speculative_eagle_topk=branches,
                enable_linear_replayssm=drafts is None,
                linear_replayssm_cache_len=places,
                enable_linear_replayssm_spec=drafts is not None,
            )
        self.layers = [self.layer(number, draw) for number in LAYER_IDS]
        self.runner = SimpleNamespace(
            device="cpu",
            server_args=arguments(speculative_eagle_topk=branches),
            is_draft_worker=False,
            req_to_token_pool=self.pool,
            token_to_kv_pool=None,
            model=torch.nn.ModuleDict({f"layer{each.layer_id}": each for each in self.layers}),
        )

    def parameters(self, dtype: Mamba2StateDType) -> Any:
        if self.kimi:
            shape = KimiLinearStateShape.create(
                tp_world_size=1, num_heads=self.wide, head_dim=self.channels
            )
            return KimiLinearCacheParams(dtype=dtype, layers=list(LAYER_IDS), shape=shape)
        shape = Mamba2StateShape.create(
            tp_world_size=1,
            intermediate_size=self.wide * self.channels,
            n_groups=self.heads,
            num_heads=self.wide,
            head_dim=self.channels,
            state_size=self.channels,
            conv_kernel=PAST + 1,
        )
        return Mamba2CacheParams(dtype=dtype, layers=list(LAYER_IDS), shape=shape)

    def layer(self, number: int, draw: torch.Generator) -> RadixLinearAttention:
        rates = torch.rand(self.wide, generator=draw)
        gates = self.wide * (self.channels if self.kimi else 1)
        return RadixLinearAttention(
            layer_id=number,
            num_q_heads=self.heads,
            num_k_heads=self.heads,
            num_v_heads=self.wide,
            head_q_dim=self.channels,
            head_k_dim=self.channels,
            head_v_dim=self.channels,
            conv_weights=torch.randn(self.width, PAST + 1, generator=draw).to(self.inputs) / 2,
            A_log=rates.view(1, 1, -1, 1) if self.kimi else rates,
            dt_bias=torch.randn(gates, generator=draw),
        )

    @property
    def width(self) -> int:
        return (2 * self.heads + self.wide) * self.channels

    @property
    def held(self) -> Any:
        """States, rings and convolutions of the pool."""
        return self.pool.mamba_pool.mamba_cache

    @property
    def cursors(self) -> torch.Tensor:
        return self.pool.mamba_pool.replayssm_write_pos

    # -- requests

    def admit(self, draw: torch.Generator) -> Any:
        """A request, behind a prompt that has left a state and a convolution's past."""
        request = SimpleNamespace(
            mamba_pool_idx=None, req_pool_idx=None, inflight_middle_chunks=0, kv_committed_len=0
        )
        assert self.pool.alloc([request]) is not None
        slot = int(request.mamba_pool_idx)
        states = self.held.temporal[:, slot]
        states.copy_(torch.randn(states.shape, generator=draw) / 4)
        past = self.held.conv[0][:, slot]
        past.copy_(torch.randn(past.shape, generator=draw))
        return request

    def release(self, request: Any) -> None:
        """A request that has ended, or is aborted."""
        self.pool.mamba_allocator.free(request.mamba_pool_idx.reshape(1))
        self.pool.free(request)

    def past(self, slot: int) -> torch.Tensor:
        """What the convolution remembers, [layers, tokens, channels]."""
        kept = self.held.conv[0][:, slot]
        return kept if self.kimi else kept.transpose(-1, -2)

    # -- a step

    def batch(self, requests: Sequence[Any], lengths: Sequence[int], padding: int) -> Any:
        """A batch of one token for each request, or of a window of them, and rows of padding behind
        them."""
        rows = [each.req_pool_idx for each in requests] + [0] * padding
        return SimpleNamespace(
            batch_size=len(rows),
            _original_batch_size=len(requests),
            num_padding=padding,
            req_pool_indices=torch.tensor(rows),
            seq_lens_cpu=torch.tensor([*lengths, *[1] * padding]),
            forward_mode=ForwardMode.TARGET_VERIFY if self.drafts else ForwardMode.DECODE,
            spec_info=SimpleNamespace(draft_token_num=self.drafts, ragged_verify_layout=None),
            input_ids=torch.zeros(len(rows) * (self.drafts or 1), dtype=torch.long),
            mamba_track_indices=None,
            mamba_track_mask=None,
        )

    def tokens(self, rows: int, draw: torch.Generator) -> tuple[torch.Tensor, ...]:
        """What the projections of a layer give: mixed, a, b."""

        def drawn(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=draw).to(self.inputs)

        mixed = drawn(rows, self.width)
        if self.kimi:
            return mixed, drawn(1, rows, self.wide * self.channels), drawn(1, rows, self.wide)
        both = drawn(rows, 2 * self.wide)
        return mixed, both[:, : self.wide], both[:, self.wide :]
