"""rounded(x): x as a bfloat16 holds it, as kernels of models round what they compute on the way"""

from __future__ import annotations

import struct

from kvgen.functions.function import Function
from kvgen.values import interval as iv

# of the bits, for Triton's interpreter has no casts that round; what is no number stays one
TRITON = """\
@triton.jit
def _rounded(x):
    bits = x.to(tl.int32, bitcast=True)
    bits += 0x7FFF + ((bits >> 16) & 1)
    return tl.where(x == x, (bits & -65536).to(tl.float32, bitcast=True), x)"""

TORCH = """\
def _plain_rounded(x):
    x = _plain(x)
    return x.to(torch.float32).to(torch.bfloat16).to(x.dtype)"""


def rounded(x: float) -> float:
    try:
        (bits,) = struct.unpack("<I", struct.pack("<f", x))
    except OverflowError:
        return float("inf") if x > 0 else -float("inf")
    if x != x:
        return x
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return struct.unpack("<f", struct.pack("<I", bits))[0]


ROUNDED = Function(
    name="rounded",
    value=rounded,
    bounds=iv.increasing(rounded),
    triton="_rounded({0})",
    triton_helpers=(TRITON,),
    slow=False,
    free=True,
    keeps_zero=True,
    torch_helpers=(TORCH,),
    tensor=lambda x: x.float().bfloat16().to(x.dtype),
)
