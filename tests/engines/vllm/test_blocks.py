"""Our pages in vLLM's scheduler: the blocks that its own manager of states gives, for less."""

# pyright: reportMissingImports=false

from __future__ import annotations

import cProfile
import random
from typing import Any

import pytest

pytestmark = pytest.mark.engine

LONGEST, BLOCK, GROUPS = 64, 16, 3


def vllm_spec(block_size: int = LONGEST, **options: Any) -> Any:
    import torch
    from vllm.v1.kv_cache_interface import MambaSpec

    return MambaSpec(
        block_size=block_size,
        shapes=((4,),),
        dtypes=(torch.float32,),
        page_size_padded=64,
        **options,
    )


def ours() -> Any:
    from kvgen.integrations.vllm import blocks

    return blocks.paged(vllm_spec(), LONGEST)


def manager(spec: Any, blocks: int) -> Any:
    """A model's pages: three groups of states, one of attention."""
    import torch
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

    keys = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float32)
    groups = [KVCacheGroupSpec([f"state {n}"], spec) for n in range(GROUPS)]
    config = KVCacheConfig(
        num_blocks=blocks,
        kv_cache_tensors=[],
        kv_cache_groups=[*groups, KVCacheGroupSpec(["keys"], keys)],
    )
    return KVCacheManager(
        config, LONGEST, scheduler_block_size=LONGEST, hash_block_size=BLOCK, enable_caching=False
    )


def request(name: str, prompt: int) -> Any:
    from vllm import SamplingParams
    from vllm.v1.request import Request

    return Request(name, list(range(1, prompt + 1)), SamplingParams(max_tokens=LONGEST), None)


def step(manager: Any, running: list[Any], tokens: int) -> list[Any]:
    """What each request gets for its next tokens; None to those for which there is no block."""
    manager.new_step_starts()
    given = []
    for each in running:
        found = manager.allocate_slots(each, tokens)
        given.append(found and found.get_block_ids())
        if found:
            each.num_computed_tokens += tokens
    return given


@pytest.mark.parametrize("seed", range(4))
def test_requests_get_the_blocks_that_vllm_itself_would_give_them(seed: int) -> None:
    """Prompts in chunks, drafts beyond the end, requests that end, are sent back for want of blocks
    and come again."""
    draw = random.Random(seed)
    pair = [manager(spec, 24) for spec in (vllm_spec(), ours())]
    running: list[tuple[Any, Any]] = []
    refused = 0
    for turn in range(300):
        if len(running) < 6:
            prompt = draw.randrange(1, LONGEST - 8)
            running.append((request(f"{turn}", prompt), request(f"{turn}", prompt)))
        tokens = draw.choice((1, 1, 1, 4, 9))
        given = [
            step(each, [rows[side] for rows in running], tokens) for side, each in enumerate(pair)
        ]
        assert given[0] == given[1]
        for rows, got in list(zip(running, given[0], strict=True)):
            done = rows[0].num_computed_tokens + 9 > LONGEST or draw.random() < 0.05
            refused += got is None
            if done or got is None:
                running.remove(rows)
                for each, row in zip(pair, rows, strict=True):
                    each.free(row)
        held = [[each.get_block_ids(rows[n].request_id) for rows in running]
                for n, each in enumerate(pair)]  # fmt: skip
        assert held[0] == held[1]
        assert len({each.block_pool.get_num_free_blocks() for each in pair}) == 1
    assert refused
    for rows in running:
        for each, row in zip(pair, rows, strict=True):
            each.free(row)
    assert {each.block_pool.get_num_free_blocks() for each in pair} == {23}


def test_a_step_asks_less() -> None:
    counted = []
    for spec in (vllm_spec(), ours()):
        each, rows = manager(spec, 64), [request(f"{n}", 4) for n in range(8)]
        step(each, rows, 4)
        seen = cProfile.Profile()
        seen.enable()
        step(each, rows, 1)
        seen.disable()
        counted.append(sum(entry.callcount for entry in seen.getstats()) / len(rows))
    assert counted[1] < 0.6 * counted[0]


def test_pages_of_more_than_one_block_stay_vllms() -> None:
    from vllm.v1.kv_cache_interface import MambaSpec
    from vllm.v1.kv_cache_spec_registry import KVCacheSpecRegistry

    from kvgen.integrations.vllm import blocks

    known = KVCacheSpecRegistry.get_manager_class
    one, several = ours(), blocks.paged(vllm_spec(BLOCK), LONGEST)
    drafts = blocks.paged(vllm_spec(num_speculative_blocks=3), LONGEST)
    assert known(one) is blocks.OneBlock
    shared = blocks.paged(vllm_spec(mamba_cache_mode="align"), LONGEST)
    assert {type(several), type(drafts), type(shared)} == {MambaSpec}
    assert known(several) is known(vllm_spec()) is not blocks.OneBlock
    # a group of layers is one by what is in their pages, as before
    assert one.is_uniform_with_collection({"a": one, "b": one})
    assert (
        blocks.paged(vllm_spec(num_speculative_blocks=3), LONGEST, num_speculative_blocks=0) == one
    )
