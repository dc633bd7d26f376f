"""Where things are kept: wisdom in front of, of, and behind the user; and what may be lost."""

from __future__ import annotations

import os
from pathlib import Path

# folders in front of the user's own, os.pathsep between them; the first is written to
WISDOM = "KVGEN_WISDOM"
# where trials and scratch files go
CACHE = "KVGEN_CACHE_DIR"
# set to 1, what runs on estimates is refused
REQUIRE = "KVGEN_REQUIRE_TUNED"


def named_folders() -> list[Path]:
    """Those that KVGEN_WISDOM names."""
    parts = os.environ.get(WISDOM, "").split(os.pathsep)
    return [Path(part).expanduser().absolute() for part in parts if part.strip()]


def user_folder() -> Path:
    from platformdirs import user_data_path

    return user_data_path("kvgen", appauthor=False) / "wisdom"


def cache_folder() -> Path:
    """Trials, scratch and locks; need not exist."""
    if named := os.environ.get(CACHE, "").strip():
        return Path(named).expanduser().absolute()
    from platformdirs import user_cache_path

    return user_cache_path("kvgen", appauthor=False)


def requires_tuned() -> bool:
    return os.environ.get(REQUIRE) == "1"
