"""The kernels of modules through Triton's front end, for an H100.

As a script: python tests/support/lowering.py REQUEST
REQUEST is JSON: {"batch", "modules": {name: path}, "kernels": [] for all, "configs": {kernel:
{knob: value}}, "ptx": whether to go on to assembly}. Every program has a line of JSON: {"name",
"kernel", "config", "error", "rounded", "narrow", "unmet"}, where rounded are the dots of float32
that keep ten bits of them, narrow the strides that are multiplied in 32 bits, and unmet what may be
written before all threads have read it. In a process of its own, as the tests' have the
interpreter.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import addressing
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler.compiler import make_backend
from triton.runtime.jit import JITFunction

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


def main() -> None:
    request = json.loads(sys.argv[1])
    last = "ptx" if request.get("ptx") else "ttir"
    known: set[str] = set()
    known_as = {kernel.name: kernel for kernel in KERNELS}
    for name, path in request["modules"].items():
        module = imported(Path(path))
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
            answer = {"name": name, "kernel": launch.kernel, "config": launch.config}
            answer |= {"error": None, "rounded": [], "narrow": [], "unmet": []}
            try:
                texts = lowered(launch, last)
                answer["rounded"] = rounded(texts["ttir"])
                answer["narrow"] = addressing.narrow(texts["ttir"])
                answer["unmet"] = addressing.unmet(texts["ttir"], planes(launch))
                if "ptx" in texts:
                    answer["narrow"] += addressing.narrow_in_ptx(texts["ptx"], strides(launch))
            except Exception as error:
                answer["error"] = f"{type(error).__name__}: {error}"
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
