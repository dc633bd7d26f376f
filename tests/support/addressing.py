"""What a compiled kernel's text says of addresses: strides that are multiplied in 32 bits, and what
one thread may write that another has yet to read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

# numbers of 32 bits that kernels take beside strides
COUNTS = {
    "count", "heads", "held", "layers", "page", "reserve", "ring", "rows", "size", "slot_count",
    "table", "tokens", "width",
}  # fmt: skip
# what the end of a step reads and writes in place
BOOKS = {"cursors_ptr", "skipped_ptr", "pending_ptr", "stateful_ptr"}

SCALED = ("arith.muli", "arith.shli", "arith.divsi")
# what has some of its operands' numbers
HANDED_ON = (
    "arith.addi", "arith.select", "arith.subi", "tt.broadcast", "tt.expand_dims", "tt.reshape",
    "tt.splat", "tt.trans",
)  # fmt: skip
OPERATION = re.compile(r"\s*(?:(%\w+) = )?\"?([a-z_]\w*\.[\w.]+)\"?(.*)")
NAME = re.compile(r"%\w+")


def operations(ttir: str) -> Iterator[tuple[str, str, list[str], str]]:
    """(result, operation, operands, line) of Triton's own form, in the order of the program."""
    for line in ttir.splitlines():
        text = re.sub(r" loc\(.*", "", line)
        if found := OPERATION.match(text):
            yield found[1] or "", found[2], NAME.findall(found[3]), text.strip()


def arguments(ttir: str, kind: str) -> list[str]:
    """The kernel's arguments of a type."""
    head = ttir[ttir.index("tt.func public") :]
    return re.findall(rf"%(\w+): {kind}", head[: head.index("\n")])


def narrow(ttir: str) -> list[str]:
    """The operations on numbers of 32 bits that multiply a stride."""
    held = {f"%{name}" for name in arguments(ttir, "i32") if name not in COUNTS}
    found = []
    for result, operation, operands, line in operations(ttir):
        if held.isdisjoint(operands) or not re.search(r"\bi32$|xi32>$", line):
            continue
        if operation in SCALED:
            found.append(line)
        elif operation in HANDED_ON:
            held.add(result)
    return found


def narrow_in_ptx(ptx: str, strides: Iterable[int]) -> list[str]:
    """The same of assembly. strides: the numbers of the parameters."""
    body = ptx[ptx.index(".entry") :]
    wanted = set(strides)
    held, found = set(), []
    for line in body.splitlines():
        line = line.strip()
        if loaded := re.match(r"ld\.param\.[bu]32\s+(%r\d+), \[\w+_param_(\d+)\];", line):
            held |= {loaded[1]} if int(loaded[2]) in wanted else set()
            continue
        if not (made := re.match(r"(?:@!?%p\d+ )?([a-z][\w.]*)\s+(%r\d+), (.*);", line)):
            continue
        operation, result, operands = made[1], made[2], re.findall(r"%r\d+", made[3])
        if held.isdisjoint(operands):
            continue
        if operation == "mad.lo.s32" and held.isdisjoint(operands[:2]):
            held.add(result)
        elif operation.startswith(("mul.lo", "mad.lo", "shl")):
            found.append(line)
        elif operation.startswith(("add", "sub", "mov", "selp")):
            held.add(result)
    return found


def events(ttir: str) -> list[tuple[str, str]]:
    """Loads and stores with the argument they go through, and barriers, in the program's order."""
    pointers = {f"%{name}": name for name in arguments(ttir, "!tt.ptr")}
    found: list[tuple[str, str]] = []
    for result, operation, operands, _ in operations(ttir):
        if operation.endswith("barrier"):
            found.append(("barrier", ""))
        root = pointers.get(operands[0]) if operands else None
        if root is None:
            continue
        if operation in ("tt.load", "tt.store"):
            found.append((operation.removeprefix("tt."), root))
        elif operation in ("tt.addptr", *HANDED_ON):
            pointers[result] = root
    return found


def unmet(ttir: str, planes: tuple[str, ...] = ()) -> list[str]:
    """What is written in place where threads that hold copies may not have read it: a row's books
    without a barrier in between, or one of `planes`, a state, with something stored after it."""
    found = events(ttir)
    names = []
    for name in dict.fromkeys(name for _, name in found if name):
        loads = [at for at, event in enumerate(found) if event == ("load", name)]
        stores = [at for at, event in enumerate(found) if event == ("store", name)]
        if not loads or not stores:
            continue
        after = {each for kind, each in found[stores[0] :] if kind == "store"}
        if (name in BOOKS and ("barrier", "") not in found[loads[-1] : stores[0]]) or (
            name in planes and not after <= set(planes)
        ):
            names.append(name)
    return names
