"""A short chain of drafts as a step of several tokens: a decode with more columns.

A token's values are numbers and vectors of their own, as a decode has them for its one. What reads
the stored state, and the buffer, is side by side the columns of one operand: a tile of the state is
multiplied with them once, and so are the buffer's keys and values.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from kvgen.algebra.chain import Chain, chained
from kvgen.algebra.form import Form
from kvgen.algebra.graph import Node, leaf_of, reachable
from kvgen.algebra.records import Records
from kvgen.codegen.levels import boundary, unit_level
from kvgen.codegen.loads import TokenLoads
from kvgen.codegen.names import namer_for
from kvgen.codegen.operands import emit_number, filled, load_given, times_input
from kvgen.codegen.printer import ATOM, PRODUCT, Emission, Text, wrapped
from kvgen.codegen.scopes import Buffer, buffer_scope
from kvgen.codegen.shapes import Shapes
from kvgen.codegen.stores import Store, needs_leads, token_stores
from kvgen.codegen.tokens import prune
from kvgen.functions.registry import reduces


@dataclass
class Token:
    """What follows the reads in one token: lines, the output, and what it leaves."""

    lines: list[str]
    output: str
    stores: list[Store]


@dataclass
class ChainScope:
    """Lines by level: once a program, from the buffer alone (`records`) and from the tokens too
    (`unit`), once a tile of values, and token by token after the reads.

    unit_stores: for each token what it leaves once a program. sums, operands: of how many vectors
    sums are taken together, and operands are made.
    """

    per_head: bool
    records: list[str]
    unit: list[str]
    tile: list[str]
    unit_stores: list[list[Store]]
    tokens: list[Token]
    sums: list[int]
    operands: list[int]

    @property
    def needs_leads(self) -> bool:
        stores = [*self.unit_stores, *(token.stores for token in self.tokens)]
        return any(needs_leads(each) for each in stores)


@dataclass
class ChainLoads(TokenLoads):
    """Loads every token's inputs, 0 for those beyond the window; and what is there before them."""

    def __call__(self, node: Node) -> Text | None:
        if node.op != "at":
            return super().__call__(node)
        token = int(node.value or 0)
        beyond = f"WINDOW > {token}" if token else None
        return self.given(node.args[0], token, beyond)


def chain_scope(form: Form, records: Records, shapes: Shapes, per_head: bool) -> ChainScope:
    return _Scope(chained(form), records, shapes, per_head).built()


@dataclass
class _Scope:
    chain: Chain
    records: Records
    shapes: Shapes
    per_head: bool
    unit: list[str] = field(default_factory=list)
    tile: list[str] = field(default_factory=list)
    sums: set[int] = field(default_factory=set)
    operands: set[int] = field(default_factory=set)

    def built(self) -> ChainScope:
        chain, form, shapes = self.chain, self.chain.form, self.shapes
        self.token = Emission(
            form.graph,
            namer_for(form, self.records),
            ChainLoads(form, self.records, shapes),
            masks=shapes.masks,
            called=chain.called,
        )
        recorded = [stored.node for stored in self.records.stored]
        roots = [*chain.roots, *(values[node] for values in chain.tokens for node in recorded)]
        self.early = unit_level(reachable(roots), self.per_head)
        self._given()
        self._share([*roots, *(number for _, number in self.given.values())])
        before_tiles, before_reads = boundary(chain.columns, roots, self.early)
        self._sums(roots)
        self._emitted(before_tiles, self.unit)
        self._emitted(before_reads, self.tile)
        buffer = self._buffer()
        for near in ("K", "V"):
            columns = [column for column in chain.columns if column.axes.channels == near]
            if columns:
                self._through(near, columns, buffer)
        unit_stores: list[list[Store]] = []
        tokens: list[Token] = []
        for number, values in enumerate(chain.tokens):
            (output,) = self.token.emit([values[form.output]])
            self.token.emit([values[node] for node in (*form.roots, *recorded)])
            lines = self.token.take()
            once, each = token_stores(
                form, self.records, shapes, self.per_head, self.early, self.token, values, number
            )
            unit_stores.append(once)
            tokens.append(Token(lines, output.text, each))
        lines = buffer.unit, self.unit, self.tile
        stores = [store.line for stores in unit_stores for store in stores]
        stores += [store.line for token in tokens for store in token.stores]
        of_tokens = [token.lines for token in tokens]
        prune([*lines, *of_tokens], [*stores, *(token.output for token in tokens)])
        counts = sorted(self.sums), sorted(self.operands)
        return ChainScope(self.per_head, *lines, unit_stores, tokens, *counts)

    def _share(self, roots: list[Node]) -> None:
        """What is used in several places gets a line, whenever it is printed."""
        users = Counter(roots)
        for node in reachable(roots):
            users.update(set(node.args))
        self.token.shared = {node for node, count in users.items() if count > 1}

    def _sums(self, roots: list[Node]) -> None:
        """The sums that are known before the tiles, as many at once as do not need each other."""
        depths: dict[Node, int] = {}
        turns: dict[int, list[Node]] = {}
        for node in reachable(roots):
            if node in self.early:
                depths[node] = max((depths[arg] for arg in node.args), default=0)
                if reduces(node):
                    turns.setdefault(depths[node], []).append(node)
                    depths[node] += 1
        for sums in turns.values():
            if len(sums) > 1:
                self.sums.add(len(sums))
                self.token.emit_sums(sums)
                self.unit += self.token.take()

    def _emitted(self, nodes: list[Node], level: list[str]) -> list[Text]:
        texts = self.token.emit(nodes)
        level += self.token.take()
        return texts

    # -- what goes to the tensor cores as it was given

    def _given(self) -> None:
        """Vectors that are an input times a number."""
        # column -> how its input is called, and the number
        self.given: dict[Node, tuple[str, Node]] = {}
        names: dict[Node, str] = {}
        for column in self.chain.columns:
            found = self._times_input(column)
            if found is None:
                continue
            raw, number = found
            if raw not in names:
                level = self.unit if raw in self.early else self.tile
                names[raw] = load_given(self.token, raw, str(leaf_of(raw).value), level)
            self.given[column] = names[raw], number
            self.token.called.setdefault(number, names[raw].replace("given", "scale"))

    def _times_input(self, node: Node) -> tuple[Node, Node] | None:
        # what decays along the channel is no longer the input
        if node.reads or self.chain.form.decay(node.axes.channels):
            return None
        return times_input(self.chain.form, node)

    def _buffer(self) -> Buffer:
        form = self.chain.form
        # a key that reads give back is needed whole
        back = any(read.axes.channels == "K" for read in form.reads)
        found = {} if back else {key: self._times_input(key) for key in form.keys}
        given = {key: times for key, times in found.items() if times}
        buffer = buffer_scope(form, self.records, self.shapes, self.per_head, self.token, given)
        self.unit += buffer.token
        self.tile += buffer.tile
        return buffer

    # -- reads

    def _through(self, near: str, columns: list[Node], buffer: Buffer) -> None:
        """All columns over one channel through the stored state and the buffer."""
        form, token, far = self.chain.form, self.token, "V" if near == "K" else "K"
        at_unit = all(column in self.early for column in columns)
        level = self.unit if at_unit else self.tile
        texts = [
            self.given[column][0] if column in self.given else token.clean(column).inside(ATOM)
            for column in columns
        ]
        # columns lie in pairs; a lone one is there twice
        texts = filled(texts if len(texts) > 1 else texts * 2)
        count = len(texts)
        self.operands.add(count)
        asked = self.token.namer.new("columns")
        level += wrapped([asked], f"_columns_{count}", texts)
        decayed = asked
        if near in buffer.kept:
            decayed = self._name(f"{asked} * {buffer.kept[near]}[:, None]", "columns", level)
        if near == "K" and form.factored:
            # factored keys hold no decay of their own: the columns' serves for all of them
            asked = decayed
        state = "tl.trans(state)" if near == "K" else "state"
        scales = [buffer.kept[""]] if "" in buffer.kept else []
        if far in buffer.kept:
            scales.append(f"{buffer.kept[far]}[:, None]")
        product = f"_through({state}, {decayed}{self._rough()})"
        found = self._name(" * ".join([product, *scales]), "found", self.tile)
        for near_side, far_side, number in buffer.sides(near):
            score = f"_through({near_side}, {asked}{self._rough()})"
            score += f" * {number}[:, None]" if number else ""
            score = self._name(score, "scores", level if near == "K" else self.tile)
            if buffer.weight:
                score = f"{score} * {buffer.weight}[:, None]"
            if far == "K" and form.factored:
                # and what comes back over K is a sum of them
                far_side = f"{far_side} * {buffer.kept['K']}[None, :]"
            self.tile.append(f"{found} += _through(tl.trans({far_side}), {score}{self._rough()})")
        by_column = {read.args[0]: read for read in self.chain.reads}
        names = [token.namer.new(self.chain.called[by_column[column]]) for column in columns]
        rest = ["_"] * (count - len(names))
        self.tile += wrapped([*names, *rest], f"_apart_{count}", [found])
        for column, name in zip(columns, names, strict=True):
            number = self._number(column)
            if number:
                self.tile.append(f"{name} *= {number}")
            token.known[by_column[column]] = Text(name, ATOM, far)

    def _rough(self) -> str:
        """Beside a state that is read in 16 bits, the buffer is read with little more."""
        narrow = self.chain.form.spec.storage.state.narrow and not self.records.exact
        return ", rough=True" if narrow else ""

    def _number(self, column: Node) -> str | None:
        """What a column's input is still to be times, if anything."""
        if column not in self.given:
            return None
        level = self.unit if column in self.early else self.tile
        number = emit_number(self.token, self.given[column][1], level)
        return number.inside(PRODUCT + 1) if number else None

    # -- texts

    def _name(self, text: str, wanted: str, level: list[str]) -> str:
        name = self.token.namer.new(wanted)
        level.append(f"{name} = {text}")
        return name
