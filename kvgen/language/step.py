"""The text of `step` -> statements with loops unrolled, and all that is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kvgen.diagnostics import Diagnostic
from kvgen.language.expression import Converter
from kvgen.language.lines import split
from kvgen.language.names import refusal
from kvgen.language.namespace import Scope
from kvgen.language.statements import Assign, Grower, Loop, Node
from kvgen.language.syntax import Bad, Expr, Stmt

MAX_STATEMENTS = 256
MAX_ALL_PARTS = 8192


@dataclass(frozen=True)
class Step:
    """What `step` says; `whole` if every line of it could at least be told apart."""

    statements: tuple[Stmt, ...]
    diagnostics: tuple[Diagnostic, ...]
    whole: bool


def read(block: list[tuple[int, int, str]], scope: Scope) -> Step:
    """The statements of the (line, column, text) rows of `step`."""
    found: list[Diagnostic] = []
    lines = split(block, found.append)
    grower = Grower(lines, scope, found)
    body = grower.body(lines[0].indent, 0) if lines else []
    for each in _assignments(body):
        scope.later.setdefault(each.target, each.line.number)
    once = not _small_enough(body, found)
    unrolled: list[Diagnostic] = []
    unroller = _Unroller(scope, unrolled, once)
    unroller.run(body)
    # one word on each place, though a loop passes it with many indices
    first = {(each.code, each.span): each for each in reversed(unrolled)}
    found += [each for each in unrolled if first[each.code, each.span] is each]
    return Step(tuple(unroller.statements), tuple(found), grower.whole and not once)


def _assignments(body: list[Node]) -> Iterator[Assign]:
    for node in body:
        if isinstance(node, Loop):
            yield from _assignments(node.body)
        else:
            yield node


def _size(body: list[Node]) -> tuple[int, int]:
    """How many statements and parts of expressions there are after unrolling."""
    statements = parts = 0
    for node in body:
        a, b = _size(node.body) if isinstance(node, Loop) else (1, node.parts)
        times = node.count if isinstance(node, Loop) else 1
        statements, parts = statements + times * a, parts + times * b
    return statements, parts


def _small_enough(body: list[Node], found: list[Diagnostic]) -> bool:
    statements, parts = _size(body)
    if statements <= MAX_STATEMENTS and parts <= MAX_ALL_PARTS:
        return True
    # at the largest of the top level, which is a loop or one statement too many
    worst = max(body, key=lambda node: _size([node]))
    worst = body[min(MAX_STATEMENTS, len(body) - 1)] if isinstance(worst, Assign) else worst
    have, limit, what = statements, MAX_STATEMENTS, "statements"
    if statements <= MAX_STATEMENTS:
        have, limit, what = parts, MAX_ALL_PARTS, "parts of expressions"
    message = f"step has {have} {what} after unrolling, at most {limit} are allowed"
    found.append(Diagnostic("too-many", message, worst.line.whole))
    return False


class _Unroller:
    """Runs through the loops and converts each statement as often as it stands."""

    def __init__(self, scope: Scope, found: list[Diagnostic], once: bool) -> None:
        self.scope = scope
        self.found = found
        self.once = once
        self.statements: list[Stmt] = []

    def run(self, body: list[Node]) -> None:
        for node in body:
            if isinstance(node, Loop):
                self._loop(node)
            else:
                self._statement(node)

    def _loop(self, loop: Loop) -> None:
        scope, name = self.scope, loop.variable
        taken = name in scope.tensors or name in scope.sizes or name in scope.broken
        # assigned in its own body, it is that assignment's mistake
        inside = any(each.target == name for each in _assignments(loop.body))
        taken = taken or (name in scope.later and not inside) or name in scope.loops
        if refused := refusal(name):
            self.found.append(Diagnostic(refused[0], refused[1], loop.variable_span, refused[2]))
        elif taken:
            message = f"the loop variable '{name}' is also the name of something else"
            help = "choose another name"
            self.found.append(Diagnostic("bad-loop", message, loop.variable_span, help))
        outer = scope.loops.get(name)
        for value in range(1 if self.once else loop.count):
            scope.loops[name] = value
            self.run(loop.body)
        if outer is None:
            scope.loops.pop(name, None)
            scope.ended.add(name)
        else:
            scope.loops[name] = outer

    def _statement(self, node: Assign) -> None:
        line, scope = node.line, self.scope
        value: Expr = Bad(line.whole)
        if node.value is not None:
            value = Converter(line, scope, self.found.append).convert(node.value)
        self._check_target(node)
        scope.assigned.add(node.target)
        loop = tuple(scope.loops.items())
        self.statements.append(
            Stmt(node.target, node.target_span, value, line.number, line.source, loop)
        )

    def _check_target(self, node: Assign) -> None:
        name, span, scope = node.target, node.target_span, self.scope
        refused = refusal(name)
        if name in scope.loops:
            refused = ("bad-target", f"'{name}' is the variable of this loop", None)
        elif name in scope.sizes:
            refused = ("bad-target", f"'{name}' is a size", "sizes do not change")
        if refused:
            self.found.append(Diagnostic(refused[0], refused[1], span, refused[2]))
