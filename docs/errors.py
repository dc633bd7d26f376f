"""docs/errors.md: every diagnostic as it is printed for a spec of the test suite."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent / "tests"
BAD, WARNED, FORESEEN = TESTS / "bad", TESTS / "warned", TESTS / "foreseen"

HEAD = """\
# Errors and warnings

A spec with errors is refused with all of them at once; nothing is written and the exit status
is 1. Each has a code in brackets, the place with a caret under the smallest wrong thing, `= help`
with what to write instead, and `= note` where another place has a part in it. From Python they are
`kvgen.SpecError(…).diagnostics`; `--json` prints them for programs.

A warning says in the same words what will disappoint in a spec that compiles. `kvgen compile` and
`kvgen explain` print them on stderr, and go on; from Python those of a spec's text are a
`kvgen.SpecWarning`, those of what its module costs (`tests/foreseen`) are not said.

Below, every code as it is printed for a spec of the test suite (`tests/bad`, `tests/warned`,
`tests/foreseen`); `python docs/build.py` writes this page anew.
"""

GROUPS = {
    "The recurrence": (
        "What cannot be computed in one pass over the stored state, or is not a recurrence",
        "decay-read decay-separable decay-sign matrix-nonlinear missing-output no-write "
        "read-of-read state-not-updated state-twice",
    ),
    "Axes": (
        "Values whose axes do not fit",
        "axis-extra axis-index axis-mismatch",
    ),
    "Statements": (
        "The text of `step`",
        "bad-call bad-indent bad-index bad-loop bad-number bad-operator bad-step bad-syntax "
        "bad-target unknown-function unknown-name unsupported",
    ),
    "Declarations": (
        "Sizes, inputs, parameters, states and their names",
        "bad-axes bad-name bad-range bad-size bad-state duplicate-name reserved-name unknown-axis",
    ),
    "The file": (
        "YAML, its keys and their values",
        "bad-character bad-override bad-type bad-value bad-version bad-yaml duplicate-key "
        "missing-key unknown-key unreadable yaml-feature",
    ),
    # and what no group names
    "Limits": ("What would take a compiler or a GPU too long, and all else", ""),
    "Warnings": ("What compiles and will disappoint", ""),
}


# published recurrences, by the spec that shows what is said of them
REFUSED = {
    "Titans": "bad-state-titans",
    "Mamba-1": "bad-axes-mamba1",
    "Longhorn": "decay-separable-longhorn",
    "MesaNet": "bad-axes-mesanet",
    "Log-linear attention": "bad-state-log-linear",
    "Gated slot attention": "bad-state-slots",
    "DeltaFormer": "unknown-function-deltaformer",
    "Lattice": "matrix-nonlinear-lattice",
    "RWKV-4": "bad-state-rwkv4",
    "Decays of either sign": "decay-sign-signed",
}


def shown(folder: Path) -> dict[str, str]:
    """The first example of every code, of a spec that is named by it where there is one."""
    own: dict[str, str] = {}
    others: dict[str, str] = {}
    for path in sorted(folder.glob("*.txt"), key=lambda path: (len(path.stem), path.stem)):
        for code, block in blocks(path):
            (own if path.stem.startswith(code) else others).setdefault(code, block)
    return others | own


def blocks(path: Path) -> list[tuple[str, str]]:
    """Every diagnostic of a report, by its code."""
    found = []
    text = path.read_text(encoding="utf-8").rstrip()
    for block in re.split(r"\n\n(?=error\[|warning\[)", text):
        if code := re.match(r"(?:error|warning)\[([a-z-]+)\]", block):
            found.append((code[1], block.split("\n\n")[0]))
    return found


def page() -> str:
    """The text of the page: every code, by group."""
    examples, warned = shown(BAD), shown(WARNED) | shown(FORESEEN)
    grouped = {name: codes.split() for name, (_, codes) in GROUPS.items()}
    named = {code for codes in grouped.values() for code in codes}
    if unknown := named - set(examples):
        raise LookupError(f"no bad spec shows {', '.join(sorted(unknown))}")
    grouped["Limits"] += sorted(set(examples) - named)
    grouped["Warnings"] = sorted(warned)
    examples |= warned
    parts = [HEAD]
    for name, codes in grouped.items():
        parts.append(f"- **{name}**: {', '.join(f'[{code}](#{code})' for code in codes)}")
    for name, codes in grouped.items():
        parts.append(f"\n## {name}\n\n{GROUPS[name][0]}.")
        parts += [f"\n### {code}\n\n```\n{examples[code]}\n```" for code in codes]
    parts.append("\n## Recurrences that are refused\n\nAs their readers would write them.")
    for title, stem in REFUSED.items():
        report = "\n\n".join(block for _, block in blocks(BAD / f"{stem}.txt"))
        parts.append(f"\n### {title}\n\n```\n{report}\n```")
    return "\n".join(parts) + "\n"
