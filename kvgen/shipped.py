"""The specs that ship with kvgen, and what a SPEC argument stands for: a path or a shipped name."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kvgen.diagnostics import did_you_mean

if TYPE_CHECKING:
    from kvgen.language.spec import Spec

SPECS = Path(__file__).resolve().parent / "specs"

# `title: text` on one line: shipped specs keep to that, so that listing them needs no YAML library
LINE = re.compile(
    r"""^(title|source):[ ]+(?:"([^"\\]*)"|'([^']*)'|([^"'#\s].*?))[ ]*(?:[ ]#.*)?$""", re.MULTILINE
)


class UnknownSpec(LookupError):
    """SPEC is neither a file nor the name of a shipped spec."""


@dataclass(frozen=True)
class Shipped:
    """A shipped spec and what its author says of it."""

    name: str
    title: str
    source: str
    path: Path


def shipped() -> list[Shipped]:
    """Every shipped spec, by name."""
    return [_read(path) for path in sorted(SPECS.glob("*.yaml"))]


def argument(name: str) -> str:
    """What commands take for the spec of that name: of one that does not ship, its file."""
    return name if (SPECS / f"{name}.yaml").is_file() else f"{name}.yaml"


def command(verb: str, spec: Spec, *options: str) -> str:
    """A command for this recurrence as it was read, by its file and with what was overridden,
    to be copied into a shell."""
    path = Path(spec.path)
    if path.parent == SPECS:
        named = path.stem
    else:
        named = spec.path if path.is_file() else argument(spec.name)
    sets = (word for key, value in spec.overrides for word in ("--set", f"{key}={value}"))
    return shlex.join(["kvgen", verb, named, *options, *sets])


def resolve(spec: str) -> Path:
    """The file that SPEC stands for. A bare name is a shipped spec before it is a file."""
    names = [path.stem for path in SPECS.glob("*.yaml")]
    if spec in names:
        return SPECS / f"{spec}.yaml"
    path = Path(spec)
    # a name that is too long is that of no file, too
    if os.path.isfile(path):  # noqa: PTH113
        return path
    if os.path.isdir(path):  # noqa: PTH112
        raise UnknownSpec(f"{spec!r} is a folder, not a spec")
    if os.path.exists(path):  # noqa: PTH110
        raise UnknownSpec(f"{spec!r} is a pipe or a device, and a spec is a file")
    help = did_you_mean(path.stem, names) or "`kvgen list` shows the shipped specs"
    raise UnknownSpec(f"{spec!r} is neither a file nor a shipped spec: {help}")


def _read(path: Path) -> Shipped:
    found = {
        key: double or single or plain
        for key, double, single, plain in LINE.findall(path.read_text(encoding="utf-8"))
    }
    return Shipped(path.stem, found.get("title", ""), found.get("source", ""), path)
