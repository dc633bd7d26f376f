"""What is known of a GPU: its configurations, and warnings where it has none of its own."""

from __future__ import annotations

import inspect
import math
import operator
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import triton  # pyright: ignore[reportMissingTypeStubs]

from kvgen.runtime.numbers import unknown
from kvgen.runtime.table import Table

device_properties: Any = operator.attrgetter("get_device_properties")(torch.cuda)
# bytes of shared memory that any GPU has for a program
LEAST_SHARED = 1 << 16
# GPUs, and dtypes on them, that the caller has been warned of
WARNED: list[object] = []


def compiled(table: Table) -> bool:
    """Whether kernels are compiled, not interpreted."""
    return isinstance(table.kernel("decode"), triton.JITFunction)


def gpu_name(table: Table, device: torch.device | str) -> str:
    """The GPU's name, which picks the configurations; the interpreter runs on the default ones."""
    device = torch.device(device)
    is_gpu = device.type == "cuda" and compiled(table)
    return torch.cuda.get_device_name(device) if is_gpu else "default"


def overlapping(table: Table, device: torch.device) -> bool:
    """Whether a kernel can be launched before the one in front of it has ended."""
    if device.type != "cuda" or torch.version.hip or not compiled(table):
        return False
    return torch.cuda.get_device_capability(device)[0] >= 9


def shared_memory(device: torch.device) -> int:
    """Bytes that one program can have of a GPU's shared memory."""
    return getattr(device_properties(device), "shared_memory_per_block_optin", LEAST_SHARED)


def tuned_places(table: Table, device: torch.device | str) -> int:
    """Places for records, as tuned for the device or as estimated."""
    buffers: Mapping[str, int] = table.names["BUFFERS"]
    return buffers.get(gpu_name(table, device), buffers["default"])


def check_tuned(table: Table, gpu: str) -> None:
    """Say once that a GPU runs on estimates, and what changes that."""
    if gpu in table.names["CONFIGS"]:
        return
    text = (
        f"{table.name} is not tuned for {gpu} and runs there on estimates: "
        f"`{table.tune}`, then compile it again"
    )
    if os.environ.get("KVGEN_REQUIRE_TUNED") == "1":
        raise RuntimeError(f"{text} (KVGEN_REQUIRE_TUNED=1)")
    warn_once(gpu, text)


def warn_once(what: object, text: str) -> None:
    """Warn whoever called the module."""
    if what in WARNED:
        return
    WARNED.append(what)
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_globals.get("WARNED") is WARNED:
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level)


def nearest(batches: Iterable[int], batch: int) -> int:
    return min(batches, key=lambda known: abs(math.log(known / max(batch, 1))))


def configuration(
    table: Table, gpu: str, kernel: str, batch: int, vectors: Sequence[torch.Tensor] = ()
) -> dict[str, Any]:
    """The configuration of this GPU, or the default one, for the nearest batch.

    vectors: the inputs over K or V. Kernels are tuned with 16 bits for each of their numbers;
    beside a tile that leaves room for no more, 32 might not fit.
    """
    configs = unknown(table.names["CONFIGS"])
    tuned: Any = configs.get(gpu, {})
    wide = next((x.dtype for x in vectors if x.element_size() != 2), None)
    if wide is not None:
        if gpu != "default" and kernel in tuned:
            what = f"{table.name} is tuned for {gpu} with inputs of 16 bits"
            warn_once((gpu, wide), f"{what}: with {wide} it runs there on estimates")
        tuned = None
    batches = (tuned and tuned.get(kernel)) or configs["default"][kernel]
    return batches[nearest(batches, batch)]


def best_kernel(table: Table, gpu: str, batch: int) -> str:
    """Which is faster for this batch, "decode" or "recurrent", by the times of whole steps."""
    return best_of(table, gpu, "decode", "recurrent", batch)


def timed(table: Table, gpu: str, kernel: str) -> bool:
    """Whether there are a kernel's times on a GPU."""
    tuned = table.names["CONFIGS"].get(gpu, {}).get(kernel, {})
    return any("us" in config for config in tuned.values())


def best_of(table: Table, gpu: str, first: str, second: str, batch: int) -> str:
    """Which of two kernels that compute the same is faster for this batch, by their times; the
    first where they have none."""
    tuned = table.names["CONFIGS"].get(gpu, {})
    times = [
        {n: c["us"] for n, c in tuned.get(name, {}).items() if "us" in c}
        for name in (first, second)
    ]
    both = [n for n in times[0] if n in times[1]]
    if not both:
        return first
    near = nearest(both, batch)
    return second if times[1][near] < times[0][near] else first
