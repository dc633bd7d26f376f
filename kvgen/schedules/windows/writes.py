"""What a window's tokens write, and what they read of what their ancestors in it have written.

Writes that depend on reads are solved for: by substitution, after turn n of which every token with
at most n ancestors is right, for it depends on no others; or by the inverse of a triangle, where a
write is linear in what it reads.
"""

from __future__ import annotations

from kvgen.algebra.graph import Node, reachable
from kvgen.functions.exp import EXP
from kvgen.ir.values import Helper, Value, Wish
from kvgen.schedules.windows.carries import Carries
from kvgen.schedules.windows.decays import DOT, Decays
from kvgen.schedules.windows.frame import Frame
from kvgen.schedules.windows.products import Products
from kvgen.schedules.windows.reads import Read
from kvgen.schedules.windows.tokens import Tokens

INVERSE = Helper("_inverse", ("TOKENS",))


class Writes:
    """The writes of one window. sides: the tokens' values of both sides of every write."""

    def __init__(self, frame: Frame, carries: Carries, decays: Decays, products: Products) -> None:
        self.frame, self.carries, self.decays, self.products = frame, carries, decays, products
        self.sides: dict[Node, Value] = {}
        self.pairs = [
            (key, write.d) for key, write in zip(frame.form.keys, frame.form.writes, strict=True)
        ]

    def solve(self, reads: dict[Node, Read]) -> Value:
        """Solve for writes that depend on reads; then compute what depends on them. Gives the
        output."""
        frame, token = self.frame, self.frame.token
        self._known_sides()
        late = frame.solved.carries
        for carry in late:
            self.carries.start(carry)
        self._fixed_scores(reads)
        unknown, linear = frame.solved.unknown, frame.solved.factors
        needed = [*unknown, *(carry.after for carry in late)]
        if linear is not None:
            self._inverted(unknown[0], linear, reads)
        elif needed:
            self._substituted(unknown, needed, reads)
        left = [node for node in reachable(frame.roots, set(token.known)) if node.op == "read"]
        for node in left:
            self._full(reads[node], token)
        token.emit(frame.roots)
        return frame.spread(token.value(frame.form.output), "TV")

    def near_side(self, node: Node) -> tuple[Value, Value | None]:
        """A write's side where columns meet it, and the number that it is still to be times."""
        if node in self.products.vectors:
            came = self.products.came[self.products.vectors[node][0]]
            return came, self.products.number(node)
        return self.sides[node], None

    def end(self) -> None:
        """What a block of a prompt adds to the state, which has decayed."""
        frame, build, rest = self.frame, self.frame.build, self.decays.rest
        for key, value in self.pairs:
            w, number = self.near_side(key)
            d = self.sides[value]
            if number:
                d = frame.real(build.mul(d, number))
            w = build.times(w, rest.get("K"))
            d = build.times(d, rest.get("V"), rest.get(""))
            written = build.dot(frame.turned(w), d, DOT, name=Wish("written"))
            build.move(frame.state, build.add(frame.state, written))
        if frame.form.factored:
            # raised keys lack the block's whole decay, as the state does
            build.move(frame.state, build.mul(frame.state, self.decays.lasting["K"]))

    # -- solutions

    def _substituted(
        self, unknown: tuple[Node, ...], needed: list[Node], reads: dict[Node, Read]
    ) -> None:
        """The writes of every token, turn by turn, with the carried states that need them."""
        frame, build, token, lanes = (
            self.frame,
            self.frame.build,
            self.frame.token,
            self.frame.lanes,
        )
        for node in unknown:
            begun = frame.zeros("T" + self._channel(node))
            self.sides[node] = build.variable(begun, token.name(node))
        depth = build.sum(build.cast(frame.ancestors, "int"), "S", "depth")
        turn = token.again("_turn", {})
        feeding = set(reachable(needed))
        with build.loop("turn", "TOKENS", None) as index:
            for read in reads.values():
                if read.node in feeding:
                    self._full(read, turn)
            turn.emit(needed)
            for carry in frame.solved.carries:
                self.carries.move(carry, turn.value(carry.after))
            within = build.binary("lt", depth, build.add(index, build.number(1)))
            ready = build.every(lanes.real_token, within, name="ready")
            for node in unknown:
                known = self.sides[node]
                value = frame.spread(turn.clean(node), known.axes)
                build.move(known, build.where(ready, value, 0.0))
        token.known |= {node: self.sides[node] for node in unknown}

    def _inverted(self, node: Node, linear: dict[Node, Node], reads: dict[Node, Read]) -> None:
        """The write of every token at once, by the inverse of a triangle of T x T."""
        frame, build, token = self.frame, self.frame.build, self.frame.token
        index = [write.d for write in frame.form.writes].index(node)
        terms: list[Value] = []
        for read, factor in linear.items():
            (times,) = token.emit([factor])
            scores = reads[read].scores[index]
            terms.append(scores if factor.is_number(1.0) else build.mul(times, scores))
        # what fills the window up may be no number at all
        lower = frame.real(build.total(terms), "lower")
        inverse = build.helper(INVERSE, lower, frame.lanes.token, axes="TS", name="inverse")
        alone = token.again("_alone", {})
        # other writes of its ancestors are known, and belong to what it reads
        for read in linear:
            self._full(reads[read], alone, but=index)
        alone.emit([node])
        value = frame.real(frame.spread(alone.clean(node), "TV"))
        found = build.dot(inverse, value, DOT, name=token.name(node))
        self.sides[node] = token.known[node] = found

    # -- the window's own writes, read

    def _known_sides(self) -> None:
        """The sides of writes that need no read, as the window's own products take them."""
        frame = self.frame
        for node in dict.fromkeys(side for pair in self.pairs for side in pair):
            if node in frame.late or node in self.products.vectors:
                continue
            with frame.at(node in frame.unit):
                value = frame.spread(frame.token.clean(node), "T" + self._channel(node))
                self.sides[node] = frame.real(value, "writes")

    def _channel(self, node: Node) -> str:
        return "K" if node in self.frame.form.keys else "V"

    def _fixed_scores(self, reads: dict[Node, Read]) -> None:
        """Scores against writes whose near side needs no read."""
        frame, build = self.frame, self.frame.build
        for read in reads.values():
            stack = read.stack
            for index, (near_node, _) in enumerate(self._near_far(read)):
                if near_node in frame.late:
                    continue
                with frame.at(stack.at_unit and near_node in frame.unit):
                    if self.decays.summed(stack.near):
                        score = self._score(read, near_node, "scores")
                    else:
                        near, number = self.near_side(near_node)
                        score = self.products.of(stack.asked, near)
                        score = self.products.block(score, read.place, len(stack.columns))
                        column = number and build.along(number, "S")
                        score = build.times(score, read.side.number, column, name="scores")
                read.scores[index] = self._weighted(score, "scores")

    def _near_far(self, read: Read) -> list[tuple[Node, Node]]:
        """Of every write the side that columns meet, and what comes back."""
        near_is_key = read.stack.near == "K"
        return [(key, value) if near_is_key else (value, key) for key, value in self.pairs]

    def _score(self, read: Read, near_node: Node, name: str | None = None) -> Value:
        """Scores against one write: of channels that decay, or of a side known late."""
        build, near, side = self.frame.build, self.sides[near_node], read.side
        if self.decays.summed(read.stack.near):
            return self.decays.product("scores", side.asked, near, read.stack.near, name)
        score = build.dot(side.asked, self.frame.turned(near), DOT, name=name or Wish("term"))
        return build.times(score, side.number)

    def _weighted(self, score: Value, name: str) -> Value:
        build = self.frame.build
        weighted = build.times(score, self.decays.weights)
        return build.where(self.frame.ancestors, weighted, 0.0, name)

    def _full(self, read: Read, token: Tokens, but: int = -1) -> None:
        """The read with what the ancestors have written, in all writes or in all but one."""
        build, far = self.frame.build, read.node.axes.channels
        factored = self.frame.form.factored if far == "K" else None
        called = (self.frame.form.graph.names.get(read.node) or "read") + token.suffix
        terms: list[Value] = []
        for index, (near_node, far_node) in enumerate(self._near_far(read)):
            if index == but:
                continue
            score = read.scores.get(index)
            if score is None:
                score = self._weighted(self._score(read, near_node), "scores" + token.suffix)
            values = self.sides[far_node]
            if self.decays.summed(far):
                mixed = self.decays.product("mix", score, values, far, "mixed")
            else:
                mixed = build.dot(score, values, DOT, name=Wish("term"))
            if factored:
                kept = build.function(EXP, self.frame.token.known[factored.before])
                mixed = build.mul(mixed, kept)
            terms.append(mixed)
        found = read.base
        for place, mixed in enumerate(terms, 1):
            found = build.add(found, mixed, called if place == len(terms) else None)
        token.known[read.node] = found
