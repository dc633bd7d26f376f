"""No module of kvgen is long: one that has a single job is not."""

from __future__ import annotations

from places import ROOT

PACKAGE = ROOT / "kvgen"
MOST = 400


def test_no_module_is_long() -> None:
    lengths = {
        path.relative_to(PACKAGE).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in PACKAGE.rglob("*.py")
    }
    assert len(lengths) > 100
    assert not {name: length for name, length in lengths.items() if length > MOST}
