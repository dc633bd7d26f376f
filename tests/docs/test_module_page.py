"""docs/module.md: its code runs as it stands, and its signatures and names are a module's."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
import torch
from places import ROOT
from twins import made

from kvgen.codegen.features import ALL, USUAL
from tests.docs.test_pages import blocks, device, run

PAGE = ROOT / "docs" / "module.md"
# of `device`, a fixture of the other page's
__all__ = ["device"]

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="the pages are in the repository only")


def text() -> str:
    return PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""


def test_the_code_runs(device: str) -> None:
    scope: dict[str, Any] = {}
    for _, code in blocks("docs/module.md"):
        run(code, scope, device)
    torch._dynamo.reset()
    # of the two rows that came back elsewhere one has folded since
    assert scope["cache"].cursors.tolist() == [0, 0, 0, 0, 0, 0, 2, 0]
    assert scope["o"].isfinite().all()


def shown() -> list[tuple[str, str]]:
    """Every call with its arguments in the first column of a table or at the start of a line."""
    found = re.findall(r"^(?:\| )?`((?:Cache\.)?[a-z]+)\(([^`]*)\)`", text(), re.M)
    return [(name, " ".join(arguments.split())) for name, arguments in found]


@pytest.mark.parametrize(("name", "arguments"), shown())
def test_signatures_are_those_of_a_module(name: str, arguments: str) -> None:
    built = made("gated_deltanet")
    module, spec, name = built.module, built.analysis.spec, name.removeprefix("Cache.")
    owners = (module.Cache, module.Cache.paged, module)
    owner = next(owner for owner in owners if hasattr(owner, name))
    given = inspect.signature(getattr(owner, name)).parameters.values()
    wanted: list[str] = []
    for each in given:
        if each.kind is each.KEYWORD_ONLY and "*" not in wanted:
            wanted.append("*")
        default = "" if each.default is each.empty else f"={printed(each.default)}"
        stars = "**" if each.kind is each.VAR_KEYWORD else ""
        wanted.append(f"{stars}{each.name}{default}")
    if wanted[0] == "self":
        wanted.pop(0)
    inputs, params = (", ".join(x.name for x in xs) for xs in (spec.inputs, spec.params))
    assert arguments.replace("<inputs>", inputs).replace("<params>", params) == ", ".join(wanted)


def printed(default: Any) -> str:
    return f'"{default}"' if isinstance(default, str) else str(default)


def test_all_calls_are_shown() -> None:
    calls = "decode recurrent verify extend advance accept flush best reference reset load read"
    calls += " copy seek save restore reserve release Cache.empty Cache.layout Cache.wrap"
    assert {name for name, _ in shown()} == set(calls.split())


def test_what_a_module_says_of_itself_is_shown() -> None:
    module = made("gated_deltanet").module
    section = text().partition("## What a module says of itself")[2].partition("\n## ")[0]
    for name in re.findall(r"`([A-Z]+)`", section):
        assert hasattr(module, name)
    assert f"`{','.join(USUAL)}`" in text()
    assert all(f"| `{feature}` |" in text() for feature in ALL)
    cache = module.Cache.empty(2, device="cpu", dtype=torch.float32)
    row = next(line for line in text().splitlines() if line.startswith("| `slots`, `layers`, `h"))
    for name in re.findall(r"`(\w+)`", row):
        assert hasattr(cache, name)
