"""Where things are kept: wisdom in front of, of, and behind the user; and what may be lost."""

from __future__ import annotations

import os
from pathlib import Path

# folders in front of the user's own, os.pathsep between them; the first is written to
WISDOM = "KVGEN_WISDOM"
# where trials, scratch files and servers' modules go
CACHE = "KVGEN_CACHE_DIR"
# set to 1, what runs on estimates is refused
REQUIRE = "KVGEN_REQUIRE_TUNED"


class PlaceError(ValueError):
    """Where things are kept cannot be told: the environment names what is none."""


def named_folders() -> list[Path]:
    """Those that KVGEN_WISDOM names. Raises PlaceError."""
    parts = os.environ.get(WISDOM, "").split(os.pathsep)
    return [_place(part, WISDOM) for part in parts if part.strip()]


def user_folder() -> Path:
    """The user's own. Raises PlaceError where nobody knows the user's home."""
    from platformdirs import user_data_path

    return _home(user_data_path("kvgen", appauthor=False), WISDOM) / "wisdom"


def cache_folder() -> Path:
    """Trials, scratch, locks and servers' modules; need not exist. Raises PlaceError."""
    if named := os.environ.get(CACHE, "").strip():
        return _place(named, CACHE)
    from platformdirs import user_cache_path

    return _home(user_cache_path("kvgen", appauthor=False), CACHE)


def requires_tuned() -> bool:
    return os.environ.get(REQUIRE) == "1"


def _place(text: str, variable: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise PlaceError(f"{variable} names '{text}', and nobody knows that home") from None
    except OSError as error:
        text = f"{variable} names '{text}', and the working directory is gone"
        raise PlaceError(f"{text}: {error.strerror}") from None


def _home(path: Path, variable: str) -> Path:
    if path.parts[0] == "~":
        raise PlaceError(f"nobody knows the user's home: set HOME or {variable}")
    return path
