"""Where kvgen's own data folders are: templates/ and tuned/."""

from __future__ import annotations

from pathlib import Path


def data_dir(name: str) -> Path:
    """Find the folder `name`: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for base in (package, package.parent):
        # the marker keeps a stranger's site-packages/templates from being taken for kvgen's
        if (base / name / "MANIFEST").is_file():
            return base / name
    raise FileNotFoundError(f"this installation of kvgen has no folder {name!r}: install it again")
