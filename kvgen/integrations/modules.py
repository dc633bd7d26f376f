"""Modules that servers run: compiled at start, kept in the user's cache folder, shared by ranks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType

import kvgen
from kvgen import compiler, shipped
from kvgen.wisdom import places


def serving(
    name: str,
    sizes: Mapping[str, int],
    state: str,
    features: Iterable[str],
    path: Path | None = None,
    **overrides: object,
) -> ModuleType:
    """The module of a shipped spec at a model's sizes, imported.

    sizes: by axis. state: how states are stored, as `storage.state` has it. features: what it can
    do, as `kvgen.compile` has them. path: the file of a server's own variant of the spec.
    overrides: values by dotted path. The module's file is there whole or not at all, and is left
    alone where it holds the same text. Raises SpecError, of an unknown state too; NotTuned where
    KVGEN_REQUIRE_TUNED is 1 and nothing is; OSError, with what to set, where the cache folder
    cannot be written.
    """
    values = {
        **{f"sizes.{axis}": str(size) for axis, size in sizes.items()},
        "storage.state": state,
        **{key: str(value) for key, value in overrides.items()},
    }
    chosen = sorted(features)
    analysis = compiler.analyse(path or shipped.resolve(name), values)
    digest = hashlib.sha256(analysis.spec.text.encode()).hexdigest()[:12]
    what = "-".join((name, digest, *chosen))
    folder = places.cache_folder() / "modules" / kvgen.__version__
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = compiler.write(analysis, folder / f"{what}.py", None, chosen)
    except OSError as error:
        raise OSError(
            f"{folder}: {error.strerror or error}, expected a folder that modules can be written "
            f"to; {places.CACHE} names another"
        ) from error
    return compiler.imported(found)
