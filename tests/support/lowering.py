"""The kernels of modules through Triton's front end, for an H100.

As a script it is a child of kvgen.conversation. A request has "batch", "modules": {name: path},
"kernels": [] for all, "configs": {kernel: {knob: value}} and "ptx": whether to go on to assembly.
The answer's "programs" are {"name", "kernel", "config", "error", "rounded", "narrow", "unmet"},
where rounded are the dots of float32 that keep ten bits of them, narrow the strides that are
multiplied in 32 bits, and unmet what may be written before all threads have read it. In a process
of its own, as the tests' have the interpreter; one for many requests, for torch and Triton take as
long to be imported as a small module's kernels here.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import addressing
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, code_generator
from triton.compiler.compiler import make_backend
from triton.language import constexpr
from triton.runtime.jit import JITFunction

from kvgen import conversation
from kvgen.compiler import imported
from kvgen.kernels.registry import KERNELS
from kvgen.probing.launches import Launch, record

TARGET = GPUTarget("cuda", 90, 32)


def lowered(launch: Launch, last: str) -> dict[str, str]:
    """The program as each stage leaves it: `ttir`, Triton's own form, and so on to the last."""
    backend = make_backend(TARGET)
    options = backend.parse_options(dict(launch.options))
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    source = ASTSource(launch.function, launch.signature, launch.constants, launch.attributes)
    stages: dict[str, Callable[..., Any]] = {}
    backend.add_stages(stages, options, source.language)
    program = source.make_ir(
        TARGET, options, backend.get_codegen_implementation(options), backend.get_module_map(),
        context,
    )  # fmt: skip
    metadata: dict[str, Any] = {"target": TARGET, **vars(options)}
    texts: dict[str, str] = {}
    for stage, rewrite in stages.items():
        program = rewrite(program, metadata)
        texts[stage] = str(program)
        if stage == last:
            break
    return texts


def strides(launch: Launch) -> list[int]:
    """The numbers that the strides have among a program's parameters."""
    given = [name for name, kind in launch.signature.items() if kind != "constexpr"]
    return [
        number
        for number, name in enumerate(given)
        if launch.signature[name] == "i32" and name not in addressing.COUNTS
    ]


def planes(launch: Launch) -> tuple[str, ...]:
    """The pointers to a state that a kernel of one step brings up to date."""
    single = launch.kernel in ("recurrent", "extend", "short_extend")
    return tuple(
        n for n in launch.signature if single and re.fullmatch(r"S(_hi|_lo)?_cache_ptr", n)
    )


def rounded(text: str) -> list[str]:
    dots = re.findall(r"tt\.dot .*inputPrecision = tf32 : .*", text)
    return [dot for dot in dots if re.search(r" : tensor<\w+xf32> \* ", dot)]


# of a kernel's constants those that say how much there is of the same
SIZES = ("PLACES", "BUFFER", "STAGES")


def program(launch: Launch) -> str:
    """What decides on the lines of a launch's program in Triton's own form. What is known of an
    argument beside its type, such as that 16 divides it, comes in with assembly."""
    names = list(launch.signature)
    constants = {
        names[place]: value
        for (place, *_), value in launch.constants.items()
        if names[place] not in SIZES
    }
    return repr((launch.kernel, text(launch.function), launch.signature, constants))


def text(function: JITFunction[Any]) -> str:
    """A kernel with the functions that it calls; where in its module it stands says nothing."""
    called = (function.__globals__.get(name) for name in function.fn.__code__.co_names)
    return "".join(
        [function.src, *(text(each) for each in called if isinstance(each, JITFunction))]
    )


def exactly(launch: Launch) -> str:
    """All that is given to the front end with a launch, to find it again in another request."""
    rest = (globals_of(launch.function), launch.constants, launch.attributes, launch.options)
    return repr((program(launch), *rest))


def globals_of(function: JITFunction[Any]) -> list[tuple[str, str]]:
    """The numbers of its module that a kernel looks at, and those that it calls."""
    found: list[tuple[str, str]] = []
    for name in function.fn.__code__.co_names:
        value = function.__globals__.get(name)
        if isinstance(value, JITFunction):
            found += globals_of(value)
        elif isinstance(value, bool | int | float | str | constexpr):
            found.append((name, repr(value)))
    return found


def looked_at(launch: Launch, last: str) -> dict[str, Any]:
    """What is found of a launch's program."""
    answer: dict[str, Any] = {"error": None, "rounded": [], "narrow": [], "unmet": []}
    try:
        texts = lowered(launch, last)
        answer["rounded"] = rounded(texts["ttir"])
        answer["narrow"] = addressing.narrow(texts["ttir"])
        answer["unmet"] = addressing.unmet(texts["ttir"], planes(launch))
        if "ptx" in texts:
            answer["narrow"] += addressing.narrow_in_ptx(texts["ptx"], strides(launch))
    except Exception as error:
        answer["error"] = f"{type(error).__name__}: {error}"
    return answer


def answers(request: dict[str, Any], before: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """before: what requests have found so far, by all that their launches gave."""
    last = "ptx" if request.get("ptx") else "ttir"
    known: set[str] = set()
    known_as = {kernel.name: kernel for kernel in KERNELS}
    for name, path in request["modules"].items():
        module = imported(Path(path))
        # what is changed here of it is not for another request of the same text
        del sys.modules[module.__name__]
        for kernel in filter(None, map(known_as.get, request["kernels"])):
            # what would run in its place is not asked for
            module.CONFIGS["default"] = kernel.alone(module.CONFIGS["default"])
        for kernel, knobs in request.get("configs", {}).items():
            for config in module.CONFIGS["default"][kernel].values():
                config.update(knobs)
        for launch in record(module, "sm_90", TARGET, (request["batch"],)):
            if request["kernels"] and launch.kernel not in request["kernels"]:
                continue
            if last == "ttir":
                if program(launch) in known:
                    continue
                known.add(program(launch))
            given = f"{last} {exactly(launch)}"
            if given not in before:
                before[given] = looked_at(launch, last)
            yield {"name": name, "kernel": launch.kernel, "config": launch.config, **before[given]}


def without_ado() -> None:
    """The front end asks for the same functions' signatures at every call of them, and sets up
    Python's warnings anew at every node, which takes time and makes nothing."""
    signatures = types.ModuleType("inspect")
    vars(signatures).update(vars(inspect))
    of_functions = cache(inspect.signature)

    def signature(called: Any) -> inspect.Signature:
        return (of_functions if inspect.isfunction(called) else inspect.signature)(called)

    vars(signatures)["signature"] = signature
    silent = types.ModuleType("warnings")
    vars(silent).update(vars(warnings))
    vars(silent).update(catch_warnings=nullcontext, simplefilter=lambda *_: None)
    for name, value in (("inspect", signatures), ("warnings", silent)):
        if hasattr(code_generator, name):
            setattr(code_generator, name, value)


def main() -> None:
    stream = conversation.answers()
    without_ado()
    before: dict[str, dict[str, Any]] = {}
    for request in conversation.requests():
        found = {"id": request["id"], "programs": list(answers(request, before))}
        print(json.dumps(found), file=stream, flush=True)


if __name__ == "__main__":
    main()
