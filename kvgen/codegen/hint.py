"""The commands that a module names: what tunes it, what compiles more into it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from kvgen import shipped
from kvgen.language import spec as specs
from kvgen.language.spec import Spec


def command(spec: Spec, verb: str, *options: str) -> str:
    """A command on this recurrence, for whoever has the module alone: by what the completed spec
    says differently from the shipped one of its name, as a module hangs on nothing but that text.
    """
    original = _shipped(spec.name)
    sets: list[tuple[str, str]] = []
    if original is not None:
        before, now = _settings(original), _settings(spec)
        sets = [(key, value) for key, value in now.items() if before.get(key) != value]
    return shipped.command(verb, replace(spec, path="", overrides=tuple(sets)), *options)


@cache
def _shipped(name: str) -> Spec | None:
    if shipped.argument(name) != name:
        return None
    return specs.read(shipped.resolve(name))[0]


def _settings(spec: Spec) -> dict[str, str]:
    """What is overridden to make another recurrence or layout of a file, by its key."""
    storage = {f"storage.{key}": value for key, value in spec.storage.said.items()}
    sizes = {f"sizes.{key}": str(value) for key, value in spec.sizes}
    return sizes | storage | {"buffer": str(spec.buffer or "auto")}
