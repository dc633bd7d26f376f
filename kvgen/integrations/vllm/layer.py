"""What a layer of vLLM's gets beside its own: a module, records in its pages, a group's cache."""

# pyright: reportMissingImports=false

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import torch
from vllm.config import get_current_vllm_config
from vllm.forward_context import get_forward_context
from vllm.model_executor.models.utils import extract_layer_index

from kvgen.integrations import modules
from kvgen.integrations.vllm import page, settings, warming
from kvgen.integrations.vllm.announce import announce
from kvgen.integrations.vllm.group import Group

# a module is compiled once a process, not once a layer
compiled = functools.lru_cache(maxsize=None)(
    lambda name, sizes, state, features, more: modules.serving(
        name, dict(sizes), state, features, **dict(more)
    )
)


def asked() -> settings.Settings:
    """What is asked for of the layer that is being made."""
    wanted = settings.asked(get_current_vllm_config().additional_config)
    assert wanted is not None
    return wanted


@dataclass(frozen=True)
class Served:
    """How a layer is served."""

    module: ModuleType
    settings: settings.Settings
    page: page.Page
    window: int
    rows: int


class Buffered:
    """A mixin in front of a layer of vLLM's that keeps a convolution and a matrix state."""

    served: Served
    group: Group | None = None
    # which of its group's layers it is, in the order in which they run
    place = 0

    sizes: Mapping[str, int]

    @staticmethod
    def unserved(wanted: settings.Settings, *args: Any, **options: Any) -> str | None:
        """Why a layer that is made with these arguments stays vLLM's own, if it does."""
        return None

    def serve(self: Any, name: str, layout: str | None = None) -> None:
        """Compile the module of a spec for this layer, and lay out its page. The spec's sizes are
        those of the whole model, so that ranks share one module.

        layout: of its state, as vLLM's prompts have it; None: that of gated delta rules.
        """
        config, sizes = get_current_vllm_config(), self.sizes
        wanted = asked()
        on_cpu = config.device_config.device_type == "cpu"
        window = settings.window_of(config)
        more = {"storage.layout": layout or ("kv" if on_cpu else "vk")}
        features = ("decode", "verify") if window else ("decode",)
        module = compiled(name, tuple(sizes.items()), wanted.state, features, tuple(more.items()))
        convolution, _ = (
            functools.reduce(lambda total, size: total * size, shape, dtype.itemsize)
            for shape, dtype in zip(self.get_state_shape(), self.get_state_dtype(), strict=True)
        )
        plan = page.plan(
            module,
            convolution,
            dtype=config.model_config.dtype,
            heads=sizes["HV"] // self.tp_size,
            buffer=wanted.buffer,
            window=window,
            device="cpu" if on_cpu else "cuda",
        )
        rows = config.scheduler_config.max_num_seqs
        self.served = Served(module, wanted, plan, window, rows)

    # -- vLLM asks for its pages

    def get_state_dtype(self: Any) -> tuple[torch.dtype, torch.dtype]:
        convolution, _ = super().get_state_dtype()  # pyright: ignore[reportAttributeAccessIssue]
        # vLLM asks while its own layer is being made, too
        served = getattr(self, "served", None)
        wanted = served.settings if served else asked()
        return convolution, getattr(torch, wanted.page_dtype)

    def get_kv_cache_spec(self: Any, vllm_config: Any) -> Any:
        announce(vllm_config)
        spec = super().get_kv_cache_spec(vllm_config)  # pyright: ignore[reportAttributeAccessIssue]
        return replace(
            spec,
            shapes=(*spec.shapes, (self.served.page.bytes,)),
            dtypes=(*spec.dtypes, torch.uint8),
            num_speculative_blocks=0,
        )

    def bind_kv_cache(self: Any, kv_cache: torch.Tensor) -> None:
        # its own two states lie in front
        super().bind_kv_cache(kv_cache)  # pyright: ignore[reportAttributeAccessIssue]
        self.held = self.served.page.tensors(kv_cache.squeeze(dim=(1, 2)))
        self.group = None

    # -- and runs it

    def metadata(self: Any) -> Any:
        """The step as vLLM describes it to this layer's group; None in a run that only measures."""
        all_of_them = get_forward_context().attn_metadata
        if not isinstance(all_of_them, dict):
            return None
        mine = all_of_them.get(self.prefix)
        if mine is not None and self.group is None:
            self.gather([name for name, each in all_of_them.items() if each is mine])
        return mine

    def gather(self: Any, names: list[str]) -> None:
        """Make one cache of the layers that are described alike: they have one block table."""
        if self.held[self.served.page.state.name].is_cuda and (
            torch.cuda.is_current_stream_capturing()
        ):
            raise RuntimeError("kvgen: a graph is captured before the first step, expected after")
        known = get_forward_context().no_compile_layers
        layers = sorted(
            (known[name] for name in names), key=lambda layer: extract_layer_index(layer.prefix)
        )
        group = Group(self.served.module, [layer.held for layer in layers], self.served.window)
        for place, layer in enumerate(layers):
            layer.group, layer.place = group, place
        warming.warm(group, self.given, self.served.rows)

    given: Callable[..., Any]
