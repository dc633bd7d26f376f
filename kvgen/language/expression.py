"""One expression of Python's grammar -> the tree of `syntax`; everything else is refused."""

from __future__ import annotations

import ast
from collections.abc import Callable
from fractions import Fraction

from kvgen.diagnostics import Diagnostic, Span, did_you_mean, quote
from kvgen.functions.function import Function, Reach
from kvgen.functions.registry import FUNCTIONS
from kvgen.language import constants, foreign, habits, past
from kvgen.language.constants import Constant, Unusable
from kvgen.language.foreign import Foreign
from kvgen.language.lines import Line
from kvgen.language.namespace import Scope, integer
from kvgen.language.syntax import (
    IDENTITY,
    Bad,
    Bin,
    Call,
    Expr,
    Index,
    Name,
    Neg,
    Num,
    Operator,
)

_OPERATORS: dict[type[ast.operator], Operator] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.Pow: "**",
    ast.MatMult: "@",
}
# functions with a keyword
WITH_EPS = [each.name for each in FUNCTIONS.values() if each.eps is not None]


class Converter:
    """Converts the expressions of one logical line."""

    def __init__(self, line: Line, scope: Scope, report: Callable[[Diagnostic], None]) -> None:
        self.line = line
        self.scope = scope
        self.send = report

    def convert(self, node: ast.expr) -> Expr:
        """The tree of a whole right-hand side."""
        return self._convert(node)[0]

    def report(self, code: str, message: str, span: Span, help: str | None = None) -> Bad:
        self.send(Diagnostic(code, message, span, help))
        return Bad(span)

    def span(self, node: ast.expr | ast.keyword) -> Span:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self.line.span(
            node.lineno - 1, node.col_offset, node.end_lineno - 1, node.end_col_offset
        )

    def text(self, node: ast.expr) -> str:
        return " ".join((ast.get_source_segment(self.line.text, node) or "").split())

    def _convert(self, node: ast.expr) -> tuple[Expr, Constant | None]:
        """The tree, and its bound if it is made of numbers alone."""
        match node:
            case ast.Constant():
                return self._number(node)
            case ast.Name():
                return self._name(node)
            case ast.UnaryOp(op=ast.USub()):
                value, constant = self._convert(node.operand)
                negated = Constant(-constant.value, constant.bits) if constant else None
                return Neg(value, self.span(node)), negated
            case ast.UnaryOp(op=ast.UAdd()):
                return self._convert(node.operand)
            case ast.UnaryOp():
                sign = "not" if isinstance(node.op, ast.Not) else "~"
                message = f"'{sign}' has no place in an expression"
                return self.report("unsupported", message, self.span(node), habits.CHOICE), None
            case ast.BinOp():
                return self._binary(node)
            case ast.Call():
                return self._call(node), None
            case ast.Subscript():
                return self._index(node), None
            case ast.Attribute():
                return self._attribute(node), None
            case _:
                what, help = habits.PARTS.get(type(node), ("this", None))
                message = f"{what} has no place in an expression"
                return self.report("unsupported", message, self.span(node), help), None

    def _number(self, node: ast.Constant) -> tuple[Expr, Constant | None]:
        span, text = self.span(node), self.text(node)
        if isinstance(node.value, bool) or not isinstance(node.value, int | float):
            message = f"{quote(text)} is not a number of the language"
            return self.report("bad-number", message, span), None
        try:
            value = constants.literal(text)
        except Unusable as error:
            return self.report("bad-number", f"{quote(text)} {error}", span), None
        return Num(value, span), constants.of(value)

    def _name(self, node: ast.Name) -> tuple[Expr, Constant | None]:
        name, span, scope = node.id, self.span(node), self.scope
        if name in scope.loops:
            value = Fraction(scope.loops[name])
            return Num(value, span), constants.of(value)
        if name in scope.assigned or name in scope.tensors or name == IDENTITY:
            return Name(name, span), None
        if name in scope.sizes:
            return Name(name, span), constants.of(Fraction(scope.sizes[name]))
        if name in scope.broken:
            return Bad(span), None
        return self._unknown(name, span), None

    def _unknown(self, name: str, span: Span, otherwise: str | None = None) -> Bad:
        """otherwise: the help where a name stands for nothing that is known."""
        scope = self.scope
        if name in FUNCTIONS:
            arguments = ", ".join("xy"[: FUNCTIONS[name].arity])
            message = f"'{name}' is a function and needs its arguments"
            return self.report("unknown-name", message, span, f"write '{name}({arguments})'")
        if name in scope.later:
            help = f"it is assigned on line {scope.later[name]}, after its use"
            return self.report("unknown-name", f"'{name}' has no value yet", span, help)
        if name in scope.ended:
            help = "a loop variable ends with its loop"
            return self.report("unknown-name", f"unknown name '{name}'", span, help)
        help = habits.NUMBERS.get(name) or habits.NOTHING.get(name) or past.meant(scope, name)
        help = help or did_you_mean(name, scope.known()) or otherwise
        return self.report("unknown-name", f"unknown name {quote(name)}", span, help)

    def _binary(self, node: ast.BinOp) -> tuple[Expr, Constant | None]:
        operator = _OPERATORS.get(type(node.op))
        if operator is None:
            return self._foreign(node), None
        left, a = self._convert(node.left)
        right, b = self._convert(node.right)
        span = self.span(node)
        if operator == "**" and b and abs(b.value) > constants.MAX_EXPONENT:
            message = f"the exponent is larger than {constants.MAX_EXPONENT}"
            return self.report("bad-number", message, self.span(node.right)), None
        constant = None
        if operator == "/" and b and b.value == 0:
            return self.report("bad-number", "this divides by zero", self.span(node.right)), None
        if a and b and operator != "@":
            try:
                constant = constants.combine(operator, a, b)
            except Unusable as error:
                return self.report("bad-number", f"the constant {error}", span), None
        return Bin(operator, left, right, span), constant

    def _foreign(self, node: ast.BinOp) -> Bad:
        sign, help = habits.OPERATORS[type(node.op)]
        self._convert(node.left)
        if sign == "^" and self.text(node.right).split(" ")[0] == "T":
            help = habits.TRANSPOSE_HELP
            return self.report("unsupported", "nothing is transposed", self._sign(node, sign), help)
        self._convert(node.right)
        if help:
            sides = self._sides(node, sign)
            short = all(len(side) <= 40 for side in sides)
            help = foreign.filled(help, sides if short else ("x", "y"))
        message = f"'{sign}' is not an operator of the language"
        return self.report("bad-operator", message, self._sign(node, sign), help)

    def _sides(self, node: ast.BinOp, sign: str) -> list[str]:
        """What an author means to be the sides: '^' is a power to whom it binds less in Python."""
        sides: list[ast.expr] = [node.left, node.right]
        if sign == "^":
            while isinstance(sides[0], ast.BinOp | ast.UnaryOp) and not self._closed(sides[0]):
                each = sides[0]
                sides[0] = each.right if isinstance(each, ast.BinOp) else each.operand
            while isinstance(sides[1], ast.BinOp) and not self._opened(sides[1]):
                sides[1] = sides[1].left
        return [self.text(side) for side in sides]

    def _around(self, node: ast.expr) -> tuple[str, str]:
        """The line before and behind an expression."""
        rows = self.line.text.split("\n")
        assert node.end_lineno is not None and node.end_col_offset is not None
        before = [*rows[: node.lineno - 1], rows[node.lineno - 1][: node.col_offset]]
        after = [rows[node.end_lineno - 1][node.end_col_offset :], *rows[node.end_lineno :]]
        return " ".join(before).rstrip(), " ".join(after).lstrip()

    def _closed(self, node: ast.expr) -> bool:
        return self._around(node)[1].startswith(")")

    def _opened(self, node: ast.expr) -> bool:
        return self._around(node)[0].endswith("(")

    def _alone(self, node: ast.expr) -> bool:
        """Whether no operator stands beside the expression."""
        before, after = self._around(node)
        ended = not after or after.startswith((")", ","))
        return ended and before.endswith(("=", "(", ","))

    def _sign(self, node: ast.BinOp, sign: str) -> Span:
        """The operator itself, which stands somewhere between its sides."""
        rows = self.line.text.split("\n")
        left = node.left
        assert left.end_lineno is not None and left.end_col_offset is not None
        row, column = left.end_lineno - 1, left.end_col_offset
        while row < node.right.lineno:
            if (found := rows[row].find(sign, column)) >= 0:
                return self.line.span(row, found, row, found + len(sign))
            row, column = row + 1, 0
        return self.span(node)

    def _call(self, node: ast.Call) -> Expr:
        if not isinstance(node.func, ast.Name):
            return self._method(node)
        name, span = node.func.id, self.span(node.func)
        if name not in FUNCTIONS:
            return self._unknown_function(node, name, span)
        starred = [each for each in node.args if isinstance(each, ast.Starred)]
        if starred:
            return self.report("bad-call", "a star has no place in a call", self.span(starred[0]))
        args = tuple(self.convert(each) for each in node.args)
        function = FUNCTIONS[name]
        eps, fine = self._keywords(node, function)
        if not fine:
            return Bad(self.span(node))
        wanted = function.arity
        if not 0 <= len(args) - wanted <= function.optional:
            given = "1 argument" if wanted == 1 else f"{wanted} arguments"
            if function.optional:
                wanted += function.optional
                given = f"{function.arity} or {wanted} arguments"
            message = f"'{name}' takes {given}, {len(args)} given"
            help = function.usage or f"{name}({', '.join('xy'[: function.arity])})"
            if function.eps is not None and len(args) == 2:
                help = f"write 'eps={self.text(node.args[1])}'"
            where = self.span(node.args[wanted]) if len(args) > wanted else self.span(node)
            return self.report("bad-call", message, where, help)
        if function.reach is Reach.TOKENS:
            return past.convolution(self.scope, args, self.span(node), self.report)
        return Call(name, args, eps, self.span(node))

    def _keywords(self, node: ast.Call, function: Function) -> tuple[Fraction | None, bool]:
        """eps, and whether all keywords were as they should be."""
        eps, fine = None, True
        for keyword in node.keywords:
            span = self.span(keyword)
            if keyword.arg != "eps" or function.eps is None:
                fine = False
                what = f"'{keyword.arg}'" if keyword.arg else "'**'"
                help = function.usage or f"only {' and '.join(WITH_EPS)} take one, eps"
                self.report("bad-call", f"'{function.name}' takes no argument {what}", span, help)
                continue
            value = self.convert(keyword.value)
            if isinstance(value, Num):
                eps = value.value
            else:
                fine = False
                if not isinstance(value, Bad):
                    message, where = "eps is a number, 0 or more", self.span(keyword.value)
                    self.report("bad-call", message, where, "such as eps=1e-6")
        return eps, fine

    def _unknown_function(self, node: ast.Call, name: str, span: Span) -> Bad:
        arguments = self._arguments(node)
        scope = self.scope
        if name in scope.tensors or name in scope.assigned or name in scope.sizes:
            message = f"'{name}' is not a function"
            return self.report("unknown-function", message, span, f"write '{name} * (...)'")
        help = foreign.instead(self._foreign_call(node, name, arguments))
        help = help or foreign.slip(name) or "the functions are " + " ".join(FUNCTIONS)
        return self.report("unknown-function", f"unknown function {quote(name)}", span, help)

    def _arguments(self, node: ast.Call) -> list[str]:
        """The arguments' texts; what is wrong inside them is reported."""
        options = (each.value for each in node.keywords)
        values = [*node.args, *(each for each in options if not _is_switch(each))]
        for each in values:
            if not isinstance(each, ast.Starred):
                self._convert(each)
        return [self.text(each) for each in node.args]

    def _foreign_call(self, node: ast.Call, name: str, arguments: list[str]) -> Foreign:
        keywords = tuple((each.arg or "**", self.text(each.value)) for each in node.keywords)
        dotted = isinstance(node.func, ast.Attribute)
        return Foreign(name, tuple(arguments), keywords, dotted, self._alone(node))

    def _method(self, node: ast.Call) -> Bad:
        arguments = self._arguments(node)
        func = node.func
        if not isinstance(func, ast.Attribute):
            message = "only the functions of the language can be called"
            return self.report("unknown-function", message, self.span(func))
        root = func.value
        while isinstance(root, ast.Attribute):
            root = root.value
        module = (
            isinstance(root, ast.Name)
            and root.id in habits.MODULES
            and root.id not in self.scope.known()
        )
        if not module:
            self._convert(func.value)
            arguments = [self.text(func.value), *arguments]
        help = foreign.instead(self._foreign_call(node, func.attr, arguments))
        what = "a module" if module else "a method"
        where = self.span(func) if module else self._after(func)
        return self.report("unsupported", f"{what} has no place in an expression", where, help)

    def _after(self, node: ast.Attribute) -> Span:
        """`.name` of an attribute."""
        assert node.end_lineno is not None and node.end_col_offset is not None
        row, end = node.end_lineno - 1, node.end_col_offset
        start = end - len(node.attr)
        dot = self.line.text.split("\n")[row][start - 1 : start] == "."
        return self.line.span(row, start - dot, row, end)

    def _attribute(self, node: ast.Attribute) -> Bad:
        if node.attr in habits.TRANSPOSES:
            self._convert(node.value)
            message = f"'.{node.attr}' has no place here: axes carry names"
            help = habits.TRANSPOSE_HELP
            return self.report("unsupported", message, self._after(node), help)
        if isinstance(node.value, ast.Name) and node.value.id in habits.MODULES:
            message = "a module has no place in an expression"
            help = habits.NUMBERS.get(node.attr) or habits.NOTHING.get(node.attr)
            return self.report("unsupported", message, self.span(node), help)
        self._convert(node.value)
        message = "an attribute has no place in an expression"
        return self.report("unsupported", message, self._after(node))

    def _index(self, node: ast.Subscript) -> Expr:
        span, scope = self.span(node), self.scope
        place = integer(node.slice, {**scope.sizes, **scope.loops})
        if isinstance(node.value, ast.Name) and (place or 0) < 0:
            name = node.value.id
            if name in scope.later and name not in scope.known():
                message = f"'{name}' has no value yet, and no past as an input has"
                help = "a carried state keeps what the next token needs"
                return self.report("unknown-name", message, span, help)
        base = self.convert(node.value)
        if isinstance(node.slice, ast.Slice | ast.Tuple):
            what = "a slice" if isinstance(node.slice, ast.Slice) else "a list of indices"
            help = "one index, along the extra axis: k[i]"
            return self.report(
                "bad-index", f"{what} has no place here", self.span(node.slice), help
            )
        index = self._integer(node.slice, base)
        if index is None or isinstance(base, Bad):
            return Bad(span)
        if index < 0 and isinstance(node.value, ast.Name):
            name, where = Name(node.value.id, base.span), self.span(node.slice)
            return past.index(self.scope, name, index, span, where, self.report)
        if isinstance(base, Name) and base.id in self.scope.sizes:
            return self.report("bad-index", f"'{base.id}' is a size", span)
        if not isinstance(base, Name):
            help = "name it first, or index its parts"
            if index < 0:
                help = "take the past of the inputs in it, as in silu(x[-1])"
            return self.report("bad-index", "only a name can be indexed", span, help)
        if base.id in self.scope.assigned:
            # what a name has become is for the walk to know
            length = None
        elif (length := self.scope.extras.get(base.id)) is None:
            message = f"'{base.id}' has no extra axis to index"
            help = "heads and channels have no numbers"
            if base.id in self.scope.inputs:
                help += f"; '{base.id}' is this token's, '{base.id}[-1]' that of the one before"
            return self.report("bad-index", message, span, help)
        if length is not None and index >= length:
            have = f": '{base.id}' has {length}" if length is not None else ""
            message = f"the index {index} is out of range{have}"
            return self.report("bad-index", message, self.span(node.slice), "the first is 0")
        return Index(base, index, span)

    def _integer(self, node: ast.expr, base: Expr) -> int | None:
        """The value of integers, sizes and loop variables under + - *; None is reported. base: what
        is indexed."""
        scope = self.scope
        if (value := integer(node, {**scope.sizes, **scope.loops})) is not None:
            return value
        help = "such as x[0] or x[i + 1]"
        if isinstance(base, Name) and base.id in scope.inputs and not scope.extras.get(base.id):
            help = f"the token before is '{base.id}[-1]'"
        names = [each for each in ast.walk(node) if isinstance(each, ast.Name)]
        unknown = [each for each in names if each.id not in scope.known()]
        for each in unknown:
            self._unknown(each.id, self.span(each), help)
        if not unknown and not isinstance(self.convert(node), Bad):
            message = "an index is made of loop variables and integers"
            self.report("bad-index", message, self.span(node), help)
        return None


def _is_switch(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, bool)
