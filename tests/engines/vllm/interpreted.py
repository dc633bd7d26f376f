"""vLLM's kernels for a GPU in Triton's interpreter, for layers that it has no others for.

vLLM leaves Triton alone on a CPU, and its kernels name some of Triton's functions in ways that the
interpreter does not see through. What is made up for here is theirs; kvgen's part for CUDA runs as
it is.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

# where vLLM's kernels are that layers of linear attention call
KERNELS = ("flash_linear_attention", "kimi_k3.nvidia.ops", "ops.causal_conv1d")
# Triton's functions that modules take under names of their own, which the interpreter does not
# put its own in place of
FUNCTIONS = ("exp", "exp2", "log", "log2", "gather", "make_tensor_descriptor")
# asks for CUTLASS when a model is made, to find that it is switched off
SWITCHED_OFF = "vllm.model_executor.kernels.linear.cute_dsl.gemm_rs_ar"


def prepare() -> None:
    """Before vLLM is imported."""
    import numpy
    import torch
    import triton.backends
    import triton.language as tl
    from triton.runtime import interpreter
    from triton.runtime.autotuner import Autotuner

    backends: Any = triton.backends.backends
    backends["cpu"] = types.SimpleNamespace(compiler=None, driver=Driver)

    def first(tuner: Any, *arguments: Any, config: Any, **options: Any) -> list[float]:
        return [0.0, 0.0, 0.0]

    Autotuner._bench = first  # pyright: ignore[reportAttributeAccessIssue]

    widen(interpreter, tl, numpy)
    # for such a CPU vLLM packs convolutions' weights as no kernel for a GPU reads them, and keeps
    # states in float32 whatever is asked for
    torch.cpu._is_avx512_bf16_supported = lambda: False
    sys.modules[SWITCHED_OFF] = absent = types.ModuleType(SWITCHED_OFF)
    absent.maybe_init_gemm_rs_ar = lambda *arguments, **options: False  # pyright: ignore


def widen(interpreter: Any, tl: Any, numpy: Any) -> None:
    """The interpreter computes with the bits of bfloat16 as if they were numbers: let it compute in
    float32, and round."""
    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    computing = {getattr(numpy, name) for name in ("add", "subtract", "multiply", "divide")}
    dot, binary = builder.create_dot, builder.binary_op

    def wide(value: Any) -> Any:
        return cast(value, tl.float32) if value.dtype.scalar == tl.bfloat16 else value

    def cast(value: Any, dtype: Any) -> Any:
        return builder.cast_impl(None, value, dtype)

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return dot(self, wide(a), wide(b), *rest)

    def binary_op(self: Any, lhs: Any, rhs: Any, op: Any) -> Any:
        if lhs.dtype.scalar != tl.bfloat16 or op not in computing:
            return binary(self, lhs, rhs, op)
        return cast(binary(self, wide(lhs), wide(rhs), op), tl.bfloat16)

    def get_bf16(self: Any, value: float) -> Any:
        return cast(handle(numpy.array([value], dtype=numpy.float32), tl.float32), tl.bfloat16)

    builder.create_dot, builder.binary_op, builder.get_bf16 = create_dot, binary_op, get_bf16


class Driver:
    """Of a device that vLLM finds Triton to compile for."""

    @staticmethod
    def is_active() -> bool:
        return True


def adapt() -> None:
    """vLLM is there, no layer is made yet. Layers of ours take their part for CUDA."""
    import triton.language as tl
    import vllm.model_executor.layers.mamba.gdn.kimi_gdn_linear_attn as kimi
    import vllm.third_party.flash_linear_attention.ops.chunk_delta_h as blocks

    from kvgen.integrations.vllm import delta, on_cuda

    # otherwise imported with the first such layer
    importlib.import_module("vllm.models.kimi_k3.nvidia.ops.third_party.kda")
    delta.own = on_cuda
    kimi.gather_initial_states = gathered  # pyright: ignore[reportPrivateImportUsage]
    blocks.range = numbers  # pyright: ignore[reportAttributeAccessIssue]
    found = {getattr(tl, name): looked_up(tl, name) for name in FUNCTIONS}
    for name, module in list(sys.modules.items()):
        if any(part in name for part in KERNELS):
            for own, value in list(vars(module).items()):
                if callable(value) and value in found:
                    setattr(module, own, found[value])


def looked_up(language: Any, name: str) -> Callable[..., Any]:
    """A function of Triton's, whichever it is when it is called."""
    return lambda *arguments, **options: getattr(language, name)(*arguments, **options)


def gathered(state: Any, rows: Any, resumed: Any) -> Any:
    """`gather_initial_states`, that asks for a GPU: zeros for rows that start."""
    found = state[rows.long()].contiguous()
    found[~resumed] = 0
    return found


class Number(int):
    """A loop's counter, which kernels take for a scalar of Triton's."""

    def to(self, dtype: Any) -> Number:
        return self


def numbers(*bounds: Any) -> Iterator[Number]:
    return map(Number, range(*bounds))
