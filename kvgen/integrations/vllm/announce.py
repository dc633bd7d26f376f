"""What is said at start: which layers decode with which module, and which are vLLM's own."""

# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

import torch
from vllm import __version__  # pyright: ignore[reportAttributeAccessIssue]
from vllm.logger import init_logger
from vllm.model_executor.layers.mamba.abstract import MambaBase

from kvgen.integrations import report

logger = init_logger("vllm.kvgen")


def announce(config: Any) -> None:
    """Say it, once a process. config: vLLM's, once all layers are made."""
    logger.info_once("%s", text(config.compilation_config.static_forward_context))


def text(layers: dict[str, Any]) -> str:
    """layers: all of a model by name."""
    alike: dict[Any, list[str]] = {}
    left: list[report.LeftAlone] = []
    for name, layer in layers.items():
        if hasattr(layer, "served"):
            alike.setdefault(layer.served, []).append(name)
        elif isinstance(layer, MambaBase):
            reason = f"kvgen has nothing for vLLM's {type(layer).__name__}"
            left.append(report.LeftAlone(name, reason))
    done = [
        report.Accelerated(names, each.module, each.settings.state, each.page.buffer, each.window)
        for each, names in alike.items()
    ]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return report.text(f"vLLM {__version__}", done, left, gpu)
