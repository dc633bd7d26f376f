"""What a window of tokens is made of: its loads and stores, its columns, and texts of loops."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from kvgen.algebra.graph import Node, leaf_of
from kvgen.codegen.addresses import past_address
from kvgen.codegen.loads import TokenLoads
from kvgen.codegen.printer import ATOM, Text, aligned
from kvgen.codegen.shapes import Shapes
from kvgen.runtime.numbers import power_of_two

ASSIGNED = re.compile(r"\s*(?:for )?(\w+(?:, \w+)*) (?:[+*]?=|in) ")
WORD = re.compile(r"\b[A-Za-z_]\w*")


@dataclass(frozen=True)
class Spread:
    """A value stored for every token: the address of token t's, the value, and who stores it."""

    address: str
    value: str
    mask: str

    @property
    def line(self) -> str:
        return f"tl.store({self.address}, {self.value}, mask={self.mask})"


@dataclass
class WindowScope:
    """Lines by level: once a program, once a tile of values; stores; and the output [T, V].

    before: what is the same for all blocks of a prompt.
    pages, of_state: in a paged cache, what of a tile comes before the state and what reads it.
    after: what follows the stores of a block of a prompt: the state and carried states after it.
    """

    per_head: bool
    before: list[str] = field(default_factory=list)
    unit: list[str] = field(default_factory=list)
    tile: list[str] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)
    of_state: list[str] = field(default_factory=list)
    unit_stores: list[Spread] = field(default_factory=list)
    tile_stores: list[Spread] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    output: str = ""
    helpers: set[str] = field(default_factory=set)

    @property
    def needs_leads(self) -> bool:
        """Whether only a group's first head stores something."""
        return any("leads" in store.mask for store in (*self.unit_stores, *self.tile_stores))


@dataclass
class WindowLoads(TokenLoads):
    """Loads the window's inputs, one row of a tile to a token; parameters have no such dimension.

    position: the name of a token's place along the inputs' axis of tokens, in 64 bits.
    """

    position: str = "long_token"

    def __call__(self, node: Node) -> Text | None:
        leaf = leaf_of(node)
        if leaf.op in ("carried", "previous"):
            # these go from parent to child
            return None
        if leaf.op == "past":
            return self._past(leaf)
        if leaf.op != "input":
            return super().__call__(node)
        dims = "T" + node.axes.channels
        position = aligned(Text(self.position, ATOM, "T"), dims).text
        mask = token_mask(node.axes.channels, self.shapes)
        text = f"tl.load({self.address(node, dims, position)}, mask={mask}, other=0.0)"
        return Text(f"{text}.to(tl.float32)", ATOM, dims)

    def _past(self, node: Node) -> Text:
        """What an input was before each token: of another of the window's, or of the row's past."""
        (x,), age = node.args, node.value
        channel = x.axes.channels
        dims = "T" + channel
        position = aligned(Text(f"back_{age}.to(tl.int64)", ATOM, "T"), dims).text
        older = aligned(Text(f"(back_{age} < 0)", ATOM, "T"), dims).text
        ring = past_address(self.form, self.shapes, x, f"place_{age}")
        address = f"tl.where({older}, {ring}, {self.address(x, dims, position)})"
        mask = token_mask(channel, self.shapes)
        return Text(f"tl.load({address}, mask={mask}, other=0.0).to(tl.float32)", ATOM, dims)


def token_mask(channel: str, shapes: Shapes, tokens: str = "real_token") -> str:
    if not channel:
        return tokens
    real = f" & real_{shapes.index(channel)}[None, :]" if shapes.masked(channel) else ""
    return f"{tokens}[:, None]{real}"


@dataclass(frozen=True)
class Column:
    """A column as it meets what came before the window, and the window's own keys; number: what
    each token's is still to be times, where only its input is here."""

    buffered: str
    asked: str
    number: str | None = None


@dataclass(frozen=True)
class Stack:
    """The columns of one channel, row upon row, in the same two ways."""

    near: str
    at_unit: bool
    columns: list[Node]
    sides: list[Column]
    buffered: str
    asked: str

    @property
    def count(self) -> int:
        """Blocks of rows: a power of two."""
        return power_of_two(len(self.columns))


@dataclass
class Read:
    """One read: what it gives without the window's writes, its column's place among those of its
    stack, and its scores against writes that need no read."""

    node: Node
    base: str
    far: str
    place: int
    side: Column
    stack: Stack
    scores: dict[int, str] = field(default_factory=dict)


def users_of(nodes: Iterable[Node], leaves: set[Node]) -> set[Node]:
    """Of the nodes, in order, the leaves and all that depends on them."""
    found = set(leaves)
    for node in nodes:
        if any(arg in found for arg in node.args):
            found.add(node)
    return found


def prune(levels: Iterable[list[str]], users: Iterable[str]) -> None:
    """Drop the lines that name what neither another line nor a user names again."""
    levels, users = list(levels), list(users)
    while True:
        lines = [line for level in levels for line in level]
        words = Counter(re.findall(r"\b[A-Za-z_]\w*", "\n".join([*lines, *users])))
        unused = {
            line
            for line in lines
            if (found := re.match(r"\s*(\w+) = ", line)) and words[found[1]] == 1
        }
        if not unused:
            return
        for level in levels:
            level[:] = [line for line in level if line not in unused]


def settled(levels: Iterable[list[str]], moving: Iterable[str]) -> list[str]:
    """Take out the lines that are the same in every turn of the loop around them.

    moving: names that change from turn to turn.
    """
    levels = list(levels)
    lines = [(line, *_assigned(line)) for level in levels for line in level]
    alone = {line for line, names, _ in lines if names and line.startswith(f"{min(names)} = ")}
    times = Counter(name for _, names, _ in lines for name in names)
    changing = {*moving, *(name for name, count in times.items() if count > 1)}
    changing.update(*(names for line, names, _ in lines if line not in alone))
    known = -1
    while len(changing) > known:
        known = len(changing)
        for _, names, used in lines:
            if not used.isdisjoint(changing):
                changing |= names
    found = {line for line, names, _ in lines if line in alone and not names & changing}
    same = [line for level in levels for line in level if line in found]
    for level in levels:
        level[:] = [line for line in level if line not in found]
    return same


def _assigned(line: str) -> tuple[set[str], set[str]]:
    """The names that a line gives a value, and the words that it uses."""
    found = ASSIGNED.match(line)
    names = found[1].split(", ") if found else ()
    return set(names), set(WORD.findall(line, found.end() if found else 0))


def loop(header: str, body: list[str]) -> list[str]:
    return [header, *(f"    {line}" for line in body)]


def block(whole: str, place: int, count: int) -> str:
    """Of so many blocks of rows, which lie upon one another, the one at a place."""
    return whole if count == 1 else f"_block({whole}, {place}, {count})"
