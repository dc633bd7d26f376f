"""Records as a tuner would write them, for tests of the store and of what is baked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kvgen.kernels.registry import subject
from kvgen.wisdom.folder import Folder
from kvgen.wisdom.record import Key, Record, Shape
from kvgen.wisdom.store import Store

H100 = "NVIDIA H100 80GB HBM3"
H200 = "NVIDIA H200"
FORM = "0123456789ab"
# a legal choice of every knob that is a count
COUNTS = ("TILES", "STAGES", "num_warps", "programs")
SIZES = {"TILE": 8, "TOKENS": 4, "buffer": 8, **dict.fromkeys(COUNTS, 1)}


def key(kernel: str = "decode", batch: int = 4, **other: Any) -> Key:
    shape = Shape(batch, other.pop("tokens", 1), 2, 4, 16, 16)
    return Key(kernel, **{"form": FORM, "gpu": H100, "dtype": "bfloat16", "shape": shape} | other)


def record(of: Key | None = None, us: float = 12.0, **other: Any) -> Record:
    """A whole record of a key; TILE may be given among the rest."""
    of = of or key()
    sizes = SIZES | other.pop("config", {})
    fields: dict[str, Any] = {
        "spec": "mine",
        # what is on or off is off
        "config": {knob: sizes.get(knob, 0) for knob in subject(of.kernel).knobs},
        "us": (us - 1, us, us + 1),
        "floor_us": 6.0,
        "error": 1e-3,
        "effort": "full",
        "measured": 40,
        "of": 312,
        "at": {"batch": of.shape.B, "layers": 36},
        "env": {"triton": "3.6.0", "torch": "2.11.0"},
        "date": "2026-11-23",
    }
    return Record(key=of, **fields | other)


def store(*roots: Path, triton: str | None = "3.6.1") -> Store:
    return Store([Folder(root, root.name) for root in roots], triton)
