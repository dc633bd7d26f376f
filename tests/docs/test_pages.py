"""The code of README.md and docs/serving.md runs as it stands, and does what the pages say."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import ready
from places import ROOT

import kvgen
from kvgen import scaffold
from kvgen.shipped import resolve

SIZES = {"H": 1, "HV": 2, "K": 16, "V": 8}

pytestmark = pytest.mark.skipif(
    not (ROOT / "docs").is_dir(), reason="the pages are in the repository only"
)


def blocks(page: str) -> list[tuple[str, str]]:
    """Every block of Python with the heading above it."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found, heading = [], ""
    for match in re.finditer(r"^##+ ([^\n]*)$|^```python\n(.*?)^```$", text, re.M | re.S):
        if match[1]:
            heading = match[1]
        else:
            found.append((heading, match[2]))
    return found


def run(code: str, scope: dict[str, Any], device: str) -> None:
    # a graph is of a GPU's own making
    if "torch.cuda" in code and device == "cpu":
        code = code.partition("slots.fill_(-1)")[0]
    exec(code.replace('"cuda"', f'"{device}"'), scope)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    ready(request.param)
    monkeypatch.chdir(tmp_path)
    sizes = {f"sizes.{axis}": size for axis, size in SIZES.items()}
    module = kvgen.compile(resolve("gated_deltanet"), None, **sizes)
    monkeypatch.setitem(sys.modules, "gated_deltanet", module)
    torch.manual_seed(0)
    return request.param


# README.md ---------------------------------------------------------------------------------------


def test_readme(device: str) -> None:
    shapes = {"q": (1, 16), "k": (1, 16), "v": (2, 8), "a": (2,), "b": (2,)}
    scope: dict[str, Any] = {
        "slots": torch.tensor([4, 0, 255], dtype=torch.int32, device=device),
        **{name: torch.randn(3, *shape, device=device) for name, shape in shapes.items()},
        **{name: torch.randn(2, device=device) for name in ("A_log", "dt_bias")},
    }
    scaffold.write("mine", Path())
    for _, code in blocks("README.md"):
        run(code.replace("36", "2") if device == "cpu" else code, scope, device)
    assert scope["o"].isfinite().all()
    assert hasattr(scope["mine"], "decode")


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def headings(page: Path) -> set[str]:
    """What a page's headings are linked by."""
    found = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    plain = (re.sub(r"[^\w\- ]", "", each.lower()) for each in found)
    return {each.replace(" ", "-") for each in plain}


PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(
        r"^```.*?^```$|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.M | re.S
    )
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if "://" not in path:
            other = (page.parent / path).resolve() if path else page
            assert other.exists(), target
            assert not anchor or anchor in headings(other), target


def test_architecture_names_what_is_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)/` \| (.*) \|$", text, re.M)
    folders = {path.name for path in (ROOT / "kvgen").iterdir() if (path / "__init__.py").is_file()}
    assert {name for name, _ in rows} == folders | {"templates"}
    for folder, words in rows:
        for name in re.findall(r"`(\w+\.py)`", words):
            assert (ROOT / "kvgen" / folder / name).is_file(), f"{folder}/{name}"
        for name in re.findall(r"`(\w+)`", words) if folder == "templates" else []:
            assert list((ROOT / "templates").glob(f"{name}.*jinja")), name


# docs/serving.md ---------------------------------------------------------------------------------


class Page:
    """The page's scope, and the text that each of its three rows must have by then."""

    def __init__(self, device: str) -> None:
        if device == "cpu":
            os.environ["TRITON_INTERPRET"] = "1"
        from examples.speculative import Model, compiled

        sys.modules["gated_deltanet"] = compiled()
        self.device, self.model = device, Model(device)
        self.scope: dict[str, Any] = {"model": self.model, "drafter": self.drafter}
        self.blocks = blocks("docs/serving.md")
        self.texts: list[list[int]] = []

    def __getitem__(self, name: str) -> Any:
        return self.scope[name]

    def run(self, heading: str) -> None:
        """The page up to the end of a part."""
        while any(each == heading for each, _ in self.blocks):
            run(self.blocks.pop(0)[1], self.scope, self.device)

    def drafter(self, last: torch.Tensor, count: int) -> torch.Tensor:
        """What the model says, from copies of the rows; for a tree of six along nodes 2 and 5."""
        gdn, cache, slots = self["gdn"], self["cache"], self["slots"][-len(last) :]
        spare = torch.arange(50, 50 + len(last), dtype=torch.int32, device=self.device)
        cache.copy(slots, spare)
        right = []
        for _ in range(2):
            last = self.model(last, self["kernel"](gdn.decode, spare)).argmax(-1)
            gdn.advance(cache, spare)
            right.append(last)
        wrong = (right[0] + 1) % 24
        first, second = right
        if count == 6:
            # siblings differ, and no wrong one is right by chance
            third = (second + 1) % 24
            return torch.stack([wrong, first, wrong, third, second, third], 1)
        return torch.stack([first, second, wrong][:count], 1)

    def kept(self, tokens: torch.Tensor, keep: list[list[int]]) -> None:
        for text, row, nodes in zip(self.texts, tokens.tolist(), keep, strict=True):
            text += [row[node] for node in nodes]

    def agrees(self) -> None:
        """The rows' states are those of their texts, decoded one by one, and `last` is next."""
        gdn = self["gdn"]
        cache = gdn.Cache.empty(1, layers=2, device=self.device, dtype=torch.float32, buffer=4)
        slot = torch.zeros(1, dtype=torch.int32, device=self.device)
        for row, text in enumerate(self.texts):
            cache.reset(slot)
            logits = torch.empty(0)
            for token in text:
                fed = torch.tensor([token], device=self.device)
                logits = self.model(
                    fed, lambda layer, **given: gdn.decode(cache, layer, slot, **given)
                )
                gdn.advance(cache, slot)
            for layer in range(2):
                got = self["cache"].read(layer, self["slots"][row : row + 1])
                torch.testing.assert_close(got, cache.read(layer, slot), rtol=1e-4, atol=1e-5)
            assert int(logits.argmax()) == int(self["last"][row])


def test_serving(device: str) -> None:
    page = Page(device)
    page.run("Prompts")
    lengths = page["lengths"].tolist()
    page.texts = [
        row[:length] for row, length in zip(page["prompts"].tolist(), lengths, strict=True)
    ]
    page.agrees()

    before = page["last"]
    page.run("Tokens one by one")
    page.kept(before[:, None], [[0]] * 3)
    page.agrees()

    code = next(code for heading, code in page.blocks if heading == "Drafts in a chain")
    page.run("Drafts in a chain")
    assert "accept" in code and page["right"].tolist() == [2, 2, 2]
    # the last block of this part keeps nothing
    page.kept(page["tokens"], [[0, 1, 2]] * 3)
    page.agrees()

    page.run("Drafts in a tree")
    assert [row[:4] for row in page["path"].tolist()] == [[0, 2, 5, -1]] * 3
    page.kept(page["tokens"], [[0, 2, 5]] * 3)
    page.agrees()

    page.run("Kinds in one step")
    single, drafted = page["last"][0].item(), page["tokens"][:, 0].tolist()
    for text, token in zip(page.texts, [single, *drafted], strict=True):
        text.append(token)
    page.scope["last"] = torch.cat([page["single"], page["drafted"][:, 0]]).argmax(-1)
    page.agrees()

    page.run("A prefix cache")
    assert page["cache"].cursors[[40, 41]].tolist() == [0, 0]
    page.run("CUDA graphs")
    if device == "cuda":
        assert (page["last"] >= 0).all() and page["cache"].cursors[:10].max() > 0
    page.run("Memory")

    page.run("Short contexts")
    lengths, fed = page["lengths"].tolist(), page["last"].tolist()
    page.texts = [
        [*row[:length], token]
        for row, length, token in zip(page["prompts"].tolist(), lengths, fed, strict=True)
    ]
    page.scope["last"] = page["said"].argmax(-1)
    page.agrees()
    # the prompt of one is records, the other's is a state and one record
    cache, rows = page["cache"], page["slots"].long()
    assert cache.cursors[rows].tolist() == [7, 1]
    assert cache.tensors["stateful"][rows].tolist() == [0, 1]
    assert cache.free == {"pages": 2, "states": 1}
    with pytest.raises(MemoryError, match="states needed, 1 free"):
        cache.reserve([1, 2], 60)
    with pytest.raises(ValueError, match="without short_context"):
        page.model(page["last"], page["kernel"](page["gdn"].recurrent, page["slots"]))
    assert not page.blocks
