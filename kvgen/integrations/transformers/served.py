"""The layers of a model that one module serves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any
from weakref import WeakSet

from kvgen.integrations.transformers.adapters import Adapter


@dataclass(eq=False)
class Served:
    """What such layers share, in all of the caller's caches.

    own: the model's module of Transformers. indices: the layers' places in a cache of Transformers,
    in the order of the model. buffer, window: of the module's caches. alive: the states of the
    caller's caches.
    """

    module: ModuleType
    adapter: Adapter
    own: ModuleType
    names: Sequence[str]
    indices: Sequence[int]
    state: str
    buffer: int
    window: int
    alive: WeakSet[Any] = field(default_factory=WeakSet)

    def __deepcopy__(self, memo: dict[int, Any]) -> Served:
        # nothing in here is a model's: a copied model is served by the same module
        return self

    @property
    def last(self) -> int:
        return len(self.indices) - 1
