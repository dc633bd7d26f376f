"""What the tuner knows of a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kvgen.kernels.size import SHARED

# of an SM
REGISTERS, THREADS, BLOCKS = 65536, 2048, 32


@dataclass(frozen=True)
class Gpu:
    """A GPU's limits. target: sm_90 and so on. shared: bytes a program may have. bandwidth: bytes
    a second, read and written. l2: bytes of cache. uuid: which of several equal ones."""

    name: str
    target: str
    processors: int
    shared: int
    l2: int
    bandwidth: float
    uuid: str = ""
    driver: str = ""
    torch: str = ""
    triton: str = ""
    cuda: str = ""

    @property
    def env(self) -> dict[str, str]:
        """The versions that a record keeps."""
        found = {"triton": self.triton, "torch": self.torch, "cuda": self.cuda}
        return {k: v for k, v in {**found, "driver": self.driver}.items() if v}

    @classmethod
    def of(cls, answer: dict[str, Any]) -> Gpu:
        return cls(**{name: answer[name] for name in cls.__dataclass_fields__})


# what estimates are made for where there is no GPU: data sheets' figures, of the bandwidth 0.9
SHEETS = {
    "sm_80": Gpu("A100", "sm_80", 108, SHARED["sm_80"], 40 << 20, 1.8e12),
    "sm_90": Gpu("H100", "sm_90", 132, SHARED["sm_90"], 50 << 20, 3.0e12),
    "sm_100": Gpu("B200", "sm_100", 148, SHARED["sm_100"], 126 << 20, 7.2e12),
    "sm_120": Gpu("RTX PRO 6000", "sm_120", 188, SHARED["sm_120"], 128 << 20, 1.6e12),
    "gfx942": Gpu("MI300X", "gfx942", 304, SHARED["gfx942"], 256 << 20, 4.7e12),
}
