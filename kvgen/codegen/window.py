"""A window of tokens in one pass over the state: what a verify and a block of a prompt compute.

Every value of a token has a leading dimension T here. What a token reads is the stored state, the
buffer, and the writes of its ancestors in the window (the tokens before it, or the nodes above it
in a tree). Writes that depend on reads are solved for by substitution: after turn n every token
with at most n ancestors is right, for it depends on no others. Carried states go along the parents
in the same way.
"""

from __future__ import annotations

from dataclasses import replace

from kvgen.algebra.form import Carry, Decay, Form
from kvgen.algebra.graph import Node, reachable
from kvgen.algebra.records import Records, Stored
from kvgen.algebra.solving import solve
from kvgen.codegen.addresses import carried_address, mask_of
from kvgen.codegen.levels import unit_level
from kvgen.codegen.loads import loaded, newest_sum, token_emission
from kvgen.codegen.names import by_channel, local
from kvgen.codegen.operands import component, emit_number, filled, load_given, times_input
from kvgen.codegen.printer import ATOM, PRODUCT, Emission, Text, aligned
from kvgen.codegen.scopes import Buffer, buffer_scope
from kvgen.codegen.shapes import Shapes
from kvgen.codegen.stores import guards, same_head
from kvgen.codegen.tokens import (
    Column,
    Read,
    Spread,
    Stack,
    WindowLoads,
    WindowScope,
    loop,
    prune,
    settled,
    users_of,
)
from kvgen.functions.registry import reduces

PATH, LOG, KEPT, REST, LASTING = (
    by_channel(name) for name in ("path", "log", "since", "rest", "lasting")
)
# how columns and keys are scaled for products to bring what has decayed between them
SCALES = {
    channel: ", ".join(f"{name}_{part}" for part in ("lead", "tail", "up", "down"))
    for channel, name in (("K", "key"), ("V", "value"))
}


def verify_scope(form: Form, records: Records, shapes: Shapes, per_head: bool) -> WindowScope:
    """A window on top of the stored state and the buffer; every token leaves its records."""
    return Window(form, records, shapes, per_head, prompt=False).built()


def extend_scope(form: Form, records: Records, shapes: Shapes) -> WindowScope:
    """A block of a prompt on top of a tile of the state, which is brought up to date."""
    return Window(form, records, shapes, per_head=True, prompt=True).built()


class Window:
    """Builds one scope. now, next: places of carried states, before and after the tokens."""

    now, next = "count", "spot + 1"

    @property
    def recorded(self) -> bool:
        """Whether tokens leave records."""
        return not self.prompt

    def __init__(
        self, form: Form, records: Records, shapes: Shapes, per_head: bool, prompt: bool
    ) -> None:
        self.form, self.records, self.shapes = form, records, shapes
        self.per_head, self.prompt = per_head, prompt
        position = "long_position" if prompt else "long_token"
        loads = WindowLoads(form, records, shapes, position)
        self.token = token_emission(form, records, shapes, loads)
        self.token.once = "T"
        self.scope = WindowScope(per_head, helpers=self.token.helpers)
        kept = tuple(stored.node for stored in records.stored) if self.recorded else ()
        if prompt and form.factored:
            kept = form.factored.keys
        self.roots = list(dict.fromkeys((*form.roots, *kept)))
        nodes = reachable(self.roots)
        self.late = form.late
        self.solved = solve(form)
        self.late_carries = self.solved.carries
        self.early_carries = [carry for carry in form.carries if carry.after not in self.late]
        unit = unit_level(nodes, per_head)
        # carried states that do not fit there go along the parents once a tile, all of them
        self.carries_at_unit = all(carry.after in unit for carry in self.early_carries)
        if not self.carries_at_unit:
            unit -= users_of(nodes, {carry.before for carry in form.carries})
        # whether what decays along keys is known before the tiles
        self.keys_at_unit = all(d.log in unit for d in form.decays if d.channel == "K")
        if form.factored and not self.keys_at_unit:
            unit -= users_of(nodes, {form.factored.before})
        self.unit = {node for node in unit if node not in self.late}
        # both sides of every write, and stacked columns by what they hold
        self.sides: dict[Node, Text] = {}
        self.stacks: dict[tuple[str, ...], str] = {}
        # products of every token's column and every token's key, by what they are products of
        self.products: dict[tuple[str, str], str] = {}

    def built(self) -> WindowScope:
        scope, token = self.scope, self.token
        early = [node for node in reachable(self.roots) if node not in self.late]
        self._load_given()
        self._own_products()
        if self.carries_at_unit:
            self._chain(scope.unit)
        self._paths(scope.unit, at_unit=True)
        wanted = self._wanted(early)
        token.emit([node for node in wanted if node in self.unit])
        scope.unit += token.take()
        if not self.carries_at_unit:
            self._chain(scope.tile)
        self._paths(scope.tile, at_unit=False)
        token.emit([node for node in wanted if node not in self.unit])
        scope.tile += token.take()
        reads = self._reads(self._buffer())
        self._solve(reads)
        self._stores()
        if self.prompt:
            self._update()
        self._prune()
        if self.prompt:
            scope.before += settled((scope.unit, scope.tile, scope.after), self._moving())
        return scope

    def _moving(self) -> list[str]:
        """What changes from block to block of a prompt beside what is computed there."""
        contexts = (self._context(carry) for carry in self.form.carries)
        return ["start", "position", "long_position", "real_token", "last", "state", *contexts]

    def _prune(self) -> None:
        """Drop what was computed for a value that another way has been found to."""
        scope = self.scope
        levels = [scope.unit, scope.pages, scope.of_state, scope.tile, scope.after]
        stores = [store.line for store in (*scope.unit_stores, *scope.tile_stores)]
        # a template reads these
        kept = {"state", *(self._context(carry) for carry in self.form.carries)}
        prune(levels, [*stores, scope.output, *kept])

    # -- inputs as they are given

    def _load_given(self) -> None:
        """Vectors that are an input times a number for each head."""
        form = self.form
        self.given: dict[Node, tuple[Node, Node]] = {}
        self.given_at: dict[Node, str] = {}
        back = {read.axes.channels for read in form.reads}
        for node in dict.fromkeys((*form.columns, *form.keys)):
            near = node.axes.channels
            found = times_input(form, node)
            # a decay over the channels, or what is read back along them, needs the product itself
            if found is None or node in self.late or form.decay(near) or near in back:
                continue
            self.given[node] = found
        for node, (raw, scale) in self.given.items():
            if raw not in self.given_at:
                level = self.scope.unit if raw in self.unit else self.scope.tile
                self.given_at[raw] = load_given(self.token, raw, component(raw), level)
            self.token.call(scale, f"{component(raw)}_scale")
            if node in self.unit:
                self.unit.add(scale)

    def _own_products(self) -> None:
        """What a token's own vectors give with each other, where those of all tokens are
        multiplied anyway: a key is then as long as its products with keys like it say, however
        those are rounded, and what stays of a write that it erases does not add up."""
        form, token, level = self.form, self.token, self.scope.unit
        asked = self._asked_as_given()
        near = [self.given[key][0] for key in form.keys if key in self.given]
        for node in reachable(self.roots):
            if not reduces(node) or node.args[0].op != "mul" or node not in self.unit:
                continue
            first, second = (times_input(form, side) for side in node.args[0].args)
            if first is None or second is None:
                continue
            if first[0] not in asked or second[0] not in near:
                first, second = second, first
            if first[0] not in asked or second[0] not in near:
                continue
            whole, place, count = asked[first[0]]
            scores = self._products(whole, self.given_at[second[0]], level)
            block = scores if count == 1 else f"_block({scores}, {place}, {count})"
            text = f"_own({block}, token)"
            for _, scale in (first, second):
                number = emit_number(token, scale, level)
                text += f" * {number.inside(2)}" if number else ""
            token.bind(node, Text(text, PRODUCT, "T"))
            level += token.take()

    def _asked_as_given(self) -> dict[Node, tuple[str, int, int]]:
        """The inputs that ask: the rows they lie in, at which place of how many."""
        found: dict[Node, tuple[str, int, int]] = {}
        for columns in self._operands():
            if all(column in self.given for column in columns):
                raw = [self.given[column][0] for column in columns]
                whole = self._stacked([self.given_at[each] for each in raw], self.scope.unit)
                count = 1 << (len(raw) - 1).bit_length()
                found |= {each: (whole, place, count) for place, each in enumerate(raw)}
        return found

    def _products(self, asked: str, near: str, level: list[str]) -> str:
        """Every token's column with every token's key."""
        if (asked, near) not in self.products:
            text = f"_dot({asked}, tl.trans({near}))"
            self.products[asked, near] = self._name(text, "scores", level)
        return self.products[asked, near]

    # -- what needs no read

    def _wanted(self, early: list[Node]) -> list[Node]:
        """The early nodes that the rest of the window looks at."""
        late = self.late
        found: dict[Node, None] = {}
        for node in reachable(self.roots):
            if node in late and node.op != "index":
                found |= {arg: None for arg in node.args if arg not in late and not arg.is_const}
        scales = (scale for _, scale in self.given.values())
        roots = (*self.roots, *self.form.columns, *self.form.keys, *scales)
        found |= {node: None for node in roots if node not in late and not node.is_const}
        # what once a program computes for the tiles
        for node in early:
            if node not in self.unit and node.op != "index":
                found |= {arg: None for arg in node.args if arg in self.unit and not arg.is_const}
        return list(found)

    def _chain(self, lines: list[str]) -> None:
        """Carried states that follow from inputs alone, from parent to child."""
        carries = self.early_carries
        if not carries:
            return
        token = self.token
        nodes = reachable([carry.after for carry in carries])
        users = users_of(nodes, {carry.before for carry in carries})
        ready = {
            arg: None for node in nodes if node in users for arg in node.args if arg not in users
        }
        token.emit([node for node in ready if not node.is_const])
        lines += token.take()
        for carry in carries:
            lines += self._start(carry)
        turn = self._turn()
        turn.emit([carry.after for carry in carries])
        body = turn.take()
        moves = [self._move(carry, turn.known[carry.after]) for carry in carries]
        lines += loop("for turn in range(TOKENS - 1):", body + moves)

    def _start(self, carry: Carry) -> list[str]:
        """The carried state before each token, right for those without a parent."""
        channel = carry.axes.channels
        name = self.token.namer.new(f"{carry.tensor.name}_before")
        self.token.known[carry.before] = Text(name, ATOM, "T" + channel)
        context = self._context(carry)
        width = self.shapes.extent(channel)
        lines = []
        if not self.prompt:
            at = carried_address(self.form, carry.tensor.name, self.now)
            lines.append(f"{context} = {loaded(at, channel, self.shapes)}")
        shape = f"[TOKENS, {width}]" if channel else "[TOKENS]"
        row = f"{context}[None, :]" if channel else context
        return [*lines, f"{name} = tl.zeros({shape}, tl.float32) + {row}"]

    def _context(self, carry: Carry) -> str:
        """What a carried state is called as it stands before the window."""
        return f"{carry.tensor.name}_context"

    def _move(self, carry: Carry, after: Text) -> str:
        """Each token's value before, from its parent's after."""
        channel = carry.axes.channels
        name = self.token.known[carry.before].text
        spread = self._spread(after, "T" + channel)
        helper = "_from_parent_channels" if channel else "_from_parent"
        return f"{name} = {helper}({spread}, parent, token, {self._context(carry)})"

    def _turn(self) -> Emission:
        """A scope of its own for one turn of a loop."""
        return replace(self.token, suffix="_turn", known=dict(self.token.known), lines=[])

    # -- decays within the window

    def _paths(self, lines: list[str], at_unit: bool) -> None:
        """For each decay the sum of its logs along a token's ancestors."""
        form, token = self.form, self.token
        for decay in form.decays:
            if (decay.log in self.unit) != at_unit:
                continue
            channel = decay.channel
            token.emit([decay.log])
            lines += token.take()
            log, path = LOG[channel], PATH[channel]
            text = self._spread(token.clean(decay.log), "T" + channel)
            if not channel:
                lines.append(f"{log} = {text}")
                lines.append(f"{path} = _along(ancestors, {log})")
            else:
                lines.append(f"{log} = {self._real(f'tl.maximum({text}, -1e30)')}")
                if self._scaled(channel):
                    turned = "" if self.prompt else ", True"
                    lines.append(f"{SCALES[channel]} = _scales({log}, token, TOKENS{turned})")
                if self._in_blocks(channel):
                    scales = f"{KEPT[channel]}, {REST[channel]}, {LASTING[channel]}"
                    lead, tail, *_ = SCALES[channel].split(", ")
                    lines.append(f"{scales} = _over_blocks({log}, {lead}, {tail}, token, TOKENS)")
                else:
                    summed = f"_sums(ancestors.to(tl.float32), {log}, {not self.prompt})"
                    if not self._scaled(channel):
                        summed = f"_dot(ancestors.to(tl.float32), {log})"
                    lines.append(f"{path} = {summed}")
            if form.factored and channel == "K":
                assert form.factored is not None
                before = f"{path}"
                if not self.prompt:
                    newest = newest_sum(form, self.records, self.shapes).text
                    name = token.namer.new("decay_sum_before")
                    lines.append(f"{name} = {path} + {newest}[None, :]")
                    before = name
                token.known[form.factored.before] = Text(before, ATOM, "TK")
            elif not channel:
                between = "_between_in_prompt" if self.prompt else "_between"
                weights = f"tl.where(ancestors, tl.exp({between}(ancestors, log)), 0.0)"
                lines.append(f"weights = {weights}")

    def _buffer(self) -> Buffer:
        """What is read back from the buffer; a block of a prompt has the state alone before it."""
        form, token, scope = self.form, self.token, self.scope
        buffer = Buffer()
        keys = scope.unit if self.keys_at_unit else scope.tile
        if not self.prompt:
            shape = (form, self.records, self.shapes, self.per_head)
            buffer = buffer_scope(*shape, token, self.given)
            scope.unit += buffer.unit
            keys += buffer.token
            scope.tile += buffer.tile
        elif form.factored:
            # a block's columns are scaled by what has decayed since its start
            (kept,) = token.emit([form.graph.exp(form.factored.before)])
            keys += token.take()
            buffer.kept["K"] = kept.text
        return buffer

    def _summed(self, channel: str) -> Decay | None:
        return next((d for d in self.form.summed_decays if d.channel == channel), None)

    def _scaled(self, channel: str) -> bool:
        """Whether products of scaled vectors bring what decays by this channel within the window,
        where its tokens follow one another."""
        return any(decay.channel == channel for decay in self.form.scaled_decays)

    def _in_blocks(self, channel: str) -> bool:
        """Whether that is also what scales columns that read the state, and keys that go there."""
        return self.prompt and self._scaled(channel)

    def _since_start(self, channel: str) -> str:
        """What has decayed in the window before each token, for every channel."""
        return KEPT[channel] if self._in_blocks(channel) else f"tl.exp({PATH[channel]})"

    def _decayed(self, helper: str, first: str, second: str, channel: str) -> str:
        """A product over tokens or channels with what decays by `channel` between its tokens."""
        pairs = f"_pair_{helper}({first}, {second}, {LOG[channel]}, ancestors, token, TOKENS)"
        if not self._scaled(channel):
            return pairs
        scaled = f"_block_{helper}({first}, {second}, {SCALES[channel]}, token, TOKENS)"
        # along the paths of a tree there is no one sum that the others are parts of
        return scaled if self.prompt else f"{pairs} if TREE else {scaled}"

    # -- reads

    def _reads(self, buffer: Buffer) -> dict[Node, Read]:
        """For every read its value without the window's writes, and its scores against those.

        The columns of one channel go through the state, and against the buffer, as one operand,
        row upon row: a tensor core takes sixteen rows at a time, used or not. A prompt's fill them.
        """
        stacks: list[Stack] = []
        for columns in self._operands():
            near = columns[0].axes.channels
            at_unit = all(column in self.unit for column in columns)
            at_unit = at_unit and (near != "K" or self.keys_at_unit)
            level = self.scope.unit if at_unit else self.scope.tile
            sides = [self._column(column, buffer, level) for column in columns]
            buffered = self._stacked([side.buffered for side in sides], level)
            asked = self._stacked([side.asked for side in sides], level)
            stacks.append(Stack(near, at_unit, columns, sides, buffered, asked))
        wholes = self._found(stacks, buffer)
        found: dict[Node, Read] = {}
        for node in self.form.reads:
            index = next(i for i, stack in enumerate(stacks) if node.args[0] in stack.columns)
            stack = stacks[index]
            place = stack.columns.index(node.args[0])
            side = stack.sides[place]
            base = self._base(node, self._block(wholes[index], place, stack), buffer, side.number)
            found[node] = Read(node, base, node.axes.channels, place, side, stack)
        return found

    def _operands(self) -> list[list[Node]]:
        """The vectors that go through the state together."""
        columns = self.form.columns
        if self.prompt:
            return [[column] for column in columns]
        by_channel = ([c for c in columns if c.axes.channels == near] for near in ("K", "V"))
        return [each for each in by_channel if each]

    def _column(self, node: Node, buffer: Buffer, level: list[str]) -> Column:
        near = node.axes.channels
        if node in self.given:
            raw, scale = self.given[node]
            name = self.given_at[raw]
            number = self._number(node, scale)
            return Column(name, name, number)
        plain = self._named(self.token.clean(node), "T" + near, "column", level)
        if self._summed(near):
            text = f"{plain} * {self._since_start(near)}"
            return Column(self._name(text, "column", level), plain)
        if near == "K" and self.form.factored:
            plain = self._name(f"{plain} * {buffer.kept[near]}", "column", level)
        return Column(plain, plain)

    def _number(self, node: Node, scale: Node) -> str | None:
        """What an input's vector is times in the given node, for every token; None for 1."""
        level = self.scope.unit if node in self.unit else self.scope.tile
        number = emit_number(self.token, scale, level)
        return self._named(number, "T", "scale", level) if number else None

    def _stacked(self, texts: list[str], level: list[str]) -> str:
        """The values row upon row, a power of two of them."""
        if len(texts) == 1:
            return texts[0]
        key = tuple(texts)
        if key not in self.stacks:
            texts = filled(texts)
            while len(texts) > 1:
                pairs = zip(texts[::2], texts[1::2], strict=True)
                texts = [f"_stack({first}, {second})" for first, second in pairs]
            self.stacks[key] = self._name(texts[0], "columns", level)
        return self.stacks[key]

    def _block(self, whole: str, place: int, stack: Stack) -> str:
        return whole if stack.count == 1 else f"_block({whole}, {place}, {stack.count})"

    def _found(self, stacks: list[Stack], buffer: Buffer) -> list[str]:
        """What every stack of columns reads of the stored state and of the buffer."""
        found: list[str] = []
        for stack in stacks:
            whole = self._name(self._of_state(stack, buffer), "found", self.scope.tile)
            at_unit = stack.near == "K" and stack.at_unit
            level = self.scope.unit if at_unit else self.scope.tile
            self.scope.tile += self._of_buffer(stack, buffer, whole, level)
            found.append(whole)
        return found

    def _of_state(self, stack: Stack, buffer: Buffer) -> str:
        """The columns through the stored state, with what is left of that."""
        near, far = stack.near, "V" if stack.near == "K" else "K"
        columns = stack.buffered
        # a prompt reads the state as precisely as it is kept
        kept = self.form.spec.storage.state.rounds
        rounded = ", rough=True" if self.prompt and kept else ""
        if self._summed(near) and near in buffer.kept:
            columns = f"{columns} * {buffer.kept[near]}[None, :]"
        text = f"_dot({columns}, {'state' if near == 'K' else 'tl.trans(state)'}{rounded})"
        if "" in buffer.kept:
            text += f" * {buffer.kept['']}"
        if self._summed(far) and far in buffer.kept:
            text += f" * {buffer.kept[far]}[None, :]"
        return text

    def _of_buffer(self, stack: Stack, buffer: Buffer, whole: str, level: list[str]) -> list[str]:
        """The columns against a tile of places; scores are computed at `level`."""
        # beside a state that is read in 16 bits
        narrow = self.form.spec.storage.state.narrow and not self.records.exact
        rough = ", rough=True" if narrow else ""
        lines: list[str] = []
        for near_side, far_side, number in buffer.sides(stack.near):
            text = f"_dot({stack.buffered}, tl.trans({near_side}){rough})"
            if number:
                text += f" * {number}[None, :]"
            score = self._name(text, "score", level)
            weighted = f"{score} * {buffer.weight}[None, :]" if buffer.weight else score
            lines.append(f"{whole} += _dot({weighted}, {far_side}{rough})")
        return lines

    def _base(self, node: Node, text: str, buffer: Buffer, number: str | None) -> str:
        """One read of the window's tokens, without what the window itself writes."""
        far = node.axes.channels
        scales = ["tl.exp(path)[:, None]"] if self._summed("") else []
        if number:
            scales = [f"({number} * tl.exp(path))[:, None]" if scales else f"{number}[:, None]"]
        if self._summed(far):
            scales.append(self._since_start(far))
        if self.form.factored and far == "K":
            scales.append(buffer.kept["K"])
        wanted = (self.form.graph.names.get(node) or "read") + "_base"
        return self._name(" * ".join([text, *scales]), wanted, self.scope.tile)

    # -- writes

    def _solve(self, reads: dict[Node, Read]) -> None:
        """Substitution for writes that depend on reads; then what depends on them."""
        form, token, scope = self.form, self.token, self.scope
        self._known_sides()
        for carry in self.late_carries:
            scope.tile += self._start(carry)
        self._fixed_scores(reads)
        unknown, linear = self.solved.unknown, self.solved.factors
        needed = [*unknown, *(carry.after for carry in self.late_carries)]
        if linear is not None:
            self._inverted(unknown[0], linear, reads)
        elif needed:
            for node in unknown:
                channel = self._side_channel(node)
                name = token.namer.new(token.name_of(node))
                self.sides[node] = Text(name, ATOM, "T" + channel)
                shape = f"[TOKENS, {self.shapes.extent(channel)}]"
                scope.tile.append(f"{name} = tl.zeros({shape}, tl.float32)")
            turn = self._turn()
            body: list[str] = []
            feeding = set(reachable(needed))
            for read in reads.values():
                if read.node in feeding:
                    body += self._full(read, turn)
            turn.emit(needed)
            body += turn.take()
            body += [self._move(carry, turn.known[carry.after]) for carry in self.late_carries]
            body.append("ready = real_token & (depth <= turn)")
            for node in unknown:
                known = self.sides[node]
                value = self._spread(turn.clean(node), known.dims)
                body.append(f"{known.text} = tl.where(ready[:, None], {value}, 0.0)")
            scope.tile.append("depth = tl.sum(ancestors.to(tl.int32), 1)")
            scope.tile += loop("for turn in range(TOKENS):", body)
            for node in unknown:
                token.known[node] = self.sides[node]
        left = [node for node in reachable(self.roots, set(token.known)) if node.op == "read"]
        for node in left:
            scope.tile += self._full(reads[node], token)
        token.emit(self.roots)
        scope.tile += token.take()
        scope.output = self._spread(token.known[form.output], "TV")

    def _inverted(self, node: Node, linear: dict[Node, Node], reads: dict[Node, Read]) -> None:
        """The write of every token at once, by the inverse of a triangle of T x T."""
        token, lines = self.token, self.scope.tile
        index = [write.d for write in self.form.writes].index(node)
        terms: list[str] = []
        for read, factor in linear.items():
            (times,) = token.emit([factor])
            lines += token.take()
            scores = reads[read].scores[index]
            column = aligned(times, "TK").text if times.dims else times.inside(2)
            terms.append(scores if times.text == "1.0" else f"{column} * {scores}")
        # what fills the window up may be no number at all
        lower = self._name(self._real(" + ".join(terms)), "lower", lines)
        inverse = self._name(f"_inverse({lower}, token, TOKENS)", "inverse", lines)
        alone = self._turn()
        alone.suffix = "_alone"
        # other writes of its ancestors are known, and belong to what it reads
        for read in linear:
            lines += self._full(reads[read], alone, but=index)
        alone.emit([node])
        lines += alone.take()
        value = self._real(self._spread(alone.clean(node), "TV"))
        wanted = self.token.name_of(node)
        name = self._name(f"_dot({inverse}, {value})", wanted, lines)
        self.sides[node] = token.known[node] = Text(name, ATOM, "TV")

    def _known_sides(self) -> None:
        """The sides of writes that need no read, as the window's own products take them."""
        pairs = zip(self.form.keys, self.form.writes, strict=True)
        for node in dict.fromkeys(side for key, write in pairs for side in (key, write.d)):
            if node in self.late or node in self.given:
                continue
            level = self.scope.unit if node in self.unit else self.scope.tile
            dims = "T" + self._side_channel(node)
            text = self._spread(self.token.clean(node), dims)
            name = self._name(self._real(text), "writes", level)
            self.sides[node] = Text(name, ATOM, dims)

    def _side_channel(self, node: Node) -> str:
        return "K" if node in self.form.keys else "V"

    def _fixed_scores(self, reads: dict[Node, Read]) -> None:
        """Scores against writes whose near side needs no read."""
        for read in reads.values():
            for index, (near_node, _) in enumerate(self._near_far(read)):
                if near_node in self.late:
                    continue
                at_unit = read.stack.at_unit and near_node in self.unit
                level = self.scope.unit if at_unit else self.scope.tile
                if self._summed(read.stack.near):
                    text = self._score(read, near_node)
                else:
                    near, number = self._near_side(near_node)
                    products = self._products(read.stack.asked, near, level)
                    text = self._block(products, read.place, read.stack)
                    if read.side.number:
                        text += f" * {read.side.number}[:, None]"
                    if number:
                        text += f" * {number}[None, :]"
                if not text.isidentifier():
                    text = self._name(text, "scores", level)
                read.scores[index] = self._name(self._weighted(text), "scores", self.scope.tile)

    def _near_side(self, node: Node) -> tuple[str, str | None]:
        """A write's side where columns meet it, and the number that it is still to be times."""
        if node in self.given:
            raw, scale = self.given[node]
            return self.given_at[raw], self._number(node, scale)
        return self.sides[node].text, None

    def _near_far(self, read: Read) -> list[tuple[Node, Node]]:
        pairs = []
        for key, write in zip(self.form.keys, self.form.writes, strict=True):
            pairs.append((key, write.d) if read.stack.near == "K" else (write.d, key))
        return pairs

    def _score(self, read: Read, near_node: Node) -> str:
        """Scores against one write: of channels that decay, or of a side known late."""
        near = self.sides[near_node].text
        if self._summed(read.stack.near):
            return self._decayed("scores", read.side.asked, near, read.stack.near)
        score = f"_dot({read.side.asked}, tl.trans({near}))"
        return f"{score} * {read.side.number}[:, None]" if read.side.number else score

    def _weighted(self, score: str) -> str:
        if self._summed(""):
            return f"tl.where(ancestors, {score} * weights, 0.0)"
        return f"tl.where(ancestors, {score}, 0.0)"

    def _full(self, read: Read, scope: Emission, but: int = -1) -> list[str]:
        """The read with what the ancestors have written, in all writes or in all but one."""
        wanted = (self.form.graph.names.get(read.node) or "read") + scope.suffix
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
            if self._summed(read.far):
                mixed = self._decayed("mix", score, values, read.far)
            else:
                mixed = f"_dot({score}, {values})"
            if self.form.factored and read.far == "K":
                mixed += f" * tl.exp({self.token.known[self.form.factored.before].text})"
            lines.append(f"{name} += {mixed}")
        scope.known[read.node] = Text(name, ATOM, "T" + read.far)
        return lines

    # -- what the window leaves

    def _stores(self) -> None:
        if not self.recorded:
            return
        form, scope, token = self.form, self.scope, self.token
        for stored in self.records.stored:
            node, channel = stored.node, stored.channel
            at_unit = node in self.unit
            address = self._record_spot(stored)
            value = self._spread(token.known[node], "T" + channel)
            level = scope.unit_stores if at_unit else scope.tile_stores
            level.append(Spread(address, value, self._mask(node, at_unit)))
        for carry in form.carries:
            channel = carry.axes.channels
            at_unit = carry.after in self.unit and same_head(carry.axes.head, self.per_head)
            value = self._spread(token.known[carry.after], "T" + channel)
            level = scope.unit_stores if at_unit else scope.tile_stores
            address = carried_address(form, carry.tensor.name, self.next, tokens="T")
            level.append(Spread(address, value, self._mask(carry.before, at_unit)))

    def _record_spot(self, stored: Stored) -> str:
        """Where the window's tokens leave a record."""
        channel = stored.channel
        spot = "spot[:, None]" if channel else "spot"
        address = f"{local(stored.name)}_at + {spot}"
        if channel:
            address += f" * {self.shapes.size(channel)} + {self.shapes.index(channel)}[None, :]"
        return address

    def _mask(self, node: Node, at_unit: bool) -> str:
        channel = node.axes.channels
        chosen = guards(self.form, node, self.shapes, self.per_head, at_unit)
        real = [g for g in chosen if g.startswith("real_")]
        programs = [g for g in chosen if not g.startswith("real_")]
        mask = mask_of(programs, ["fits"])
        if not channel:
            return mask
        lane = f" & {real[0]}[None, :]" if real else ""
        return f"({mask})[:, None]{lane}" if programs else f"fits[:, None]{lane}"

    def _update(self) -> None:
        """The state tile and the carried states after a block."""
        form, token, lines = self.form, self.token, self.scope.after
        for channel in ("", "K", "V"):
            decay = form.decay(channel)
            if decay is None:
                continue
            log, rest, lasting = LOG[channel], REST[channel], LASTING[channel]
            raised = form.factored and channel == "K"
            if not channel:
                lines.append(f"real_log = tl.where(real_token, {log}, 0.0)")
                log = "real_log"
            blocks = self._in_blocks(channel)
            if not blocks:
                lines.append(f"{lasting} = tl.exp(tl.sum({log}, 0))")
            if raised:
                continue
            if channel and not blocks:
                lines.append(f"{rest} = tl.exp(_dot(later.to(tl.float32), {log}))")
            elif not channel:
                lines.append(f"{rest} = tl.exp(_along(later, {log}))")
            scaled = {"": lasting, "K": f"{lasting}[:, None]", "V": f"{lasting}[None, :]"}[channel]
            lines.append(f"state = state * {scaled}")
        terms = []
        for key, write in zip(form.keys, form.writes, strict=True):
            w, number = self._near_side(key)
            d = self.sides[write.d].text
            if number:
                d = self._real(f"{d} * {number}[:, None]")
            if self._summed("K"):
                w = f"{w} * rest_key"
            if self._summed("V"):
                d = f"{d} * rest_value"
            if self._summed(""):
                d = f"{d} * rest[:, None]"
            terms.append(f"state += _dot(tl.trans({w}), {d})")
        lines += terms
        if form.factored:
            # raised keys lack the block's whole decay, as the state does
            lines.append("state = state * lasting_key[:, None]")
        for carry in form.carries:
            channel = carry.axes.channels
            name = self._context(carry)
            value = self._spread(token.known[carry.after], "T" + channel)
            chosen = "last[:, None]" if channel else "last"
            lines.append(f"{name} = tl.sum(tl.where({chosen}, {value}, 0.0), 0)")

    # -- texts

    def _spread(self, text: Text, dims: str) -> str:
        """The value with all of `dims`, which begin with T."""
        if text.dims == dims:
            return text.text
        shape = "[TOKENS]" if dims == "T" else f"[TOKENS, {self.shapes.extent(dims[1:])}]"
        inner = aligned(text, dims)
        return f"{inner.inside(1)} + tl.zeros({shape}, tl.float32)"

    def _real(self, text: str) -> str:
        """Zeros for the tokens that only fill the tile up."""
        return f"tl.where(real_token[:, None], {text}, 0.0)"

    def _name(self, text: str, wanted: str, level: list[str]) -> str:
        name = self.token.namer.new(wanted)
        level.append(f"{name} = {text}")
        return name

    def _named(self, text: Text, dims: str, wanted: str, level: list[str]) -> str:
        whole = self._spread(text, dims)
        return whole if whole.isidentifier() else self._name(whole, wanted, level)
