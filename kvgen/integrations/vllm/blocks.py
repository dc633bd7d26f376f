"""What vLLM's scheduler knows of our pages: a request has one, from its first token to its last.

It asks every group of layers, for every request and in every step, which blocks are behind a window
and how many more there have to be. A state's answer does not change while its request runs, and
where rows are many and layers few a step waits for the host.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from vllm.v1.core.single_type_kv_cache_manager import MambaManager
from vllm.v1.kv_cache_interface import MambaSpec
from vllm.v1.kv_cache_spec_registry import KVCacheSpecRegistry


class OneBlock(MambaManager):
    """vLLM's manager of states, that is done with a request which has its block."""

    def remove_skipped_blocks(self, request_id: str, *args: Any, **options: Any) -> None:
        """A state's block is never behind a window."""

    def get_num_blocks_to_allocate(self, request_id: str, *args: Any, **options: Any) -> int:
        if self.req_to_blocks.get(request_id):
            return 0
        return super().get_num_blocks_to_allocate(request_id, *args, **options)

    def allocate_new_blocks(self, request_id: str, *args: Any, **options: Any) -> list[Any]:
        if self.req_to_blocks.get(request_id):
            return []
        return super().allocate_new_blocks(request_id, *args, **options)


@dataclass(frozen=True)
class OneBlockSpec(MambaSpec):
    """A page that holds all that a layer knows of a request, however long it grows."""


def paged(spec: Any, longest: int, **changed: Any) -> Any:
    """A layer's pages, those of one for each request where vLLM has them so.

    spec: vLLM's own. longest: the most tokens of a request. changed: its fields that we have
    otherwise.
    """
    held = {field.name: getattr(spec, field.name) for field in fields(spec)} | changed
    alone = held["mamba_cache_mode"] == "none" and not held["num_speculative_blocks"]
    single = type(spec) is MambaSpec and alone and held["block_size"] >= longest
    kind = OneBlockSpec if single else type(spec)
    return kind(**held)


# vLLM's own are registered first: it does so only where nothing is yet
KVCacheSpecRegistry.check_kv_cache_spec_registry({})
KVCacheSpecRegistry.register(OneBlockSpec, OneBlock, uniform_type_base_spec=MambaSpec)
