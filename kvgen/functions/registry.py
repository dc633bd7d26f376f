"""All functions of the language, found by their files: `exp.py` has the function EXP."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection

from kvgen import functions
from kvgen.functions.function import Function
from kvgen.values.node import Node


def _found() -> dict[str, Function]:
    found: list[Function] = []
    for module in pkgutil.iter_modules(functions.__path__):
        within = importlib.import_module(f"kvgen.functions.{module.name}")
        function = getattr(within, module.name.upper(), None)
        if isinstance(function, Function):
            found.append(function)
    found.sort(key=lambda each: (each.arity, each.reach, each.name))
    return {each.name: each for each in found}


# by name, those of one argument first
FUNCTIONS = _found()


def function_of(node: Node) -> Function | None:
    """The function whose value the node is."""
    return FUNCTIONS.get(node.op)


def reduces(node: Node) -> bool:
    """Whether the node is a sum over a channel."""
    function = function_of(node)
    return function is not None and function.reduces


def triton_helpers(names: Collection[str]) -> list[str]:
    """What the Triton text of these functions calls, once each, before what calls it."""
    wanted = [each for each in FUNCTIONS.values() if each.name in names]
    return list(dict.fromkeys(text for each in wanted for text in each.triton_helpers))


def torch_helpers(names: Collection[str]) -> list[str]:
    """The same of their torch text."""
    wanted = [each for each in FUNCTIONS.values() if each.name in names]
    return list(dict.fromkeys(text for each in wanted for text in each.torch_helpers))
