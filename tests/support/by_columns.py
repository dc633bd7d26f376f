"""What the tests of kernels that take tokens as columns go over: windows, and prompts in blocks."""

from __future__ import annotations

# decays that hang on tokens, on the head alone, or none; two reads or one; another key reads than
# writes, of a vector that is no input times a number; one of two writes that needs no read
OF_HEADS = [
    "comba", "deltanet", "efla", "gated_deltanet", "iplr", "lightning_attention", "mamba2",
    "mamba2_falcon", "olmo_hybrid", "retnet", "simple_gla",
]  # fmt: skip
# each key channel decays by itself
OF_CHANNELS = ["gated_deltanet2", "gla", "hgrn2", "kimi_delta_attention", "rodimus", "rwkv6"]
STORED = (
    "state=float32",
    "state=split records=input",
    "state=bfloat16 records=input",
    "state=float32 records=input layout=vk",
    "state=split records=bfloat16 layout=vk",
    "state=float16",
    "state=bfloat16",
)
# as tiles are, and not
SIZES = ({"K": 16, "V": 16}, {"K": 24, "V": 20})
