"""Decodes, and chains of drafts, that begin before the kernel in front of them has ended.

On the assembly: nothing is stored and no program ends before it has waited, and until then only
`slots` and the cache's own tensors are read. On the host: only a decode right behind another one of
its step is launched so, and a fold behind the kernel that lists its rows. tests/test_gpu_overlap.py
has what only a GPU shows.
"""

from __future__ import annotations

import functools
import re
import weakref
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from twins import made

from kvgen import compiler
from kvgen.probing.probe import assembly
from kvgen.shipped import resolve

CASES = (
    ("gated_deltanet", "bfloat16"),
    pytest.param("gated_deltanet", "float32", marks=pytest.mark.slow),
    ("kimi_delta_attention", "split"),
    pytest.param("kimi_delta_attention_bounded", "bfloat16", marks=pytest.mark.slow),
    ("mlstm", "float32"),
)
WAIT, LET_GO = "griddepcontrol.wait", "griddepcontrol.launch_dependents"

# assembly ----------------------------------------------------------------------------------------


@functools.cache
def text_of(name: str, state: str) -> str:
    overrides = {"storage.state": state, "storage.records": "input"}
    return compiler.emit(compiler.analyse(resolve(name), overrides))


@functools.cache
def programs(name: str, state: str, kernel: str) -> dict[str, str]:
    """The PTX of the programs that may begin early, by configuration."""
    found = assembly(text_of(name, state), "sm_90", kernel)
    return {config: ptx for config, ptx in found.items() if "PDL=True" in config}


class Ptx:
    """One kernel's instructions, by blocks, with the blocks that follow each."""

    def __init__(self, text: str) -> None:
        body = text[text.index(".entry") :]
        self.parameters = re.findall(r"\.param \.(?:b64|u64) \.ptr[^\n]*?(\w+_param_\d+)", body)
        self.blocks: dict[str, list[str]] = {"entry": []}
        self.after: dict[str, list[str]] = {"entry": []}
        name, open_ = "entry", True

        def begin(label: str) -> str:
            if open_:
                self.after[name].append(label)
            self.blocks[label], self.after[label] = [], []
            return label

        for line in body.splitlines():
            line = re.sub(r"//.*", "", line).strip()
            if label := re.match(r"(\$L__BB\w+):", line):
                name, open_ = begin(label[1]), True
            elif line and not line.startswith((".", "$", "{", "}", ")")):
                self.blocks[name].append(line)
                if re.search(r"\bbra\b|\bret;", line):
                    self.after[name] += re.findall(r"\$L__BB\w+", line)
                    open_ = line.startswith("@")
                    name, open_ = begin(f"behind {name}"), True

    def before_waiting(self) -> Iterator[str]:
        """Every instruction that a program can come to before it has waited."""
        seen, open_ = set(), ["entry"]
        while open_:
            name = open_.pop()
            if name in seen:
                continue
            seen.add(name)
            for line in self.blocks[name]:
                if WAIT in line:
                    break
                yield line
            else:
                open_ += self.after[name]

    def origins(self) -> dict[str, set[str]]:
        """The pointer parameters that every register is computed from, but for what is loaded."""
        found: dict[str, set[str]] = {}
        moving = True
        while moving:
            moving = False
            for lines in self.blocks.values():
                for line in lines:
                    parts = re.match(r"(?:@!?%p\d+ )?([\w.:]+)\s+(%\w+),(.*);", line)
                    if not parts or parts[1].startswith(("ld.global", "st.", "atom")):
                        continue
                    sources = {p for p in self.parameters if re.search(rf"\b{p}\b", parts[3])}
                    for register in re.findall(r"%\w+", parts[3]):
                        sources |= found.get(register, set())
                    known = found.setdefault(parts[2], set())
                    if not sources <= known:
                        known |= sources
                        moving = True
        return found


def early_reads(ptx: Ptx) -> set[int]:
    """The parameters, by number, that are read before the wait."""
    origins = ptx.origins()
    read: set[int] = set()
    for line in ptx.before_waiting():
        if "ld.global" in line or "cp.async" in line:
            for register in re.findall(r"\[\s*(%\w+)", line):
                read |= {int(p.rsplit("_", 1)[1]) for p in origins.get(register, ())}
    return read


def wrongs(text: str, owned: set[int]) -> list[str]:
    """What a decode does before it has waited that it must not."""
    ptx = Ptx(text)
    found = [
        line
        for line in ptx.before_waiting()
        if re.search(r"\bst\.global|\bred\.|\batom|\bret;|" + LET_GO, line)
    ]
    return found + [f"reads parameter {number}" for number in early_reads(ptx) - owned]


def owned_by_cache(name: str, state: str, kernel: str) -> set[int]:
    """The numbers of the parameters that may be read early: `slots` and the cache's tensors."""
    text = text_of(name, state)
    head = text[text.index(f"def _{kernel}_kernel(") :]
    names = re.findall(r"\w+(?=,)", head[: head.index("):")])
    books = ("slots_ptr", "cursors_ptr", "skipped_ptr", "order_ptr")
    return {i for i, each in enumerate(names) if each in books or each.endswith("_cache_ptr")}


@pytest.mark.parametrize("kernel", ["decode", "chain"])
@pytest.mark.parametrize(("name", "state"), CASES)
def test_nothing_is_stored_and_no_input_read_before_the_wait(
    name: str, state: str, kernel: str
) -> None:
    found, owned = programs(name, state, kernel), owned_by_cache(name, state, kernel)
    assert found
    for config, text in found.items():
        assert text.count(WAIT) == 2, config
        assert early_reads(Ptx(text)) >= {1, 2, 3}, config
        assert wrongs(text, owned) == [], config


def test_a_layer_s_decode_and_the_end_of_its_output_wait() -> None:
    case = "qwen3_next_layer", "bfloat16"
    decodes, ends = programs(*case, "decode"), programs(*case, "finish")
    owned = owned_by_cache(*case, "decode")
    # slots, cursors, skipped, order, then of the cache a state, three records and three rings
    assert decodes and ends and {1, 2, 3, 4} < owned and len(owned) == 4 + 7
    for text in decodes.values():
        assert text.count(WAIT) == 2 and wrongs(text, owned) == []
        assert 4 in early_reads(Ptx(text))
    for text in ends.values():
        early = Ptx(text).before_waiting()
        assert text.count(WAIT) == 1
        assert not [line for line in early if re.search(r"\.global|\bret;", line)]


@pytest.mark.parametrize(("name", "state"), CASES)
def test_a_fold_takes_its_place_early_and_reads_nothing_before_the_wait(
    name: str, state: str
) -> None:
    folds = programs(name, state, "fold")
    assert folds
    for text in folds.values():
        early = list(Ptx(text).before_waiting())
        assert text.count(WAIT) == 1 and len(early) < len(text.splitlines()) / 2
        assert not [line for line in early if re.search(r"\.global|cp\.async|\bret;", line)]


def test_what_lists_rows_lets_the_fold_come() -> None:
    # the same kernel for all recurrences
    advances = programs("gated_deltanet", "bfloat16", "advance")
    assert advances
    # nobody writes anything between the two, so that it need not wait to let the fold come
    assert all(text.count(LET_GO) == 1 and WAIT not in text for text in advances.values())


def test_the_assembly_is_looked_at_closely() -> None:
    """A wait that is gone or too late, and one that lets the next kernel go too soon, are seen."""
    name, state = "gated_deltanet", "bfloat16"
    owned = owned_by_cache(name, state, "decode")
    text = next(iter(programs(name, state, "decode").values()))
    first, last = text.index(WAIT), text.rindex(WAIT)
    for place in (first, last):
        without = text[:place] + "mov.u32 %r1, %r1; //" + text[place:]
        assert any("st.global" in each or "ret" in each for each in wrongs(without, owned))
    assert wrongs(text, owned - {4}) == []
    assert wrongs(text, owned - {1}) == ["reads parameter 1"]
    swapped = text.replace(LET_GO, "?").replace(WAIT, LET_GO).replace("?", WAIT)
    assert any(LET_GO in each for each in wrongs(swapped, owned))


# host --------------------------------------------------------------------------------------------


class Stream:
    cuda_stream = 1


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each decode that a module on a GPU would launch begins early."""
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: Stream)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return []


def prepared(launched: list[bool], window: int = 2) -> tuple[ModuleType, Any, Callable[..., None]]:
    module = compiler.imported(
        compiler.temporary_module("overlap", text_of("gated_deltanet", "split"))
    )
    module.overlapping = lambda table, device: True
    # nothing is executed
    module.check_memory = lambda cache: None

    class Recorded:
        def __getitem__(self, grid: object) -> Callable[..., None]:
            return lambda *args, **options: launched.append(options.get("launch_pdl", False))

    class Silent:
        def __getitem__(self, grid: object) -> Callable[..., None]:
            return lambda *args, **options: None

    for name in vars(module).copy():
        if name.endswith("_kernel"):
            setattr(module, name, Recorded() if name == "_decode_kernel" else Silent())
    cache = module.Cache.empty(4, 2, device="meta", window=window)
    shapes = {"q": (3, 16, 128), "k": (3, 16, 128), "v": (3, 32, 128), "a": (3, 32), "b": (3, 32)}
    given = {name: torch.empty(s, dtype=cache.dtype, device="meta") for name, s in shapes.items()}
    given |= {name: torch.empty(32, device="meta") for name in ("A_log", "dt_bias")}

    def decode(layer: int, slots: torch.Tensor) -> None:
        module.decode(cache, layer, slots, **given)

    return module, cache, decode


def rows(address: int = 64) -> torch.Tensor:
    found = torch.empty(3, dtype=torch.int32, device="meta")
    # which has none
    found.data_ptr = lambda: address
    return found


def test_the_first_decode_of_a_step_waits(launched: list[bool]) -> None:
    module, cache, decode = prepared(launched)
    slots = rows()
    for _ in range(2):
        decode(0, slots)
        decode(1, slots)
        module.advance(cache, slots)
    assert launched == [False, True, False, True]


def test_a_fold_is_launched_behind_what_lists_its_rows() -> None:
    module, cache, _ = prepared([])
    asked: list[tuple[str, bool, bool]] = []

    class Heard:
        def __init__(self, name: str) -> None:
            self.name = name

        def __getitem__(self, grid: object) -> Callable[..., None]:
            return lambda *args, **options: asked.append(
                (self.name, options["PDL"], options.get("launch_pdl", False))
            )

    module._advance_kernel, module._fold_kernel = Heard("advance"), Heard("fold")
    for overlaps in (True, False):
        cache.overlaps = overlaps
        module.advance(cache, rows())
    assert asked == [
        ("advance", True, False), ("fold", True, True),
        ("advance", False, False), ("fold", False, False),
    ]  # fmt: skip


BETWEEN: dict[str, Callable[[ModuleType, Any, torch.Tensor], object]] = {
    "advance": lambda module, cache, slots: module.advance(cache, slots),
    "accept": lambda module, cache, slots: module.accept(cache, slots, counts=rows()),
    "flush": lambda module, cache, slots: module.flush(cache),
    "reset": lambda module, cache, slots: cache.reset(slots),
    "read": lambda module, cache, slots: cache.read(0, slots),
    "load": lambda module, cache, slots: cache.load(
        0, slots, torch.empty(3, 32, 128, 128, device="meta")
    ),
    "copy": lambda module, cache, slots: cache.copy(slots, rows()),
    "cursors": lambda module, cache, slots: cache.cursors.zero_(),
    "state": lambda module, cache, slots: cache.tensors["S_hi"].zero_(),
    "slots": lambda module, cache, slots: slots.zero_(),
}


@pytest.mark.parametrize("what", BETWEEN)
def test_a_decode_behind_anything_else_waits(launched: list[bool], what: str) -> None:
    module, cache, decode = prepared(launched)
    slots = rows()
    decode(0, slots)
    BETWEEN[what](module, cache, slots)
    decode(1, slots)
    decode(0, slots)
    assert launched == [False, False, True]


def test_a_layers_second_decode_begins_a_step(launched: list[bool]) -> None:
    """One that was dropped has no end, and a graph's replay leaves no trace on the host."""
    _, _, decode = prepared(launched)
    slots = rows()
    for _ in range(2):
        decode(0, slots)
        decode(1, slots)
    decode(1, slots)
    assert launched == [False, True, False, True, False]


def test_rows_are_held_so_that_no_others_take_their_place(launched: list[bool]) -> None:
    _, _, decode = prepared(launched)
    slots = rows()
    decode(0, slots)
    gone = weakref.ref(slots)
    del slots
    assert gone() is not None


def test_a_launch_that_failed_has_none_behind_it(launched: list[bool]) -> None:
    module, _, decode = prepared(launched)
    slots = rows()
    kernel = module._decode_kernel

    class Failing:
        def __getitem__(self, grid: object) -> Callable[..., None]:
            raise RuntimeError("out of resources")

    module._decode_kernel = Failing()
    with pytest.raises(RuntimeError):
        decode(0, slots)
    module._decode_kernel = kernel
    decode(1, slots)
    assert launched == [False]


def test_other_rows_and_other_streams_wait(
    launched: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, decode = prepared(launched)
    slots = rows()
    decode(0, slots)
    decode(1, rows(128))
    decode(0, slots)
    monkeypatch.setattr(Stream, "cuda_stream", 2)
    decode(1, slots)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    decode(0, slots)
    decode(1, slots)
    assert launched == [False, False, False, False, False, True]


def test_in_inference_mode_own_calls_say_where_a_step_ends(launched: list[bool]) -> None:
    with torch.inference_mode():
        module, cache, decode = prepared(launched)
        slots = rows()
        decode(0, slots)
        decode(1, slots)
        # the first call after any other is a full barrier
        module.advance(cache, slots)
        decode(0, slots)
        decode(1, slots)
        decode(1, slots)
    assert launched == [False, True, False, True, False]


def test_what_is_done_to_one_of_several_layers_ends_a_step() -> None:
    module = made("gated_deltanet").module
    whole = module.Cache.empty(3, 2, device="cpu", dtype=torch.float32)
    names = [held.name for held in module.Cache.table.held]
    cache = module.Cache.wrap({name: list(whole.tensors[name].unbind(1)) for name in names})
    slots = torch.tensor([1])
    for done in (
        lambda: cache.load(1, slots, cache.read(1, slots)),
        lambda: cache.read(0, slots),
        lambda: cache.reset(slots),
        lambda: cache.copy(slots, torch.tensor([2])),
        lambda: cache.restore(slots, cache.save(slots)),
        lambda: module.flush(cache, slots),
    ):
        cache.step = ((), 1, slots)
        done()
        assert cache.step is None
