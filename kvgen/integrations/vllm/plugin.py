"""Where kvgen goes into vLLM: what a configuration asks for, and which layers are made for it."""

# pyright: reportMissingImports=false

from __future__ import annotations

import functools
import importlib
from typing import Any

from kvgen.integrations.vllm import settings

# what is ours has it, so that it goes in once
MARK = "of_kvgen"
# vLLM's classes of layers, and where ours for them are
LAYERS = {
    "QwenGatedDeltaNetAttention": ("qwen", "BufferedQwenGatedDeltaNet"),
    "OlmoHybridGatedDeltaNetAttention": ("olmo", "BufferedOlmoHybridGatedDeltaNet"),
    "KimiGatedDeltaNetAttention": ("kimi", "BufferedKimiDeltaAttention"),
    "MambaMixer2": ("mamba2", "BufferedMambaMixer2"),
}


def install() -> None:
    """Stand by: what is asked for is looked at when a configuration is there, and a layer that is
    made for one that asks is ours. The second time nothing happens, and in a vLLM that is not known
    nothing but that who asks is refused."""
    try:
        from vllm import __version__  # pyright: ignore[reportAttributeAccessIssue]
        from vllm.config import VllmConfig
    except ImportError:
        return
    if hasattr(VllmConfig.__post_init__, MARK):
        return
    VllmConfig.__post_init__ = configured(VllmConfig.__post_init__)
    if settings.KNOWN.has(__version__):
        from vllm.model_executor.custom_op import PluggableLayer

        PluggableLayer.__new__ = staticmethod(made(PluggableLayer.__new__))


def configured(own: Any) -> Any:
    """`VllmConfig.__post_init__`, that checks what is asked for before and after its own work."""

    @functools.wraps(own)
    def check(config: Any, *args: Any, **options: Any) -> None:
        wanted = settings.asked(config.additional_config)
        if wanted is not None:
            from vllm import __version__  # pyright: ignore[reportAttributeAccessIssue]

            settings.KNOWN.require(__version__)
            cache = config.cache_config
            if cache.mamba_ssm_cache_dtype == "auto":
                cache.mamba_ssm_cache_dtype = wanted.page_dtype
        own(config, *args, **options)
        # a model that only drafts has what the model has whose drafts they are
        model = config.model_config
        if wanted is not None and model is not None and model.runner != "draft":
            from vllm.platforms import current_platform

            platform = "cuda" if current_platform.is_cuda() else current_platform.device_type
            wrong = settings.contradictions(wanted, config, platform)
            if wrong:
                raise settings.Refused(wrong)

    setattr(check, MARK, True)
    return check


def made(own: Any) -> Any:
    """`PluggableLayer.__new__`, that makes our class of a layer where it is asked for."""

    @functools.wraps(own)
    def make(cls: type, *args: Any, **options: Any) -> Any:
        from vllm.config import get_current_vllm_config_or_none

        config = get_current_vllm_config_or_none()
        wanted = settings.asked(config.additional_config) if config else None
        if wanted is not None:
            tell()
            if cls.__name__ in LAYERS:
                ours = buffered(cls.__name__)
                reason = ours.unserved(wanted, *args, **options)
                if reason is not None:
                    # one type of states in pages goes for all layers
                    raise settings.Refused([f"{cls.__name__}: {reason}"])
                widen(config)
                cls = ours
        return own(cls, *args, **options)

    return make


def tell() -> None:
    """From now on a model's layers, when they are asked for their pages, say who decodes them."""
    from vllm.model_executor.layers.mamba.abstract import MambaBase

    own = MambaBase.get_kv_cache_spec
    if hasattr(own, MARK):
        return

    @functools.wraps(own)
    def spec(layer: Any, config: Any) -> Any:
        if settings.asked(config.additional_config) is not None:
            from kvgen.integrations.vllm.announce import announce

            announce(config)
        return own(layer, config)

    setattr(spec, MARK, True)
    MambaBase.get_kv_cache_spec = spec


def buffered(name: str) -> Any:
    """Our class for one of vLLM's, imported when the first such layer is made."""
    module, ours = LAYERS[name]
    return getattr(importlib.import_module(f"{__package__}.{module}"), ours)


def widen(config: Any) -> None:
    """Let the model say how large pages are that hold records, too: the blocks of attention are
    made as large."""
    from vllm.model_executor.models import ModelRegistry

    model, _ = ModelRegistry.resolve_model_cls(
        config.model_config.architecture, model_config=config.model_config
    )
    if not hasattr(model, "get_mamba_specs_from_config"):
        model.get_mamba_specs_from_config = classmethod(specs)  # pyright: ignore


def specs(model: Any, config: Any) -> list[Any]:
    """The pages of a model's layers, largest or not: those that were made for this configuration,
    or else as the model has them."""
    from vllm.v1.kv_cache_interface import MambaSpec

    layers = config.compilation_config.static_forward_context.values()
    found = [layer.get_kv_cache_spec(config) for layer in layers if hasattr(layer, "served")]
    if found:
        from dataclasses import replace

        return [replace(spec, page_size_padded=None) for spec in found]
    return [
        MambaSpec(
            shapes=model.get_mamba_state_shape_from_config(config),
            dtypes=model.get_mamba_state_dtype_from_config(config),
            block_size=-1,
        )
    ]
