"""What was derived from a spec, in the spec's notation: lines of text, still without a layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from kvgen.algebra.form import Carry, Decay
from kvgen.algebra.graph import Graph, Node, reachable
from kvgen.algebra.naming import value_names
from kvgen.algebra.records import decode_needs
from kvgen.analysis import Analysis
from kvgen.explaining.notation import PRODUCT, Line, Notation, Term, number

# of a sum over a token's writes; the lists of lines have them all
MOST_PARTS = 8
SUMS = {"": "", "K": "ᴷ", "V": "ⱽ"}


@dataclass(frozen=True)
class Past:
    """What a read goes back over: from which state on, to which, and what the sums of log decays
    on the way are called."""

    start: str
    end: str
    letter: str


# tokens 1 … n of the buffer; and of a window those above token t, on top of the buffer
BUFFER = Past("₀", "ₙ", "Γ")
WINDOW = Past("ₙ", "ₜ", "Δ")


@dataclass(frozen=True)
class Column:
    """A vector that reads the state: what it is called, and what defines it if it is no input."""

    node: Node
    name: str
    text: str | None


class Derivation:
    """Names and lines of a form, each value named alike wherever it is met.

    S₀ is the stored state, 1 … n are the tokens since it was stored, Sₙ is the state before the
    current token; xⱼ is what token j has recorded of x.
    """

    def __init__(self, analysis: Analysis) -> None:
        self.spec = analysis.spec
        self.form = analysis.form
        self.records = analysis.records
        self.state = self.form.state.name
        names = value_names(self.form, self.records)
        self.notation = Notation(self.form.graph, f"{self.state}ₙ", names)
        stored = [each.node for each in self.records.stored]
        if self.form.factored:
            self.notation.known[self.form.factored.before] = Term(f"{self.running}ₙ")
        self.notation.count([*self.form.whole, *stored])
        self.notation.write(decay.log for decay in self.form.decays)
        self.decay_lines = [*self.notation.take(), *self._constant_decays()]
        self.notation.write(self.form.columns)
        self.column_lines = self.notation.take()
        sides = [node for write in self.form.writes for node in (write.w, write.d)]
        afters = [carry.after for carry in self.form.carries]
        self.notation.write([*self.form.reads, *sides, *afters])
        self.output = self.notation.write([self.form.result])[0]
        self.token_lines = self.notation.take()
        # a stored value that the token's lines do not show gets its line in the table of records
        self.stored_texts = [self._stored_text(node) for node in stored]

    def _constant_decays(self) -> list[Line]:
        """A decay that is a number has a name all the same."""
        lines: list[Line] = []
        for decay in self.form.decays:
            if decay.log.is_const:
                name = self.notation.namer.new("log_decay")
                lines.append(Line(name, number(decay.log.const), decay.log.axes))
                self.notation.known[decay.log] = Term(name)
        return lines

    def _stored_text(self, node: Node) -> str:
        if self.form.factored and node in self.form.factored.keys:
            write = self.form.writes[self.form.factored.keys.index(node)]
            return f"exp(-{self.running}) * {self.name(write.w)}"
        text = self.notation.write([node])[0]
        lines = {line.name: line.text for line in self.notation.take()}
        return lines.get(text, text)

    def name(self, node: Node) -> str:
        return self.notation.known[node].text

    # -- the recurrence

    @property
    def recurrence(self) -> list[str]:
        """The statements as the spec has them."""
        lines = self.spec.text.splitlines()
        lines = lines[lines.index("step: |") + 1 :]
        end = next((i for i, line in enumerate(lines) if line and line[0] != " "), len(lines))
        return "\n".join(line[2:] for line in lines[:end]).strip("\n").splitlines()

    @property
    def renamed(self) -> list[tuple[str, str]]:
        """(name, tensor) of inputs and states whose own name stands for another value later."""
        known = self.notation.known
        leaves = [node for node in known if node.op in ("input", "param", "carried")]
        used = set(reachable([*self.form.whole, *(s.node for s in self.records.stored)]))
        pairs = [(known[node].text, str(node.value)) for node in leaves if node in used]
        return sorted(pair for pair in pairs if pair[0] != pair[1])

    # -- the buffered state

    @property
    def running(self) -> str:
        """The name of the recorded running sum, where keys are recorded before their decay."""
        assert self.form.factored is not None
        after = self.form.factored.after
        return next(s.name for s in self.records.stored if s.node is after)

    def sum_name(self, channel: str, past: Past = BUFFER) -> str:
        return past.letter + (SUMS[channel] if len(self.form.decays) > 1 else "")

    def sums(self) -> list[str]:
        """The weights' logarithms: sums of later tokens' decays."""
        lines: list[str] = []
        if self.form.emptied:
            return lines
        if self.form.factored:
            name = self._log_name("K")
            lines.append(f"{self.running}ⱼ = {name}₁ + … + {name}ⱼ")
        for decay in self.form.summed_decays:
            name = self.recorded_name(decay.log)
            later = f"(n - j) * {name}" if decay.log.is_const else f"{name}ₙ + … + {name}ⱼ₊₁"
            lines.append(f"{self.sum_name(decay.channel)}ⱼ = {later}")
        return lines

    def window_sums(self) -> list[str]:
        """The same along the tokens above token t of a window."""
        lines: list[str] = []
        for decay in self.form.decays:
            name, log = self.sum_name(decay.channel, WINDOW), self.recorded_name(decay.log)
            if self.form.factored and decay.channel == "K":
                log = self._log_name("K")
                lines.append(f"{name}₀ = the sum of {log} over the tokens above t")
                lines.append(f"{self.running}ₜ = {self.running}ₙ + {name}₀")
            else:
                constant = decay.log.is_const
                of = f"{log} times the number of" if constant else f"the sum of {log} over the"
                lines.append(f"{name}ⱼ = {of} tokens between j and t, {name}₀ of all above t")
        return lines

    def _exps(self, channels: str, place: str, past: Past = BUFFER) -> str:
        """exp of the sums over the given channels ('h' the head's), as factors from the left."""
        found = [d.channel for d in self.form.decays if (d.channel or "h") in channels]
        return "".join(f"exp({self._sum(channel, place, past)}) * " for channel in found)

    def _sum(self, channel: str, place: str, past: Past) -> str:
        # keys recorded before their decay have one weight for all places
        if self.form.factored and channel == "K" and (past is BUFFER or place != "₀"):
            return f"{self.running}{past.end}"
        return f"{self.sum_name(channel, past)}{place}"

    def _log_name(self, channel: str) -> str:
        return next(self.name(d.log) for d in self.form.decays if d.channel == channel)

    def state_text(self) -> str:
        """Sₙ as one decayed S₀ plus the records, if there are any."""
        if self.form.emptied:
            return f"{self.state}ₙ = {self.state}₀"
        axes = {"K": "[:, None]", "V": "[None, :]"}
        kept = ""
        for decay in self.form.decays:
            select = axes.get(decay.channel, "") if len(self.form.decays) > 1 else ""
            kept += f"exp({self._sum(decay.channel, '₀', BUFFER)}){select} * "
        products = [
            f"outer({self._exps('K', 'ⱼ')}{w}, {self._exps('V', 'ⱼ')}{d})" for w, d in self._sides()
        ]
        products = _some(products)
        text = f"{self.state}ₙ = {kept}{self.state}₀"
        if not products:
            return text
        weight = self._exps("h", "ⱼ")
        many = len(products) > 1
        inner = " + ".join(products)
        return f"{text} + Σⱼ {weight}{f'({inner})' if many else inner}"

    def read_text(self, near: str, past: Past = BUFFER) -> str:
        """How a vector over K (or V) reads Sₙ: the pass over S₀, and dots with the records; or Sₜ
        of a window: what it reads of Sₙ, and dots with the writes above t."""
        far = "V" if near == "K" else "K"
        x, name = self.vector, self.state
        inner = self._exps(near, "₀", past)
        column = f"({inner}{x})" if inner else x
        left = near == "K"
        start, end = f"{name}{past.start}", f"{name}{past.end}"
        whole = f"{x} @ {end}" if left else f"{end} @ {x}"
        if self.form.emptied and past is BUFFER:
            return f"{whole} = {x} @ {start}" if left else f"{whole} = {start} @ {x}"
        stored = f"{column} @ {start}" if left else f"{start} @ {column}"
        parts = []
        for w, d in self._sides():
            same, other = (w, d) if left else (d, w)
            dot = self._dot(x, same, near, past)
            parts.append(f"{dot} * {self._exps(far, 'ⱼ', past)}{other}")
        scale = self._exps("h" + far, "₀", past)
        text = f"{whole} = {scale}({stored})" if scale else f"{whole} = {stored}"
        if not parts:
            return text
        inner = " + ".join(_some(parts))
        weight = self._exps("h", "ⱼ", past)
        return f"{text} + Σⱼ {weight}{f'({inner})' if len(parts) > 1 else inner}"

    def _dot(self, x: str, record: str, near: str, past: Past) -> str:
        """A vector with one side of what token j has written."""
        decayed = self._exps(near, "ⱼ", past)
        record = f"({decayed}{record})" if decayed else record
        return f"({x} @ {record})" if near == "K" else f"({record} @ {x})"

    def feedback_text(self, write: int, factors: Mapping[Node, Node]) -> tuple[list[Line], str]:
        """What token j's d does to that of a token below it in a window, through the reads whose
        factors in it are given; and the lines which that needs."""
        key, _ = self._sides()[write]
        text = ""
        weight = self._exps("h", "ⱼ", WINDOW)
        for read, factor in factors.items():
            negative, factor = _sign(self.form.graph, factor)
            self.notation.write([factor])
            times = f"{self.notation.known[factor].inside(PRODUCT)} * "
            times = "" if factor.is_const and factor.const == 1 else times
            term = f"{weight}{times}{self._dot(self.name(read.args[0]), key, 'K', WINDOW)}"
            if text:
                text += f" - {term}" if negative else f" + {term}"
            else:
                text = f"-{term}" if negative else term
        return self.notation.take(), text

    @cached_property
    def vector(self) -> str:
        """A letter for any vector, which the spec does not use."""
        used = {term.text for term in self.notation.known.values()} | {self.state}
        return next(letter for letter in ("x", "y", "z", "u", "any_x") if letter not in used)

    @property
    def sides_read(self) -> list[str]:
        """The channels that are contracted: 'K' for x @ S, 'V' for S @ y."""
        return list(dict.fromkeys(column.axes.channels for column in self.form.columns))

    @property
    def columns(self) -> list[Column]:
        texts = {line.name: line.text for line in self.column_lines + self.decay_lines}
        named = [(node, self.name(node)) for node in self.form.columns]
        return [Column(node, name, texts.get(name)) for node, name in named]

    # -- records and the fold

    def recorded_name(self, node: Node) -> str:
        """What a value is called in a record, without its place."""
        found = next((s.name for s in self.records.stored if s.node is node), None)
        return found or self.name(node)

    def _sides(self) -> list[tuple[str, str]]:
        """What is recorded of each write, at place j."""
        pairs = zip(self.form.keys, self.form.writes, strict=True)
        return [(self._recorded(key), self._recorded(write.d)) for key, write in pairs]

    def _recorded(self, node: Node) -> str:
        return self.name(node) if node.is_const else f"{self.recorded_name(node)}ⱼ"

    def _record_notation(self, replay: bool) -> Notation:
        kept = [s for s in self.records.stored if not (replay and s.node.reads)]
        known = {stored.node: Term(f"{stored.name}ⱼ") for stored in kept}
        whole = [*decode_needs(self.form), *(self.form.columns if replay else ())]
        names = {node: self.recorded_name(node) for node in whole if not node.is_const}
        return Notation(self.form.graph, f"{self.state}₀", names, known, "ⱼ")

    @property
    def derived(self) -> list[Line]:
        """What a decode computes from a record before it uses it."""
        if self.form.emptied:
            return []
        notation = self._record_notation(replay=False)
        notation.write(decode_needs(self.form))
        return notation.take()

    @property
    def replayed(self) -> list[Line]:
        """What a fold computes anew from a record and the full state."""
        if not self.records.replay:
            return []
        notation = self._record_notation(replay=True)
        sides = [node for write in self.form.writes for node in (write.w, write.d)]
        notation.write([*(decay.log for decay in self.form.decays), *sides])
        return notation.take()

    def fold_text(self) -> str:
        """One record applied to the stored state."""
        decays = self.form.summed_decays
        factors = "".join(f"exp({self._recorded(d.log)}) * " for d in decays)
        text = f"{self.state}₀ ← {factors}{self.state}₀"
        writes = [f"outer({w}, {d})" for w, d in self._sides()]
        return " + ".join((text, *_some(writes)))

    def fold_end(self) -> str | None:
        """What follows the newest record."""
        if not self.form.factored:
            return None
        return f"{self.state}₀ ← exp({self.running}ₙ) * {self.state}₀, after the last"

    # -- facts

    def facts(self, decay: Decay) -> list[str]:
        """What is proved of a log decay."""
        bounds = decay.log.bounds
        found = ["the same for every token" if decay.constant else "depends on the token"]
        if decay.nonpositive:
            found.append("≤ 0, so what is stored never grows")
        elif bounds.hi != float("inf"):
            found.append(f"never above {number(bounds.hi)}, so what is stored may grow")
        else:
            found.append("no upper bound is proved, so what is stored may grow")
        lower = decay.lower
        found.append(
            "no lower bound is proved" if lower is None else f"never below {number(lower)}"
        )
        return found

    def carried(self, carry: Carry) -> tuple[str, str]:
        """The names of a carried state's values before and after the token."""
        return self.name(carry.before), self.name(carry.after)


def _sign(graph: Graph, node: Node) -> tuple[bool, Node]:
    """A product's sign in front of it."""
    if node.is_const and node.const < 0:
        return True, graph.const(-node.const)
    if node.op == "neg":
        negative, inner = _sign(graph, node.args[0])
        return not negative, inner
    if node.op == "mul":
        (first, x), (second, y) = (_sign(graph, arg) for arg in node.args)
        return first != second, graph.mul(x, y)
    return False, node


def _some(parts: list[str]) -> list[str]:
    """The first parts of a long sum."""
    if len(parts) <= MOST_PARTS:
        return parts
    return [*parts[: MOST_PARTS - 1], f"… ({len(parts)} such parts)"]
