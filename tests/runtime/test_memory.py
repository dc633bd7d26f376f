"""Whether tensors in a server's memory lie apart."""

from __future__ import annotations

import itertools

import pytest
import torch

from kvgen.runtime.memory import check_apart


def paged(blocks: int, layers: int, page: int, pieces: dict[str, tuple[int, int]], far: bool):
    """Tensors [blocks, layers, size] of pages. pieces: (offset, size) of each in a page. far: a
    layer has its blocks side by side, behind those of the layer before."""
    memory = torch.empty(blocks * layers * page, dtype=torch.uint8)
    steps = (page, blocks * page) if far else (layers * page, page)
    return {
        name: memory.as_strided((blocks, layers, size), (*steps, 1), offset)
        for name, (offset, size) in pieces.items()
    }


@pytest.mark.parametrize("far", [False, True])
def test_a_hundred_thousand_pages_are_looked_at_once_each(far):
    pieces = {"state": (0, 64), "k": (64, 16), "d": (96, 32)}
    check_apart(paged(100_000, 3, 128, pieces, far))
    with pytest.raises(ValueError, match="d: shares memory with k"):
        check_apart(paged(100_000, 3, 128, pieces | {"d": (79, 32)}, far))


@pytest.mark.parametrize("far", [False, True])
def test_tensors_lie_apart_exactly_where_no_byte_is_shared(far):
    for first, size, second, other in itertools.product((0, 3), (1, 4, 9), (0, 4, 7), (1, 5)):
        pieces = {"a": (first, size), "b": (second, other)}
        found = paged(5, 3, 16, pieces, far)
        marks = torch.zeros(5 * 3 * 16 + 16, dtype=torch.int64)
        for each in found.values():
            marks.as_strided(each.shape, each.stride(), each.storage_offset()).add_(1)
        if bool((marks > 1).any()):
            with pytest.raises(ValueError, match="share"):
                check_apart(found)
        else:
            check_apart(found)


def test_what_overlaps_itself_is_refused():
    memory = torch.empty(1000, dtype=torch.uint8)
    with pytest.raises(ValueError, match="share no address"):
        check_apart({"a": memory.as_strided((10, 3, 8), (8, 4, 1))})
