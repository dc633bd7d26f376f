"""Libraries that SGLang imports and nothing here runs: each is there in name only."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence
from typing import Any, ClassVar

NAMES = (
    "aiohttp",
    "flashinfer",
    "gguf",
    "llguidance",
    "openai_harmony",
    "sentencepiece",
    "sgl_kernel",
    "torch_memory_saver",
    "torchvision",
    "tvm_ffi",
    "xgrammar",
)


class Kind(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Kind(name, (Nothing,), {})


class Nothing(metaclass=Kind):
    """What such a library has under any name: a class to inherit from, a decorator, a value."""

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def __init_subclass__(cls, **options: Any) -> None:
        pass

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.any_schema()


class Empty(types.ModuleType):
    __path__: ClassVar[list[str]] = []
    # Transformers asks
    __version__ = "0.27"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Kind(name, (Nothing,), {})


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.split(".")[0] not in NAMES:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return Empty(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def install() -> None:
    """Behind all others: what is installed is taken as it is."""
    sys.meta_path.append(Finder())
