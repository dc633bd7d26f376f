"""The names a spec may use, and why the others are refused."""

from __future__ import annotations

import keyword
import re
import unicodedata

from kvgen.functions.registry import FUNCTIONS
from kvgen.language.syntax import IDENTITY

MAX_NAME = 64


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# arguments and locals of the generated module's calls, and what a cache itself keeps
RESERVED = _words("""
    cache layer slots out parents state counts path lengths starts device sizes
    rows heads config tiles each grid used strides like cursors skipped pending work
    pages state_pages stateful order
""")

# what a generated module imports, defines or calls
MODULE = _words("""
    Cache decode advance flush verify accept extend recurrent best reference
    decode_rows recurrent_rows verify_rows extend_rows check_shapes check_pasts
    SPEC FORM CONFIGS BUFFERS INPUTS PARAMS STATES SIZES FEATURES
    tl torch triton math os sys warnings np numpy kvgen
""")

# inputs and parameters whose pointers or strides, such as real_token, would be what kernels call
# values of their own
STRIDES = _words("left long real")

# builtins that a module or a kernel may call; abs and sum are functions of the language anyhow
BUILTINS = _words("""
    all any bool bytes callable dict dir enumerate eval exec filter float frozenset getattr
    globals hasattr id input int isinstance iter len list locals map max min next object open
    pow print property range repr reversed round set setattr slice sorted str super tuple type
    vars zip
""")

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def refusal(name: str) -> tuple[str, str, str | None] | None:
    """(code, message, help) if `name` cannot be the name of anything, else None."""
    if name.startswith("_"):
        return "reserved-name", f"'{name}' begins with an underscore", "such names are reserved"
    if not _NAME.fullmatch(name):
        help = spell(name) or "a letter, then letters, digits and underscores"
        return "bad-name", f"'{name}' is not a name", help
    if len(name) > MAX_NAME:
        return "bad-name", f"the name is longer than {MAX_NAME} characters", None
    if keyword.iskeyword(name):
        return "reserved-name", f"'{name}' is a keyword of Python", f"write '{name}_' or 'x_{name}'"
    if name == IDENTITY:
        return "reserved-name", f"'{name}' is the identity matrix", f"write '{name}_' or 'i'"
    if name in FUNCTIONS:
        message = f"'{name}' is a function of the language"
        return "reserved-name", message, f"write '{name}_' or 'x_{name}'"
    if name in RESERVED or name in MODULE:
        message = f"'{name}' is reserved for generated modules"
        return "reserved-name", message, f"write '{name}_' or 'x_{name}'"
    if name in BUILTINS:
        message = f"'{name}' is a builtin of Python"
        return "reserved-name", message, f"write '{name}_' or 'x_{name}'"
    return None


def spell(text: str) -> str | None:
    """How to write text with Greek letters in it."""
    if text.isascii():
        return None
    spelt = "".join(_letter(each) for each in text)
    return f"write '{spelt}'" if _NAME.fullmatch(spelt) else None


def _letter(each: str) -> str:
    if each.isascii():
        return each
    words = unicodedata.name(each, "").split()
    if words[:1] == ["GREEK"] and words[2:3] == ["LETTER"] and len(words) == 4:
        return words[3].lower() if words[1] == "SMALL" else words[3].capitalize()
    plain = unicodedata.normalize("NFKC", each)
    return plain if plain.isascii() else "?"
