"""The kernels of modules through Triton's front end, for an H100: python tests/lowering.py REQUEST

REQUEST is JSON: {"batch", "modules": {name: path}, "kernels": [] for all, "configs": {kernel:
{knob: value}}}. Every answer is a line of JSON: {"name", "kernel", "config", "error", "rounded"},
where rounded are the dots of float32 that keep ten bits of them. In a process of its own, as the
tests' have the interpreter.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler.compiler import make_backend

from kvgen.compiler import imported
from kvgen.probing.launches import Launch, record

TARGET = GPUTarget("cuda", 90, 32)


def lowered(launch: Launch) -> str:
    """Triton's own form of the program, as its rewriting leaves it."""
    backend = make_backend(TARGET)
    options = backend.parse_options(dict(launch.options))
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    source = ASTSource(launch.function, launch.signature, launch.constants, launch.attributes)
    stages: dict[str, object] = {}
    backend.add_stages(stages, options, source.language)
    made = source.make_ir(
        TARGET, options, backend.get_codegen_implementation(options), backend.get_module_map(),
        context,
    )  # fmt: skip
    return str(stages["ttir"](made, {}))  # type: ignore[operator]


def rounded(text: str) -> list[str]:
    dots = re.findall(r"tt\.dot .*inputPrecision = tf32 : .*", text)
    return [dot for dot in dots if re.search(r" : tensor<\w+xf32> \* ", dot)]


def main() -> None:
    request = json.loads(sys.argv[1])
    for name, path in request["modules"].items():
        module = imported(Path(path))
        for kernel, knobs in request.get("configs", {}).items():
            for config in module.CONFIGS["default"][kernel].values():
                config.update(knobs)
        for launch in record(module, "sm_90", TARGET, (request["batch"],)):
            if request["kernels"] and launch.kernel not in request["kernels"]:
                continue
            answer = {"name": name, "kernel": launch.kernel, "config": launch.config}
            try:
                answer |= {"error": None, "rounded": rounded(lowered(launch))}
            except Exception as error:
                answer |= {"error": f"{type(error).__name__}: {error}", "rounded": []}
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
