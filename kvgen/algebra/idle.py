"""What stands in a spec and changes nothing: unused inputs, unread states, idle statements."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator
from dataclasses import replace

from kvgen.algebra.form import Form
from kvgen.algebra.graph import Node, leaf_of, reachable
from kvgen.diagnostics import Diagnostic, Span, warning
from kvgen.language.spec import Spec
from kvgen.language.syntax import Bin, Call, Expr, Index, Name, Neg, Stmt

# as many statements of one kind are said one by one
FEW = 3
# of lines as many are named
PARTS = 8
CALLED = {"input": "input", "param": "parameter"}


def warnings(form: Form) -> Iterator[Diagnostic]:
    """A warning for each of them, at its own place."""
    spec = form.spec
    for name, span in spec.idle_sizes:
        help = "leave it out, or name it in the axes of a tensor"
        yield warning("unused-size", f"the size '{name}' is never used", span, help)
    dead = list(idle(spec, form.unchanged))
    yield from _tensors(form, [statement for statement, _, _ in dead])
    yield from _states(form)
    yield from _grouped(list(_statements(dead)))


def _statements(dead: list[tuple[Stmt, Span | None, bool]]) -> Iterator[Diagnostic]:
    """A warning for each statement that `idle` finds."""
    for statement, next_one, unchanged in dead:
        name, span, notes = statement.target, statement.target_span, ()
        later = (each.value for each, _, _ in dead if each.target_span > span)
        if unchanged:
            message = "this statement assigns to a name what it holds"
            help = "leave it out"
        elif any(name in mentioned(value) for value in later):
            message = f"'{name}' is used only in what is itself never used"
            help = "leave it out with that"
        elif next_one in (None, span):
            message = f"'{name}' is assigned here and never used"
            help = "leave it out, or use it in what the output or a state is assigned"
        else:
            message = f"this value of '{name}' is never used"
            help = f"use '{name}' before it is assigned again, or choose another name"
            notes = ((f"'{name}' is assigned again", next_one),)
        yield warning("unused-value", message, span, help, notes)


def _grouped(found: list[Diagnostic]) -> Iterator[Diagnostic]:
    """Many that are alike but for the name as one: the first, which says where the others are."""
    kinds: dict[str, list[Diagnostic]] = {}
    for each in found:
        kinds.setdefault(re.sub("'[^']*'", "''", each.message), []).append(each)
    for alike in kinds.values():
        if len(alike) <= FEW:
            yield from alike
            continue
        first, *others = alike
        lines = sorted({each.span.line for each in others if each.span})
        more = f"{len(others)} more statements, of {_ranges(lines)}"
        yield replace(first, message=f"{first.message}; so it is with {more}")


def _ranges(lines: list[int]) -> str:
    """Numbers of lines in words: "lines 3 to 5, 9"; of many parts the first."""
    parts: list[tuple[int, int]] = []
    for line in lines:
        first, last = parts.pop() if parts and parts[-1][1] == line - 1 else (line, line - 1)
        parts.append((first, last + 1))
    texts = [str(a) if a == b else f"{a} to {b}" for a, b in parts]
    shown = ", ".join(texts[:PARTS]) + (", …" if len(texts) > PARTS else "")
    return f"{'line' if len(lines) == 1 else 'lines'} {shown}"


def _tensors(form: Form, dead: list[Stmt]) -> Iterator[Diagnostic]:
    """Inputs and parameters that nothing a token computes depends on."""
    used = {leaf_of(node) for node in reachable(form.whole)}
    names = {str(leaf.value) for leaf in used if leaf.op in CALLED}
    targets = {step.target: step.target_span for step in reversed(form.spec.steps)}
    for tensor in (*form.spec.inputs, *form.spec.params):
        if tensor.name in names:
            continue
        what, notes = CALLED[tensor.kind], ()
        help = f"leave it out: a caller would have to pass '{tensor.name}' for nothing"
        if any(tensor.name in mentioned(step.value) for step in dead):
            message = f"the {what} '{tensor.name}' is used only in what is itself never used"
        else:
            message = f"the {what} '{tensor.name}' is never used"
            if tensor.name in targets:
                notes = ((f"'{tensor.name}' is assigned", targets[tensor.name]),)
        yield warning(f"unused-{what}", message, tensor.span, help, notes)


def _states(form: Form) -> Iterator[Diagnostic]:
    """States on which no output depends, now or later, and a matrix that keeps nothing."""
    read = _read_states(form)
    name = form.state.name
    forgets = any(decay.log.bounds.hi == -math.inf for decay in form.decays)
    if forgets and not any(write.reads for write in form.writes):
        last = [step.target_span for step in form.spec.steps if step.target == name][-1]
        message = f"nothing of '{name}' outlives a token: what it held before is not in it"
        help = f"keep it with a decay: {name} = a * {name} + outer(k, v)"
        yield warning("forgotten-state", message, last, help)
        read.add(name)
    for tensor in form.spec.states:
        if tensor.name not in read:
            message = f"the state '{tensor.name}' is never read: no output depends on it"
            help = "leave it out, or read it on the way to 'o'"
            if tensor is form.state:
                help = f"read it on the way to 'o', as in o = q @ {tensor.name}"
            yield warning("unread-state", message, tensor.span, help)


def _read_states(form: Form) -> set[str]:
    """The states that the output depends on, by way of other states too."""
    roots: dict[str, list[Node]] = {carry.tensor.name: [carry.after] for carry in form.carries}
    roots[form.state.name] = [node for write in form.writes for node in (write.w, write.d)]
    roots[form.state.name] += [decay.log for decay in form.decays]
    found: set[str] = set()
    seen: set[Node] = set()
    pending = [form.result]
    while pending:
        nodes = reachable(pending, seen)
        seen.update(nodes)
        new = {str(node.value) for node in nodes if node.op in ("read", "carried")} - found
        found |= new
        pending = [node for name in sorted(new) for node in roots.get(name, [])]
    return found


def idle(spec: Spec, unchanged: Collection[int]) -> Iterator[tuple[Stmt, Span | None, bool]]:
    """The statements without effect in every turn of their loops, each with the place of what is
    assigned to its name instead and whether the name holds its value, in the order of the file.

    unchanged: the statements, by their number, whose values their names hold.
    """
    live = {"o", *(state.name for state in spec.states)}
    effective: set[Span] = set()
    assigned: dict[str, Span] = {}
    found: dict[Span, tuple[Stmt, Span | None, bool]] = {}
    for number, statement in reversed(list(enumerate(spec.steps))):
        name, span = statement.target, statement.target_span
        if name in live and number not in unchanged:
            effective.add(span)
            live = (live - {name}) | set(mentioned(statement.value))
        else:
            found[span] = (statement, assigned.get(name), number in unchanged)
        assigned[name] = span
    yield from (found[span] for span in sorted(found) if span not in effective)


def mentioned(expr: Expr) -> Iterator[str]:
    """The names in an expression."""
    pending: list[Expr] = [expr]
    while pending:
        match pending.pop():
            case Name(id=name):
                yield name
            case Neg(value=inner) | Index(base=inner):
                pending.append(inner)
            case Bin(left=left, right=right):
                pending += (left, right)
            case Call(args=args):
                pending += args
