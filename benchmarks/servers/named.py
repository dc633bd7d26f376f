"""How servers, their arms and the machine are called in docs/servers.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Figures = dict[str, Any]
MIB = 1 << 20
# what each is compared with
STOCK = "stock-float32"


@dataclass(frozen=True)
class Server:
    """key: as figures name its version. name: as the tables name it. arms: by who decodes, whose
    states a name ends with."""

    key: str
    name: str
    arms: Mapping[str, str]

    def arm(self, name: str) -> str:
        """An arm, or one that is spread over GPUs, as `ARM@RANKS`."""
        name, _, ranks = name.partition("@")
        who, _, state = name.partition("-")
        return f"{self.arms[who]} {state}" + (f" on {ranks} GPUs" if ranks else "")

    def order(self, name: str) -> tuple[int, int]:
        who, _, state = name.partition("-")
        return list(self.arms).index(who), ("float32", "split", "bfloat16").index(state)


VLLM = Server("vllm", "vLLM", {"stock": "vLLM", "kvgen": "kvgen"})
SGLANG = Server(
    "sglang", "SGLang", {"stock": "SGLang", "replay": "its own rings", "kvgen": "kvgen"}
)


def served(about: Figures) -> Server:
    return SGLANG if "sglang" in about else VLLM


def machine(about: Figures, server: str = "") -> str:
    kept = (server or served(about).key, "torch", "triton")
    names = ", ".join(f"{name} {about[name]}" for name in kept)
    return f"{about['gpu']} ({names})"
