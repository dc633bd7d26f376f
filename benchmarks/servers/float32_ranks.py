"""What vLLM's `worker_extension_cls` takes of a float32 model on several GPUs: it is imported in
each of an engine's processes, before the model is there, so that each has float32.py's changes."""

from __future__ import annotations

from benchmarks.servers import float32
from benchmarks.servers.forced import Keeper

__all__ = ["Keeper"]

float32.prepare()
