"""A server's memory: tensors that lie in each other's gaps are adopted, elements that share an
address are refused, and so are tables that would give a page to two rows."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from twins import made

from kvgen.checking.samples import Sampler
from kvgen.runtime.memory import Span, check_apart, overlap, overlaps_itself
from tests.runtime.test_arguments import refused

SLOTS, LAYERS = 5, 3


def module(*name: str) -> Any:
    return made(*(name or ("gated_deltanet",))).module


def tensors(*name: str, **options: Any) -> dict[str, torch.Tensor]:
    options = {"buffer": 4, "dtype": torch.float32, **options}
    return dict(module(*name).Cache.empty(SLOTS, LAYERS, device="cpu", **options).tensors)


def pages(given: dict[str, torch.Tensor], names: list[str], gap: int = 0) -> dict[str, Any]:
    """Views of one storage: a page for each slot, with a part for each layer's tensor."""
    sizes = {name: given[name][0, 0].numel() * given[name].element_size() for name in names}
    layer = sum(sizes.values()) + gap
    page = LAYERS * layer + gap
    storage = torch.zeros(SLOTS * page, dtype=torch.uint8)
    found, at = dict(given), 0
    for name in names:
        like = given[name]
        inner = torch.empty(like.shape[2:], device="meta").stride()
        unit = like.element_size()
        # in a width of 4 bytes a page is as long in any of the dtypes
        whole = storage.view(like.dtype)
        strides = (page // unit, layer // unit, *inner)
        found[name] = whole.as_strided(like.shape, strides, at // unit)
        at += sizes[name]
    return found


NAMES = ["S", "log_decay", "k", "d"]


@pytest.mark.parametrize("gap", [0, 64])
def test_pages_of_a_server(gap: int) -> None:
    given = pages(tensors(), NAMES, gap)
    cache = module().Cache.wrap(given)
    assert cache.tensors["S"].data_ptr() == given["S"].data_ptr()


class Named(Mapping[str, Any]):
    """A mapping that is no dict, as a server may keep its tensors in."""

    def __init__(self, held: Mapping[str, Any]) -> None:
        self.held = held

    def __getitem__(self, name: str) -> Any:
        return self.held[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)


@pytest.mark.parametrize(
    ("name", "short_context"), [("mlstm", 0), ("mlstm", 16), ("gated_deltanet_conv", 0)]
)
def test_any_mapping_is_taken(name: str, short_context: int) -> None:
    plain = tensors(name, short_context=short_context)
    cache = module(name).Cache.wrap(Named(plain), short_context=short_context, buffer=4)
    if short_context:
        cache.reserve([1, 3], 2 * short_context)
    slots, others = torch.tensor([1]), torch.tensor([3])
    drawn = {key: torch.randn_like(x) for key, x in cache.read(1, slots).items()}
    cache.load(1, slots, Named(drawn))
    cache.restore(others, Named(cache.save(slots)))
    assert all(drawn[key].equal(x) for key, x in cache.read(1, others).items())
    sampler = Sampler(made(name).analysis.spec, "cpu", 1)
    given = {**sampler.inputs(1, torch.float32), **sampler.params()}
    for got, expected in zip(
        module(name).reference(Named(drawn), **given),
        module(name).reference(drawn, **given),
        strict=True,
    ):
        torch.testing.assert_close(got, expected)


def test_pages_of_two_dtypes() -> None:
    name = ("gated_deltanet", "state=split", "records=input")
    given = tensors(*name, dtype=torch.bfloat16)
    shared = [each for each, x in given.items() if x.dim() > 2]
    module(*name).Cache.wrap(pages(given, shared))


def test_layers_before_slots() -> None:
    given = tensors()
    turned = {
        name: x.transpose(0, 1).contiguous().transpose(0, 1) if x.dim() > 2 else x
        for name, x in given.items()
    }
    module().Cache.wrap(turned)


def test_other_memory_than_slots_need() -> None:
    """Slices of larger tensors, and axes of length 1, whose strides mean nothing."""
    given = tensors()
    large = torch.zeros(2 * SLOTS, 2 * LAYERS, *given["S"].shape[2:])
    module().Cache.wrap({**given, "S": large[1::2, ::2]})
    alone = module().Cache.empty(1, 1, device="cpu", buffer=4, dtype=torch.float32).tensors
    strange = {
        name: x.as_strided(x.shape, (0, 0, *x.stride()[2:])) if x.dim() > 2 else x
        for name, x in alone.items()
    }
    module().Cache.wrap(strange)


@pytest.mark.parametrize("axis", [0, 1])
def test_elements_of_one_tensor(axis: int) -> None:
    given = tensors()
    for name in NAMES:
        like = given[name]
        one = torch.zeros([1 if at == axis else n for at, n in enumerate(like.shape)])
        wrong = {**given, name: one.expand(like.shape)}
        refused(lambda wrong=wrong: module().Cache.wrap(wrong), f"{name}: strides (", "no address")


def test_slots_that_overlap_in_part() -> None:
    given = tensors()
    for short in (1, 8):
        size = given["S"][0].numel()
        storage = torch.zeros(SLOTS * size)
        strides = (size - short, *given["S"].stride()[1:])
        wrong = {**given, "S": storage.as_strided(given["S"].shape, strides)}
        refused(lambda wrong=wrong: module().Cache.wrap(wrong), "S: strides (", "no address")


def test_a_storage_given_twice() -> None:
    given = tensors()
    for name, other in (("pending", "cursors"), ("cursors", "pending")):
        wrong = {**given, name: given[other]}
        said = ("pending: shares memory with cursors", "no address")
        refused(lambda wrong=wrong: module().Cache.wrap(wrong), *said)
    # one element of the last slot's last layer
    size = given["d"].numel()
    storage = torch.zeros(given["k"].numel() + size)
    wrong = {
        **given,
        "k": storage[: given["k"].numel()].view(given["k"].shape),
        "d": storage[given["k"].numel() - 1 :][:size].view(given["d"].shape),
    }
    refused(lambda: module().Cache.wrap(wrong), "d: shares memory with k")
    # the same memory as another storage
    again = torch.from_numpy(given["k"].numpy())
    wrong = {**given, "k": given["d"].reshape(-1)[: again.numel()].view(again.shape)}
    refused(lambda: module().Cache.wrap(wrong), "d: shares memory with k")


@pytest.mark.parametrize("shift", [-1, 1])
@pytest.mark.parametrize("name", ["log_decay", "k"])
def test_a_page_s_parts_overlap(name: str, shift: int) -> None:
    given = pages(tensors(), NAMES)
    x = given[name]
    given[name] = x.as_strided(x.shape, x.stride(), x.storage_offset() + shift)
    refused(lambda: module().Cache.wrap(given), "", ": shares memory with ")


def test_pages_of_other_sizes() -> None:
    """Slots of one tensor in the gaps of another, with other strides."""
    given = tensors()
    size, step = given["k"][0].numel(), given["d"][0].numel() + given["k"][0].numel()
    storage = torch.zeros(4 * SLOTS * step)
    own = given["d"].stride()[1:]
    wide = {"d": storage.as_strided(given["d"].shape, (2 * step, *own), size)}
    near = storage.as_strided(given["k"].shape, (4 * step, *given["k"].stride()[1:]))
    module().Cache.wrap({**given, **wide, "k": near})
    off = storage.as_strided(given["k"].shape, (4 * step, *given["k"].stride()[1:]), 1)
    wrong = {**given, **wide, "k": off}
    refused(lambda: module().Cache.wrap(wrong), "d: shares memory with k")


def test_random_views() -> None:
    """Against all addresses of two tensors, block by block."""
    draw = random.Random(0)
    seen = {True: 0, False: 0}
    for _ in range(3000):
        spans = []
        for _ in range(2):
            dims = [
                (draw.randint(2, 5), draw.choice([1, 2, 3, 4, 6, 7, 8, 12, 16, 24, 30]))
                for _ in range(draw.randint(0, 2))
            ]
            spans.append(
                Span(draw.randint(0, 40), draw.randint(1, 5), sorted(dims, key=lambda d: -d[1]))
            )
        blocks = []
        for first, size, dims in spans:
            starts = [first]
            for count, step in dims:
                starts = [start + n * step for start in starts for n in range(count)]
            blocks.append([start + byte for start in starts for byte in range(size)])
        for span, each in zip(spans, blocks, strict=True):
            assert overlaps_itself(span) == (len(set(each)) < len(each)), span
        common = bool(set(blocks[0]) & set(blocks[1]))
        assert overlap(*spans) == common == overlap(*spans[::-1]), spans
        seen[common] += 1
    assert min(seen.values()) > 100


def test_large_caches_take_no_time_to_look_at() -> None:
    """A hundred thousand pages of 48 layers are compared by where they lie in a page."""
    step = 48 * 4096
    spans = [Span(name * 512, 512, [(100_000, step), (48, 4096)]) for name in range(8)]
    assert not any(overlaps_itself(span) for span in spans)
    assert not any(overlap(one, two) for one in spans for two in spans if one is not two)
    assert overlap(spans[0], Span(4095, 512, spans[0].steps))


# tables ------------------------------------------------------------------------------------------


def paged() -> dict[str, torch.Tensor]:
    cache = module().Cache.empty(
        SLOTS, LAYERS, device="cpu", buffer=4, dtype=torch.float32, short_context=64
    )
    cache.reserve([1], 64)
    cache.reserve([3], 40)
    return dict(cache.tensors)


def wrapped(given: dict[str, torch.Tensor]) -> Any:
    return module().Cache.wrap(given, short_context=64, buffer=4)


def test_a_table_with_a_hole() -> None:
    given = paged()
    held = given["pages"][1].tolist()
    given["pages"][1, 1] = -1
    holed = [held[0], -1, *held[2:]]
    refused(lambda: wrapped(given), f"pages: {holed} for slot 1", "its pages first, then -1")
    given["pages"][1, 1] = held[1]
    assert wrapped(given).free["pages"] == SLOTS * 4 - 7
    given["pages"][1] = torch.tensor([-1, -1, -1, held[0]], dtype=torch.int32)
    refused(lambda: wrapped(given), f"pages: {[-1, -1, -1, held[0]]} for slot 1")


@pytest.mark.parametrize("other", [1, 3])
def test_a_page_that_stands_twice(other: int) -> None:
    given = paged()
    given["pages"][other, 0] = given["pages"][1, 2]
    refused(lambda: wrapped(given), "pages: [", "expected distinct numbers below 20")
    given = paged()
    given["state_pages"][4] = given["state_pages"][1]
    refused(lambda: wrapped(given), "state_pages: [", "distinct")


@pytest.mark.parametrize(("name", "most"), [("pages", 20), ("state_pages", SLOTS)])
def test_a_page_that_is_not_there(name: str, most: int) -> None:
    given = paged()
    given[name].view(SLOTS, -1)[3, 0] = most
    refused(lambda: wrapped(given), f"{name}: [", f"distinct numbers below {most}")


def test_paged_tensors_share_nothing() -> None:
    given = paged()
    given["stateful"] = given["cursors"]
    refused(lambda: wrapped(given), "stateful: shares memory with cursors")


def test_a_layer_of_numbers_lies_in_the_gaps_of_another() -> None:
    pages = torch.zeros(4, 10)
    check_apart({"a": pages[:, :6], "b": pages[:, 6:]})
    with pytest.raises(ValueError, match="b: shares memory with a"):
        check_apart({"a": pages[:, :6], "b": pages[:, 5:]})
    with pytest.raises(ValueError, match="a: strides"):
        check_apart({"a": pages.as_strided((4, 6), (5, 1))})
