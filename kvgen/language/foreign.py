"""How the language says what a call of another library's function computes.

What is said must compute the same: an argument that has no part in it is named as left out.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass

from kvgen.diagnostics import did_you_mean
from kvgen.formats.dtypes import BFLOAT16
from kvgen.functions.registry import FUNCTIONS
from kvgen.language import habits
from kvgen.language.habits import ADVICE, CHOICES, NOTHING, OVER, PLAIN, SPELT, TRANSPOSES, WITH
from kvgen.language.syntax import IDENTITY

# an argument that is longer is shown as x
LONGEST = 40


@dataclass(frozen=True)
class Foreign:
    """A call as it stands, in texts.

    args: of a method, what it is called on first. dotted: whether a module or a value stands before
    the name. alone: whether no operator stands beside the call.
    """

    name: str
    args: tuple[str, ...]
    keywords: tuple[tuple[str, str], ...] = ()
    dotted: bool = False
    alone: bool = True


def instead(call: Foreign) -> str | None:
    """What to write instead, or why there is nothing."""
    # torch's own names of what is done in place
    name = call.name.rstrip("_") if call.dotted else call.name
    if name in NOTHING:
        given = (*call.args, *(value for _, value in call.keywords))
        rounds = any(BFLOAT16.name in each for each in given)
        return f"leave it out: {habits.ROUNDED if rounds else NOTHING[name]}"
    if name == IDENTITY and not call.dotted:
        return "write 'I' alone: its size is that of what it is multiplied with"
    if name in ("where", "select"):
        return habits.CHOICE
    if name in TRANSPOSES:
        return habits.TRANSPOSE_HELP
    if name in CHOICES:
        return _choice(call, *CHOICES[name])
    if name == "logsumexp" and len(call.args) == 2 and not _is_integer(call.args[1]):
        return _write(call, "logaddexp({0}, {1})", call.args)
    if name in ("clamp", "clip"):
        return _clamp(call)
    if name in ADVICE:
        shown = filled(ADVICE[name], [_short(each) for each in call.args[:1]] or ["x"])
        left = _left(call, name, 1) if name in SPELT else []
        return f"without {' and '.join(left)}: {shown}" if left else shown
    own = FUNCTIONS.get(name)
    more = own.elsewhere if own else WITH.get(name)
    if more:
        parameters, template = more
        given, left = _bound(call, name, parameters)
        if len(given) == len(parameters):
            return _write(call, template, [*call.args[:1], *given], left)
    if name in habits.FUNCTIONS:
        return _plain(call, name, habits.FUNCTIONS[name])
    if own:
        places = ", ".join(f"{{{at}}}" for at in range(own.arity))
        return _plain(call, name, f"{name}({places})")
    return None


def slip(name: str) -> str | None:
    """The function whose name may have been meant; with another digit it is another one."""
    if name in habits.NOWHERE:
        return None
    option = did_you_mean(name, FUNCTIONS)
    return option if option and _digits(name) <= _digits(option) else None


def _digits(text: str) -> set[str]:
    return {each for each in text if each.isdigit()}


def _plain(call: Foreign, name: str, template: str) -> str:
    places = 1 + max((int(each) for each in _PLACE.findall(template)), default=0)
    left = _left(call, name, places)
    given = call.args[:places]
    return _write(call, template, [*given, *"xy"[len(given) : places]], left)


def _write(call: Foreign, template: str, given: Sequence[str], left: Sequence[str] = ()) -> str:
    written = filled(template, [_short(each) for each in given])
    if not call.alone and not _whole(written):
        written = f"({written})"
    return f"without {' and '.join(left)} it is '{written}'" if left else f"write '{written}'"


def _choice(call: Foreign, name: str, what: str) -> str:
    """The largest or the least: of several values, or over an axis."""
    over = call.name not in ("max", "min") or any(key in PLAIN for key, _ in call.keywords)
    over = over or (call.dotted and any(_is_integer(each) for each in call.args[1:]))
    if over or len(call.args) < 2:
        return (
            f"nothing takes the {what} over K or V; '{name}(x, y)' is of two values, and takes "
            f"it over an extra axis in a loop: m = {name}(m, x[i])"
        )
    nested = _short(call.args[0])
    for each in call.args[1:4]:
        nested = f"{name}({nested}, {_short(each)})"
    return f"write '{nested}'"


def _clamp(call: Foreign) -> str:
    said = {key.removeprefix("a_"): text for key, text in call.keywords}
    ends = dict(zip(("min", "max"), call.args[1:3], strict=False)) | said
    low, high = (ends.get(each, "None") for each in ("min", "max"))
    if low == high == "None":
        low, high = "low", "high"
    value = call.args[0] if call.args else "x"
    if high == "None":
        return _write(call, "maximum({0}, {1})", [value, low])
    if low == "None":
        return _write(call, "minimum({0}, {1})", [value, high])
    return _write(call, "minimum(maximum({0}, {1}), {2})", [value, low, high])


def _bound(call: Foreign, name: str, parameters: Sequence[str]) -> tuple[list[str], list[str]]:
    """The values of parameters behind the first, as far as they are given; and what is left."""
    extra = [each for each in call.args[1:] if not _says_nothing(name, each)]
    if parameters == ("eps",) and not all(_is_number(each) for each in extra[:1]):
        parameters = ()
    values = dict(zip(parameters, extra, strict=False))
    left = extra[len(parameters) :]
    for key, text in call.keywords:
        if key in parameters and not _is_plain(key, text):
            values[key] = text
        elif not _is_plain(key, text):
            left.append(f"{key}={text}")
    return [values[each] for each in parameters if each in values], left


def _left(call: Foreign, name: str, places: int) -> list[str]:
    """Arguments that a template of so many places leaves out, and that may change the value."""
    left = [each for each in call.args[places:] if not _says_nothing(name, each)]
    left += [f"{key}={text}" for key, text in call.keywords if not _is_plain(key, text)]
    return [_short(each) for each in left]


def _is_plain(key: str, text: str) -> bool:
    texts = PLAIN.get(key, ())
    return texts is None or text in texts


def _says_nothing(name: str, text: str) -> bool:
    """Whether it is an axis, or a shape, that the function takes anyhow."""
    return text in OVER.get(name, ()) or ("norm" in name and text.startswith(("(", "[")))


def _is_number(text: str) -> bool:
    try:
        return float(text) >= 0
    except ValueError:
        return False


def _is_integer(text: str) -> bool:
    return re.fullmatch(r"-?\s*\d+", text) is not None


def _short(text: str) -> str:
    return text if len(text) <= LONGEST and "\n" not in text else "x"


# where an argument stands in a template
_PLACE = re.compile(r"(?<!\{)\{([0-2])\}")


def filled(template: str, arguments: Sequence[str]) -> str:
    """The template with its arguments, in brackets where its operators would part them."""

    def put(place: re.Match[str]) -> str:
        text = arguments[int(place[1])]
        before, after = template[: place.start()].rstrip(), template[place.end() :]
        alone = before.endswith(("(", ",", "eps=")) and after.startswith((")", ","))
        return text if alone or _whole(text) else f"({text})"

    return _PLACE.sub(put, template)


def _whole(text: str) -> bool:
    """Whether no operator beside it would take only a part of it."""
    try:
        node = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    plain = ast.Name | ast.Constant | ast.Call | ast.Subscript | ast.Attribute
    return isinstance(node, plain)
