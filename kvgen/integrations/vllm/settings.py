"""What `additional_config` asks for, and what of a server's own settings goes against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kvgen.formats import registry
from kvgen.formats.state import StateFormat
from kvgen.integrations.refused import Refused
from kvgen.integrations.versions import Known
from kvgen.language.spec import MAX_BUFFER, MAX_WINDOW

KEY = "kvgen"
KNOWN = Known("vLLM", "0.32", "0.34")


@dataclass(frozen=True)
class Settings:
    """state: how states are stored, a name of `storage.state`. buffer: places for records; None: as
    tuned. invariant: a row's bits do not depend on the rows beside it."""

    state: str
    buffer: int | None = None
    invariant: bool = False

    @property
    def format(self) -> StateFormat:
        return registry.STATES[self.state]

    @property
    def page_dtype(self) -> str:
        """What vLLM calls the type of the state in its pages, `mamba_ssm_cache_dtype`."""
        return self.format.planes[0].dtype.name


def asked(additional: object) -> Settings | None:
    """What `additional_config` asks for; None where it does not. Raises Refused, with all that is
    wrong with it."""
    if not isinstance(additional, Mapping) or KEY not in additional:
        return None
    given: Any = additional[KEY]
    if given is None or given is False:
        return None
    if not isinstance(given, Mapping):
        raise Refused([f'{KEY}: {given!r}, expected a table as in {{"state": "float32"}}'])
    wrong = [
        f"{KEY}.{key}: unknown, expected state, buffer or invariant"
        for key in given
        if key not in ("state", "buffer", "invariant")
    ]
    state = given.get("state", registry.STATE.name)
    if not isinstance(state, str) or state not in registry.STATES:
        expected = ", ".join(registry.STATES)
        wrong.append(f"{KEY}.state: {state!r}, expected one of {expected}")
    buffer = given.get("buffer")
    whole = isinstance(buffer, int) and not isinstance(buffer, bool)
    if buffer is not None and not (whole and 1 <= buffer <= MAX_BUFFER):
        wrong.append(f"{KEY}.buffer: {buffer!r}, expected 1 to {MAX_BUFFER}, or none for as tuned")
    invariant = given.get("invariant", False)
    if not isinstance(invariant, bool):
        wrong.append(f"{KEY}.invariant: {invariant!r}, expected True or False")
    if wrong:
        raise Refused(wrong)
    return Settings(state, buffer, invariant)


def window_of(config: Any) -> int:
    """The most tokens that a request brings to one step: its last one and drafts; 0 where there
    are no drafts."""
    speculative = config.speculative_config
    drafts = speculative.num_speculative_tokens if speculative else 0
    return 1 + drafts if drafts else 0


def contradictions(settings: Settings, config: Any, platform: str) -> list[str]:
    """What of a VllmConfig goes against the settings, each with what to change.

    platform: "cuda", "cpu" or another one.
    """
    cache, found = config.cache_config, []
    if platform not in ("cuda", "cpu"):
        found.append(f"platform: {platform}, expected CUDA, or a CPU in Triton's interpreter")
    model = config.model_config
    if not (model.is_hybrid or model.is_attention_free):
        found.append(
            f"model: {model.architecture} keeps no state, expected one with linear attention"
        )
    if cache.mamba_ssm_cache_dtype not in ("auto", settings.page_dtype):
        found.append(
            f"mamba_ssm_cache_dtype: {cache.mamba_ssm_cache_dtype}, expected auto or "
            f"{settings.page_dtype}, as {KEY}.state is {settings.state}"
        )
    if cache.enable_prefix_caching:
        found.append(
            "enable_prefix_caching: on, expected off (--no-enable-prefix-caching): the state at a "
            "block's end is in the records of a page that is not shared"
        )
    elif cache.mamba_cache_mode != "none":
        found.append(f"mamba_cache_mode: {cache.mamba_cache_mode}, expected none")
    if getattr(cache, "use_replayssm", False):
        found.append("use_replayssm: on, expected off, as kvgen buffers by itself")
    if config.kv_transfer_config is not None:
        found.append("kv_transfer_config: set, expected none, as connectors know no records")
    if getattr(config.parallel_config, "use_ubatching", False):
        found.append("micro-batches (enable_dbo): on, expected off")
    window = window_of(config)
    if window and settings.invariant:
        found.append(
            f"num_speculative_tokens: {window - 1}, expected none with {KEY}.invariant, as the "
            "rows of a step decide how long windows of drafts are"
        )
    most = min(MAX_WINDOW, settings.buffer or MAX_WINDOW)
    if window > most:
        found.append(
            f"num_speculative_tokens: {window - 1}, expected at most {most - 1}, "
            f"as a step takes 1 + {window - 1} tokens and {KEY}.buffer places"
        )
    return found
