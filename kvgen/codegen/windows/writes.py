"""What a window's tokens write, and what they read of what their ancestors in it have written.

Writes that depend on reads are solved for: by substitution, after turn n of which every token with
at most n ancestors is right, for it depends on no others; or by the inverse of a triangle, where a
write is linear in what it reads.
"""

from __future__ import annotations

from kvgen.algebra.graph import Node, reachable
from kvgen.codegen.printer import ATOM, Emission, Text, aligned
from kvgen.codegen.tokens import Read, block, loop
from kvgen.codegen.windows.carries import Carries
from kvgen.codegen.windows.decays import Decays
from kvgen.codegen.windows.frame import Frame
from kvgen.codegen.windows.given import Given
from kvgen.codegen.windows.products import Products


class Writes:
    """The writes of one window. sides: the tokens' values of both sides of every write."""

    def __init__(
        self, frame: Frame, given: Given, carries: Carries, decays: Decays, products: Products
    ) -> None:
        self.frame, self.given, self.carries = frame, given, carries
        self.decays, self.products = decays, products
        self.sides: dict[Node, Text] = {}

    def solve(self, reads: dict[Node, Read]) -> None:
        """Solve for writes that depend on reads; then compute what depends on them."""
        frame, token, scope = self.frame, self.frame.token, self.frame.scope
        self._known_sides()
        late = frame.solved.carries
        for carry in late:
            scope.tile += self.carries.start(carry)
        self._fixed_scores(reads)
        unknown, linear = frame.solved.unknown, frame.solved.factors
        needed = [*unknown, *(carry.after for carry in late)]
        if linear is not None:
            self._inverted(unknown[0], linear, reads)
        elif needed:
            self._substituted(unknown, needed, reads)
        left = [node for node in reachable(frame.roots, set(token.known)) if node.op == "read"]
        for node in left:
            scope.tile += self._full(reads[node], token)
        token.emit(frame.roots)
        scope.tile += token.take()
        scope.output = frame.spread(token.known[frame.form.output], "TV")

    def near_side(self, node: Node) -> tuple[str, str | None]:
        """A write's side where columns meet it, and the number that it is still to be times."""
        if node in self.given.vectors:
            return self.given.loaded[self.given.vectors[node][0]], self.given.number(node)
        return self.sides[node].text, None

    def end(self, lines: list[str]) -> None:
        """What a block of a prompt adds to the state, which has decayed."""
        frame, form, decays = self.frame, self.frame.form, self.decays
        terms = []
        for key, write in zip(form.keys, form.writes, strict=True):
            w, number = self.near_side(key)
            d = self.sides[write.d].text
            if number:
                d = frame.real(f"{d} * {number}[:, None]")
            if decays.summed("K"):
                w = f"{w} * rest_key"
            if decays.summed("V"):
                d = f"{d} * rest_value"
            if decays.summed(""):
                d = f"{d} * rest[:, None]"
            terms.append(f"state += _dot(tl.trans({w}), {d})")
        lines += terms
        if form.factored:
            # raised keys lack the block's whole decay, as the state does
            lines.append("state = state * lasting_key[:, None]")

    # -- solutions

    def _substituted(
        self, unknown: tuple[Node, ...], needed: list[Node], reads: dict[Node, Read]
    ) -> None:
        """The writes of every token, turn by turn, with the carried states that need them."""
        frame, token, scope = self.frame, self.frame.token, self.frame.scope
        for node in unknown:
            channel = self._side_channel(node)
            name = token.namer.new(token.name_of(node))
            self.sides[node] = Text(name, ATOM, "T" + channel)
            shape = f"[TOKENS, {frame.shapes.extent(channel)}]"
            scope.tile.append(f"{name} = tl.zeros({shape}, tl.float32)")
        turn = frame.turn()
        body: list[str] = []
        feeding = set(reachable(needed))
        for read in reads.values():
            if read.node in feeding:
                body += self._full(read, turn)
        turn.emit(needed)
        body += turn.take()
        for carry in frame.solved.carries:
            body.append(self.carries.move(carry, turn.known[carry.after]))
        body.append("ready = real_token & (depth <= turn)")
        for node in unknown:
            known = self.sides[node]
            value = frame.spread(turn.clean(node), known.dims)
            body.append(f"{known.text} = tl.where(ready[:, None], {value}, 0.0)")
        scope.tile.append("depth = tl.sum(ancestors.to(tl.int32), 1)")
        scope.tile += loop("for turn in range(TOKENS):", body)
        for node in unknown:
            token.known[node] = self.sides[node]

    def _inverted(self, node: Node, linear: dict[Node, Node], reads: dict[Node, Read]) -> None:
        """The write of every token at once, by the inverse of a triangle of T x T."""
        frame, token, lines = self.frame, self.frame.token, self.frame.scope.tile
        index = [write.d for write in frame.form.writes].index(node)
        terms: list[str] = []
        for read, factor in linear.items():
            (times,) = token.emit([factor])
            lines += token.take()
            scores = reads[read].scores[index]
            column = aligned(times, "TK").text if times.dims else times.inside(2)
            terms.append(scores if times.text == "1.0" else f"{column} * {scores}")
        # what fills the window up may be no number at all
        lower = frame.name(frame.real(" + ".join(terms)), "lower", lines)
        inverse = frame.name(f"_inverse({lower}, token, TOKENS)", "inverse", lines)
        alone = frame.turn()
        alone.suffix = "_alone"
        # other writes of its ancestors are known, and belong to what it reads
        for read in linear:
            lines += self._full(reads[read], alone, but=index)
        alone.emit([node])
        lines += alone.take()
        value = frame.real(frame.spread(alone.clean(node), "TV"))
        wanted = token.name_of(node)
        name = frame.name(f"_dot({inverse}, {value})", wanted, lines)
        self.sides[node] = token.known[node] = Text(name, ATOM, "TV")

    # -- the window's own writes, read

    def _known_sides(self) -> None:
        """The sides of writes that need no read, as the window's own products take them."""
        frame, form = self.frame, self.frame.form
        pairs = zip(form.keys, form.writes, strict=True)
        for node in dict.fromkeys(side for key, write in pairs for side in (key, write.d)):
            if node in frame.late or node in self.given.vectors:
                continue
            dims = "T" + self._side_channel(node)
            text = frame.spread(frame.token.clean(node), dims)
            name = frame.name(frame.real(text), "writes", frame.level(node))
            self.sides[node] = Text(name, ATOM, dims)

    def _side_channel(self, node: Node) -> str:
        return "K" if node in self.frame.form.keys else "V"

    def _fixed_scores(self, reads: dict[Node, Read]) -> None:
        """Scores against writes whose near side needs no read."""
        frame = self.frame
        for read in reads.values():
            for index, (near_node, _) in enumerate(self._near_far(read)):
                if near_node in frame.late:
                    continue
                at_unit = read.stack.at_unit and near_node in frame.unit
                level = frame.scope.unit if at_unit else frame.scope.tile
                if self.decays.summed(read.stack.near):
                    text = self._score(read, near_node)
                else:
                    near, number = self.near_side(near_node)
                    products = self.products.of(read.stack.asked, near, level)
                    text = block(products, read.place, read.stack.count)
                    if read.side.number:
                        text += f" * {read.side.number}[:, None]"
                    if number:
                        text += f" * {number}[None, :]"
                if not text.isidentifier():
                    text = frame.name(text, "scores", level)
                weighted = self._weighted(text)
                read.scores[index] = frame.name(weighted, "scores", frame.scope.tile)

    def _near_far(self, read: Read) -> list[tuple[Node, Node]]:
        pairs = []
        form = self.frame.form
        for key, write in zip(form.keys, form.writes, strict=True):
            pairs.append((key, write.d) if read.stack.near == "K" else (write.d, key))
        return pairs

    def _score(self, read: Read, near_node: Node) -> str:
        """Scores against one write: of channels that decay, or of a side known late."""
        near = self.sides[near_node].text
        if self.decays.summed(read.stack.near):
            return self.decays.product("scores", read.side.asked, near, read.stack.near)
        score = f"_dot({read.side.asked}, tl.trans({near}))"
        return f"{score} * {read.side.number}[:, None]" if read.side.number else score

    def _weighted(self, score: str) -> str:
        if self.decays.summed(""):
            return f"tl.where(ancestors, {score} * weights, 0.0)"
        return f"tl.where(ancestors, {score}, 0.0)"

    def _full(self, read: Read, scope: Emission, but: int = -1) -> list[str]:
        """The read with what the ancestors have written, in all writes or in all but one."""
        frame, form = self.frame, self.frame.form
        wanted = (form.graph.names.get(read.node) or "read") + scope.suffix
        name = scope.namer.new(wanted)
        lines = [f"{name} = {read.base}"]
        for index, (near_node, far_node) in enumerate(self._near_far(read)):
            if index == but:
                continue
            score = read.scores.get(index)
            if score is None:
                score = scope.namer.new("scores" + scope.suffix)
                lines.append(f"{score} = {self._weighted(self._score(read, near_node))}")
            values = self.sides[far_node].text
            if self.decays.summed(read.far):
                mixed = self.decays.product("mix", score, values, read.far)
            else:
                mixed = f"_dot({score}, {values})"
            if form.factored and read.far == "K":
                mixed += f" * tl.exp({frame.token.known[form.factored.before].text})"
            lines.append(f"{name} += {mixed}")
        scope.known[read.node] = Text(name, ATOM, "T" + read.far)
        return lines
