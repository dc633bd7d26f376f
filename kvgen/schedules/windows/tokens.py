"""The values of a window's tokens: what is there of them, and which of them get a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from kvgen.algebra.form import Form
from kvgen.algebra.graph import Node, leaf_of, reachable
from kvgen.algebra.naming import described
from kvgen.codegen.names import local
from kvgen.functions.registry import function_of
from kvgen.ir.passes.once import ONCE
from kvgen.ir.values import Value, Wish
from kvgen.schedules.loads import TokenLoads
from kvgen.schedules.lowering import Lowering
from kvgen.schedules.past import within_ring
from kvgen.schedules.windows.lanes import WindowProgram

# operators that take a thread ten instructions or more
SLOW = ("div", "pow")


@dataclass
class WindowLoads(TokenLoads):
    """A window's inputs, a row to a token, and what they were before. Carried states go from parent
    to child: they are no loads. age: how many tokens ago."""

    along: tuple[str, str] = ("T", "T")
    form: Form = field(kw_only=True)
    age: int = field(default=0, kw_only=True)

    def has(self, node: Node) -> bool:
        return super().has(node) or leaf_of(node).op == "past"

    def __call__(self, node: Node, name: str | None) -> Value:
        leaf = leaf_of(node)
        if leaf.op != "past":
            return super().__call__(node, name)
        before = replace(self, age=int(leaf.value or 0))
        return self.build.cast(before.stored(leaf.args[0]), "float", name)

    def position(self) -> Value:
        if not self.age:
            return super().position()
        back, _ = self.program.back(self.age)
        return self.build.cast(back, "long")

    def _loaded(
        self, node: Node, pointer: Value, offset: Value, real: list[Value], name: str | None
    ) -> Value:
        if not self.age:
            return super()._loaded(node, pointer, offset, real, name)
        build = self.build
        back, place = self.program.back(self.age)
        ring = build.given(f"{local(self.form.past_of(node))}_at", type="pointer")
        older = build.add(ring, within_ring(self.lanes, node.axes, build.cast(place, "long")))
        is_older = build.binary("lt", back, build.number(0))
        at = build.where(is_older, older, build.add(pointer, offset))
        return super()._loaded(node, at, build.number(0), real, name)

    @property
    def program(self) -> WindowProgram:
        assert isinstance(self.lanes, WindowProgram)
        return self.lanes


# nodes of a text that stands within another; longer ones are not copied, which would have no end
COPIED = 64


@dataclass
class Tokens(Lowering):
    """Values that are asked for, that have a name in the spec, or are used again get a line; all
    others stand within their users' lines. inlined: those, and of how many nodes their text is.
    Numbers of tokens that take many instructions are kept on their lines: Triton would compute them
    again for every layout that they are needed in."""

    inlined: dict[Node, int] = field(default_factory=dict)

    def again(self, suffix: str, known: Mapping[Node, Value]) -> Tokens:
        copy = Tokens(self.build, self.graph, self.loads, self.names, self.masks, suffix)
        copy.known, copy.inlined = {**self.known, **known}, dict(self.inlined)
        return copy

    def emit(self, roots: Sequence[Node]) -> list[Value]:
        has = self.loads.has
        users: dict[Node, int] = dict.fromkeys(roots, 2)
        order = reachable(list(roots), self.known, lambda node: () if has(node) else node.args)
        for node in order:
            for arg in set(node.args):
                users[arg] = users.get(arg, 0) + (2 if node.args.count(arg) > 1 else 1)
        for node in order:
            if node not in self.known:
                again = users.get(node, 0) > 1 or node in self.graph.names or has(node)
                plain = node.is_const or node.op == "neg"
                self.known[node] = self._kept(node, again and not plain)
        return [self.value(root) for root in roots]

    def value(self, root: Node) -> Value:
        found = super().value(root)
        return self.build.again(found) if root in self.inlined else found

    def _made(self, node: Node) -> Value:
        inlined = (arg for arg in node.args if self.inlined.get(arg, COPIED) < COPIED)
        self.known |= {arg: self.build.again(self.known[arg]) for arg in inlined}
        return super()._made(node)

    def _kept(self, node: Node, line: bool) -> Value:
        of_tokens = any("T" in self.known[arg].axes for arg in node.args if arg in self.known)
        once = line and of_tokens and not node.axes.channels and self._slow(node)
        if once or not line:
            self.inlined[node] = 1 + sum(self.inlined.get(arg, 0) for arg in node.args)
        value = self._made(node)
        if once:
            del self.inlined[node]
            value = self.build.helper(ONCE, value, name=self.name(node))
        return value

    def _slow(self, node: Node) -> bool:
        """Whether its line computes more than a few products and sums."""
        has = self.loads.has

        def within(each: Node) -> list[Node]:
            return [] if has(each) else [arg for arg in each.args if arg in self.inlined]

        return any(
            not has(each) and (each.op in SLOW if (of := function_of(each)) is None else of.slow)
            for each in reachable([node], (), within)
        )

    def name(self, node: Node) -> str:
        name = (described(node, self.names) or "term") + self.suffix
        return Wish(name) if node in self.inlined else str(name)
