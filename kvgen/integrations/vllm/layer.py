"""What a layer of vLLM's gets beside its own: a module, records in its pages, a group's cache."""

# pyright: reportMissingImports=false

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from vllm.config import get_current_vllm_config
from vllm.forward_context import get_forward_context
from vllm.model_executor.models.utils import extract_layer_index

from kvgen.functions.silu import SILU
from kvgen.integrations import modules
from kvgen.integrations.vllm import blocks, page, settings, warming
from kvgen.integrations.vllm.group import Group, Groups, Rows

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
    """How a layer is served. convolves: whether the module does what is in front of a decode, too,
    and keeps the past of its inputs."""

    module: ModuleType
    settings: settings.Settings
    page: page.Page
    window: int
    rows: int
    convolves: bool


class Buffered:
    """A mixin in front of a layer of vLLM's that keeps a convolution and a matrix state."""

    served: Served
    groups: Groups | None = None
    group: Group | None = None
    # which of its group's layers it is, in the order in which they run
    place = 0
    # of the model's first layer: one of each group, by whose description a step begins
    begins: Sequence[str] = ()
    # of the last one
    ends = False

    sizes: Mapping[str, int]

    @staticmethod
    def unserved(wanted: settings.Settings, *args: Any, **options: Any) -> str | None:
        """Why a layer that is made with these arguments stays vLLM's own, if it does."""
        return None

    def serve(
        self: Any, name: str, layout: str | None = None, convolved: str | None = None
    ) -> None:
        """Compile the module of a spec for this layer, and lay out its page. The spec's sizes are
        those of the whole model, so that ranks share one module.

        layout: of its state, as vLLM's prompts have it; None: that of gated delta rules. convolved:
        the spec of the same behind its convolutions, W tokens long, where the layer's are as specs
        have them, and for single tokens alone: those of drafts are vLLM's own, which takes back
        what is not accepted.
        """
        config, sizes = get_current_vllm_config(), self.sizes
        wanted = asked()
        on_cpu = config.device_config.device_type == "cpu"
        window = settings.window_of(config)
        # the spec rounds between them as vLLM does for models in bfloat16; of a state in parts a
        # decode that convolves, too, was timed to be slower from 32 rows on
        if window or config.model_config.dtype != torch.bfloat16 or wanted.format.partial:
            convolved = None
        # specs have silu behind a convolution, and no bias in it
        if self.conv1d.bias is not None or self.activation != SILU.name:
            convolved = None
        if convolved is not None:
            name, sizes = convolved, {**sizes, "W": self.conv1d.weight.shape[-1]}
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
        self.served = Served(module, wanted, plan, window, rows, convolved is not None)

    # -- vLLM asks for its pages

    def get_state_dtype(self: Any) -> tuple[torch.dtype, torch.dtype]:
        convolution, _ = super().get_state_dtype()  # pyright: ignore[reportAttributeAccessIssue]
        # vLLM asks while its own layer is being made, too
        served = getattr(self, "served", None)
        wanted = served.settings if served else asked()
        return convolution, getattr(torch, wanted.page_dtype)

    def get_kv_cache_spec(self: Any, vllm_config: Any) -> Any:
        spec = super().get_kv_cache_spec(vllm_config)  # pyright: ignore[reportAttributeAccessIssue]
        return blocks.paged(
            spec,
            vllm_config.model_config.max_model_len,
            shapes=(*spec.shapes, (self.served.page.bytes,)),
            dtypes=(*spec.dtypes, torch.uint8),
            num_speculative_blocks=0,
        )

    def bind_kv_cache(self: Any, kv_cache: torch.Tensor) -> None:
        # its own two states lie in front
        super().bind_kv_cache(kv_cache)  # pyright: ignore[reportAttributeAccessIssue]
        self.held = self.served.page.tensors(kv_cache.squeeze(dim=(1, 2)))
        self.groups = self.group = None
        self.begins, self.ends = (), False

    # -- and runs it

    def metadata(self: Any) -> Any:
        """The step as vLLM describes it to this layer's group; None in a run that only measures."""
        described = get_forward_context().attn_metadata
        if not isinstance(described, dict):
            return None
        mine = described.get(self.prefix)
        if mine is not None and self.group is None:
            self.gather(described)
        return mine

    def gather(self: Any, described: Mapping[str, Any]) -> None:
        """Make the caches of all layers: those that are described alike have one block table."""
        if self.held[self.served.page.state.name].is_cuda and (
            torch.cuda.is_current_stream_capturing()
        ):
            raise RuntimeError("kvgen: a graph is captured before the first step, expected after")
        known = get_forward_context().no_compile_layers
        alike: dict[int, list[Any]] = {}
        for name in sorted(described, key=extract_layer_index):
            layer = known.get(name)
            if isinstance(layer, Buffered) and layer.served.module is self.served.module:
                alike.setdefault(id(described[name]), []).append(layer)
        groups = Groups(
            self.served.module,
            [[layer.held for layer in layers] for layers in alike.values()],
            self.served.window,
            self.served.settings.invariant,
        )
        for group, layers in zip(groups.each, alike.values(), strict=True):
            for place, layer in enumerate(layers):
                layer.groups, layer.group, layer.place = groups, group, place
        heads = [layers[0].prefix for layers in alike.values()]
        order = sorted((layer for layers in alike.values() for layer in layers), key=index_of)
        order[0].begins, order[-1].ends = heads, True
        warming.warm(groups, self.given, self.served.rows)

    def begin(self: Any) -> None:
        """The first layer of a step begins it for all."""
        if self.begins:
            described = get_forward_context().attn_metadata
            self.groups.begin([self.rows_of(described[prefix]) for prefix in self.begins])

    def end(self: Any) -> None:
        """The last one ends it."""
        if self.ends:
            self.groups.end()

    given: Callable[..., Any]
    # which rows of a step are of which kind, for `Groups.begin`
    rows_of: Callable[[Any], Rows]


def index_of(layer: Any) -> int:
    return extract_layer_index(layer.prefix)
