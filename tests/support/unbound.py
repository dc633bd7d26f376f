"""Names that a kernel of a module uses before it has given them a value."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable


def unbound(module_text: str) -> list[str]:
    """As in "_verify_kernel: decay_sum (954)", with the line, for all kernels and their helpers.

    A branch's values count as given behind it: it is a constant that chooses one.
    """
    tree = ast.parse(module_text)
    known = set(dir(builtins)) | _given(tree.body)
    found: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and _is_compiled(node):
            reader = _Reader(node.name, known | {each.arg for each in node.args.args}, found)
            reader.block(node.body)
    return found


def _is_compiled(function: ast.FunctionDef) -> bool:
    return any(ast.unparse(each).startswith("triton.jit") for each in function.decorator_list)


def _given(body: Iterable[ast.stmt]) -> set[str]:
    """What the module's own level names."""
    found: set[str] = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {each.asname or each.name.partition(".")[0] for each in node.names}
        else:
            found |= _names(node, ast.Store)
    return found


def _names(node: ast.AST, context: type[ast.expr_context]) -> set[str]:
    return {
        each.id
        for each in ast.walk(node)
        if isinstance(each, ast.Name) and isinstance(each.ctx, context)
    }


class _Reader:
    def __init__(self, function: str, given: set[str], found: list[str]) -> None:
        self.function, self.given, self.found = function, given, found

    def block(self, body: Iterable[ast.stmt]) -> None:
        for node in body:
            match node:
                case ast.If() | ast.While():
                    self.use(node.test)
                    self.branches(node.body, node.orelse)
                case ast.For():
                    self.use(node.iter)
                    self.given |= _names(node.target, ast.Store)
                    self.block(node.body)
                case ast.AugAssign():
                    self.use(node.value)
                    self.wanted({ast.unparse(node.target)}, node)
                case _:
                    self.use(node)
                    self.given |= _names(node, ast.Store)

    def branches(self, *bodies: Iterable[ast.stmt]) -> None:
        before, after = self.given, set(self.given)
        for body in bodies:
            self.given = set(before)
            self.block(body)
            after |= self.given
        self.given = after

    def use(self, node: ast.AST) -> None:
        self.wanted(_names(node, ast.Load), node)

    def wanted(self, names: set[str], node: ast.AST) -> None:
        line = getattr(node, "lineno", 0)
        self.found += [f"{self.function}: {name} ({line})" for name in sorted(names - self.given)]
