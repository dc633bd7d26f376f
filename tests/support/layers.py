"""Programs that layers of a model launch and that the tuner does not compile ahead.

A line for each recurrence, kernel and number of layers. In a process of its own, as the tests' have
the interpreter.
"""

from __future__ import annotations

from typing import Any

import torch
from triton.backends.compiler import GPUTarget

from kvgen import compiler
from kvgen.kernels.registry import named
from kvgen.probing import launches
from kvgen.probing.launches import Case, Launch
from kvgen.shipped import resolve
from kvgen.timing import rows
from kvgen.tuning import oracle, space
from kvgen.tuning.tune import make_job

TARGET = GPUTarget("cuda", 90, 32)
BUFFER, ROWS = 16, 4


def programs(found: list[Launch]) -> set[str]:
    return {
        repr((each.kernel, each.signature, each.constants, each.attributes, each.options))
        for each in found
    }


def main() -> None:
    # what results are checked on, and the rows of prompts, of many drafts and of whole steps
    sizes = ((oracle.LAYERS, 16), (rows.PROMPT_LAYERS, 16), (12, 256), (rows.LAYERS, 48))
    for name, heads in (("mlstm", 8), ("mlstm", 4), ("gated_deltanet", 8)):
        few = {"sizes.H": f"{heads}", "sizes.HV": f"{heads}"}
        analysis = compiler.analyse(resolve(name), few)
        module: Any = compiler.imported(make_job(analysis, few).module)
        for kernel in ("decode", "recurrent", "verify", "extend"):
            tokens = space.tokens_of(analysis, kernel)
            config = space.program_of(space.default(analysis, kernel, ROWS))
            case = Case(kernel, config, 16, 16, 36, BUFFER, tokens)
            compiled = programs(launches.launches_of(module, case, TARGET))
            configs = module.CONFIGS
            known = named(kernel).alone(configs["default"])
            module.CONFIGS = {"default": known | {kernel: {ROWS: config}}}
            for layers, slots in sizes:
                ran = launched(analysis, module, kernel, layers, slots, tokens)
                print(name, heads, kernel, layers, len(ran - compiled), "missing")
            module.CONFIGS = configs


def launched(
    analysis: compiler.Analysis, module: Any, kernel: str, layers: int, slots: int, tokens: int
) -> set[str]:
    """In all layers, one after the other."""
    spec = analysis.spec
    window = tokens if kernel == "verify" else 0
    front = (ROWS, tokens) if tokens > 1 else (ROWS,)
    with launches._recorded(TARGET) as recorder:
        cache = module.Cache.empty(slots, layers, device="meta", buffer=BUFFER, window=window)
        recorder.launches.clear()
        used = torch.empty(ROWS, dtype=torch.int32, device="meta")
        lengths = {"lengths": used.clone()} if kernel == "extend" else {}
        given = {
            **launches._empty(spec, spec.inputs, torch.bfloat16, *front),
            **launches._empty(spec, spec.params, torch.float32),
        }
        for layer in range(layers):
            getattr(module, kernel)(cache, layer, used, **given, **lengths)
        return programs(recorder.labelled())


if __name__ == "__main__":
    main()
