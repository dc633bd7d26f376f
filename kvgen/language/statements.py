"""The logical lines of `step` -> a tree of assignments and loops, not unrolled yet."""

from __future__ import annotations

import ast
import keyword
import re
import warnings
from dataclasses import dataclass, field

from kvgen.diagnostics import Diagnostic, Span
from kvgen.language.expression import Converter
from kvgen.language.lines import Line
from kvgen.language.namespace import Scope, integer

MAX_PARTS = 256
MAX_DEPTH = 64
MAX_LOOPS = 8

_WORD = re.compile(r"[A-Za-z_]\w*")
_TOKEN = re.compile(r"\w+|[^\w\s]+")
_TARGET = re.compile(r"([A-Za-z]\w*)\s*(?:\*\*|//|[-+*/@%&|^])?=(?!=)")
_LOOP_HELP = "write 'for i in range(N):', with a size or an integer"


@dataclass
class Assign:
    line: Line
    target: str
    target_span: Span
    # None where nothing could be read
    value: ast.expr | None
    parts: int = 1


@dataclass
class Loop:
    line: Line
    variable: str
    variable_span: Span
    count: int
    body: list[Node] = field(default_factory=list)


Node = Assign | Loop


class Grower:
    """Logical lines -> a tree; `whole` while no line of it was lost."""

    def __init__(self, lines: list[Line], scope: Scope, found: list[Diagnostic]) -> None:
        self.lines = lines
        self.scope = scope
        self.found = found
        self.at = 0
        self.whole = True

    def report(self, code: str, message: str, span: Span, help: str | None = None) -> None:
        self.found.append(Diagnostic(code, message, span, help))

    def body(self, indent: int, depth: int) -> list[Node]:
        out: list[Node] = []
        strayed = None
        while self.at < len(self.lines) and self.lines[self.at].indent >= indent:
            line = self.lines[self.at]
            self.at += 1
            if line.indent > indent and line.indent != strayed:
                message, help = "unexpected indentation", "align it with the line before"
                self.report("bad-indent", message, line.whole, help)
            strayed = line.indent if line.indent > indent else None
            out += self._node(line, depth)
        if depth == 0 and self.at < len(self.lines):
            line = self.lines[self.at]
            message, help = "the line begins left of the first", "align it with the first line"
            self.report("bad-indent", message, line.whole, help)
            out += self.body(line.indent, 0)
        return out

    def _node(self, line: Line, depth: int) -> list[Node]:
        first = _WORD.match(line.text)
        word = first[0] if first else ""
        if word == "for":
            return self._loop(line, depth)
        if keyword.iskeyword(word) and not line.bad:
            span = line.span(0, 0, 0, len(word))
            self.report("unsupported", f"'{word}' has no place in step", span, _keyword_help(word))
            self.whole = self.whole and word in ("return", "pass")
            self._skip(line)
            return []
        node = self._assign(line) or self._guess(line)
        return [node] if node else []

    def _skip(self, line: Line) -> None:
        """Pass over what belongs to a line that could not be understood."""
        while self.at < len(self.lines) and self.lines[self.at].indent > line.indent:
            self.at += 1

    def _guess(self, line: Line) -> Assign | None:
        """The target of a statement that is otherwise lost, so that its uses are not errors."""
        if found := _TARGET.match(line.text):
            return Assign(line, found[1], line.span(0, 0, 0, len(found[1])), None)
        self.whole = False
        return None

    def _parse(self, line: Line, text: str) -> ast.stmt | None:
        if line.bad:
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                statements = ast.parse(text).body
        except SyntaxError as error:
            self._syntax(line, error)
            return None
        except (RecursionError, MemoryError, ValueError):
            self.report("too-deep", "the expression nests too deep", line.whole, "name parts of it")
            return None
        if len(statements) != 1:
            message, help = "two statements on one line", "a statement a line"
            self.report("bad-syntax", message, line.whole, help)
            return None
        return statements[0]

    def _syntax(self, line: Line, error: SyntaxError) -> None:
        rows = line.text.split("\n")
        row = min(max((error.lineno or 1) - 1, 0), len(rows) - 1)
        column = min(max((error.offset or 1) - 1, 0), len(rows[row]))
        token = _TOKEN.match(rows[row], column)
        end = token.end() if token else column + 1
        if error.end_lineno == error.lineno and (error.end_offset or 0) - 1 > end:
            end = min((error.end_offset or 0) - 1, len(rows[row]))
        span = line.span(row, column, row, end)
        if "cannot assign" in error.msg:
            help = "write 'name = expression'"
            self.report("bad-target", "only a name can be assigned to", span, help)
        elif "forgot a comma" in error.msg:
            message, help = "an operator or a comma is missing", "a product is written 'x * y'"
            self.report("bad-syntax", message, span, help)
        elif "leading zeros" in error.msg:
            self.report("bad-syntax", "a number begins with 0", span, "write it without")
        elif "literal" in error.msg:
            help = "names begin with a letter, and a product is written '2 * K'"
            self.report("bad-syntax", "a number runs into a name", span, help)
        else:
            message = f"unexpected '{token[0]}'" if token else "the statement ends too early"
            self.report("bad-syntax", message, span)

    def _assign(self, line: Line) -> Assign | None:
        node = self._parse(line, line.text)
        if node is None:
            return None
        convert = Converter(line, self.scope, self.found.append)
        match node:
            case ast.Assign(targets=[ast.Name(id=name) as target], value=value):
                return self._measured(line, name, convert.span(target), value)
            case ast.Assign(targets=[ast.Subscript(value=base) as target]):
                help = f"write '{convert.text(base)} = ...', with the whole of it on the right"
                message = "a part of a name cannot be assigned to"
                self.report("bad-target", message, convert.span(target), help)
                return None
            case ast.Assign(targets=[target, *more]):
                what = "a chain of assignments" if more else "only a name can be assigned to"
                span = convert.span(more[0] if more else target)
                self.report("bad-target", what, span, "one name a statement")
                if isinstance(target, ast.Name):
                    return Assign(line, target.id, convert.span(target), None)
                self.whole = False
                return None
            case ast.AugAssign(target=target, value=value):
                name, text = convert.text(target), convert.text(value)
                sign = _sign(line, target)
                operator = line.text[sign[0] : sign[1] - 1]
                meant = {"^": "**", "//": "/"}.get(operator, operator)
                help = f"write '{name} = {name} {meant} {text}'"
                if meant != "+" and isinstance(value, ast.BinOp | ast.UnaryOp):
                    help = f"write '{name} = {name} {meant} ({text})'"
                help = help if len(help) < 100 else f"write '{name} = {name} {meant} ...'"
                help = f"nothing is rounded down: {help}" if operator == "//" else help
                help = None if operator in ("%", "&", "|", "<<", ">>") else help
                message = f"'{operator}=' is not an operator of the language"
                self.report("bad-operator", message, line.span(0, sign[0], 0, sign[1]), help)
                return None
            case ast.AnnAssign(annotation=annotation):
                message = "an annotation has no place in step"
                self.report("unsupported", message, convert.span(annotation), "axes are inferred")
                return None
            case ast.Expr(value=value):
                self._bare(line, value, convert)
                return None
        self.report("unsupported", "this statement has no place in step", line.whole)
        return None

    def _bare(self, line: Line, value: ast.expr, convert: Converter) -> None:
        message, help = "a statement assigns to a name", "write 'o = ...'"
        match value:
            case ast.Compare(left=ast.Name(id=name), ops=[ast.Eq()]):
                message, help = "'==' compares", f"write '{name} = ...'"
            case ast.Call(func=ast.Attribute()) | ast.Call(func=ast.Name(id="print")):
                message, help = "a call for its effect has no place in step", None
        self.report("bad-syntax", message, convert.span(value), help)

    def _measured(self, line: Line, name: str, span: Span, value: ast.expr) -> Assign:
        parts, depth = measure(value)
        if parts > MAX_PARTS:
            message = f"the expression has {parts} parts, at most {MAX_PARTS} are allowed"
            self.report("too-long", message, line.whole, "name some of them")
        elif depth > MAX_DEPTH:
            message = f"the expression nests deeper than {MAX_DEPTH}"
            self.report("too-deep", message, line.whole, "name parts of it")
        else:
            return Assign(line, name, span, value, parts)
        return Assign(line, name, span, None)

    def _loop(self, line: Line, depth: int) -> list[Node]:
        loop = self._header(line)
        nested = self.at < len(self.lines) and self.lines[self.at].indent > line.indent
        if not nested:
            if loop and not line.bad:
                self.report("bad-loop", "the loop has no body", line.whole, "indent it below")
            self.whole = False
            return []
        if depth == MAX_LOOPS:
            self.report("too-deep", f"loops nest deeper than {MAX_LOOPS}", line.whole)
            self._skip(line)
            return []
        body = self.body(self.lines[self.at].indent, depth + 1)
        if loop is None:
            self.whole = False
            return []
        loop.body = body
        # a loop of nothing would still take its turns
        return [loop] if body else []

    def _header(self, line: Line) -> Loop | None:
        """A loop with an empty body; None where not even the variable can be told."""
        text = line.text
        if not line.bad and not text.endswith(":"):
            shown, inside = line.source, text.rfind(":") > text.rfind(")") > 0
            message = "the body of a loop stands on its own lines" if inside else "':' is missing"
            help = None if inside or len(shown) > 60 else f"write '{shown}:'"
            self.report("bad-loop" if inside else "bad-syntax", message, line.whole, help)
            line.bad = True
        node = self._parse(line, text + " pass")
        if not isinstance(node, ast.For):
            found = re.match(r"for\s+([A-Za-z]\w*)\s+in\b", text)
            span = line.whole
            return Loop(line, found[1], span, 1) if found else None
        convert = Converter(line, self.scope, self.found.append)
        if not isinstance(node.target, ast.Name):
            message = "a loop has one variable"
            self.report("bad-loop", message, convert.span(node.target), _LOOP_HELP)
            return None
        loop = Loop(line, node.target.id, convert.span(node.target), 1)
        match node.iter:
            case ast.Call(func=ast.Name(id="range"), args=[argument], keywords=[]):
                count = integer(argument, self.scope.sizes)
                broken = isinstance(argument, ast.Name) and argument.id in self.scope.broken
                if count is not None and count >= 1:
                    loop.count = count
                elif not broken:
                    message = "the loop runs over no known number of turns"
                    if count is not None:
                        message = f"the loop runs {count} times"
                    elif isinstance(argument, ast.Constant):
                        message = "the loop runs too often"
                    self.report("bad-loop", message, convert.span(argument), _LOOP_HELP)
            case ast.Call(func=ast.Name(id="range")):
                message = "range takes one argument here"
                self.report("bad-loop", message, convert.span(node.iter), _LOOP_HELP)
            case _:
                message = "a loop runs over a range"
                self.report("bad-loop", message, convert.span(node.iter), _LOOP_HELP)
        return loop


def _keyword_help(word: str) -> str | None:
    if word in ("if", "elif", "else", "while"):
        return "nothing branches: maximum(x, y), minimum(x, y) or relu(x) can stand in for a choice"
    if word == "return":
        return "write 'o = ...'"
    if word in ("import", "from"):
        return "all functions of the language are at hand"
    return None


def _sign(line: Line, target: ast.expr) -> tuple[int, int]:
    """Where the operator of an augmented assignment stands in the first row."""
    start = target.end_col_offset or 0
    end = line.text.index("=", start) + 1
    while line.text[start] == " ":
        start += 1
    return start, end


def measure(node: ast.AST) -> tuple[int, int]:
    """How many parts an expression has and how deep they nest, without recursion."""
    parts, deepest, waiting = 0, 0, [(node, 1)]
    while waiting:
        each, depth = waiting.pop()
        if isinstance(each, ast.expr):
            parts += 1
            deepest = max(deepest, depth)
        waiting += [(child, depth + 1) for child in ast.iter_child_nodes(each)]
    return parts, deepest
