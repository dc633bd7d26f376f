"""Models whose linear-attention layers decode with generated modules, and as they were."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

import torch
import transformers

import kvgen
from kvgen.integrations import modules, versions
from kvgen.integrations import report as reports
from kvgen.integrations.transformers import holding
from kvgen.integrations.transformers.adapters import ADAPTERS
from kvgen.integrations.transformers.decoding import decoding_class
from kvgen.integrations.transformers.served import Served
from kvgen.language.spec import MAX_BUFFER, MAX_WINDOW

KNOWN = versions.Known("Transformers", "5.17", "5.25")
# where a model keeps what was done to it
RECORD = "_kvgen"

log = logging.getLogger(__name__)
Model = TypeVar("Model", bound=torch.nn.Module)


@dataclass(frozen=True)
class Record:
    """What was done to a model. drafting: its parts that may take part in assisted generation, by
    name; text: the report."""

    drafting: Sequence[str]
    text: str


def accelerate(
    model: Model, state: str = "float32", buffer: int | None = None, assisted: bool = False
) -> Model:
    """Let a model's linear-attention layers decode with generated modules; returns the model.

    model: of Transformers, on its device. state: how states are stored, as a spec's `storage.state`
    has it. buffer: tokens that a row keeps as records before they go into its state, at most 64
    (None: as tuned, with `assisted` with room for drafts). assisted: let it take part in assisted
    generation and prompt lookup, as the model and as the assistant.
    A model that was accelerated before is accelerated anew. Raises UnknownVersion, and ValueError
    where no layer can be served; nothing has changed then.
    """
    KNOWN.require(transformers.__version__)
    whole = uncompiled(model)
    done, left = planned(whole, state, buffer, assisted)
    if not done:
        raise ValueError(refusal(whole, left))
    restore(whole)
    parts = dict(whole.named_modules())
    text = said(done, left, parts)
    for served in done:
        for place, name in enumerate(served.names):
            enter(parts[name], served, place)
    drafting = []
    if assisted:
        drafting = [name for name, each in parts.items() if getattr(each, "_is_stateful", False)]
    for name in drafting:
        vars(parts[name])["_is_stateful"] = False
    vars(whole)[RECORD] = Record(drafting, text)
    log.info(report(whole))
    return model


def restore(model: Model) -> Model:
    """Give a model back as it was before `accelerate`, and its caches their own states; a model
    that was not accelerated is left alone."""
    released: set[Served] = set()
    for part in uncompiled(model).modules():
        if "kvgen" in vars(part):
            released.add(part.kvgen)  # pyright: ignore[reportArgumentType]
            leave(part)
        if RECORD in vars(part):
            parts = dict(part.named_modules())
            for name in vars(part).pop(RECORD).drafting:
                del vars(parts[name])["_is_stateful"]
    for served in released:
        for states in list(served.alive):
            for layer in states.layers:
                if (found := layer and layer()) is not None:
                    holding.release(found)
    return model


def report(model: torch.nn.Module) -> str:
    """What of a model is accelerated and how, and what is left alone and why."""
    record: Record | None = vars(uncompiled(model)).get(RECORD)
    if record is None:
        return f"kvgen leaves {type(model).__name__} as it is: it was not accelerated"
    return record.text


def uncompiled(model: torch.nn.Module) -> torch.nn.Module:
    """The model itself, where it is one that `torch.compile` has wrapped."""
    return getattr(model, "_orig_mod", model)


# -- what can be done


def planned(
    model: torch.nn.Module, state: str, buffer: int | None, assisted: bool
) -> tuple[list[Served], list[reports.LeftAlone]]:
    """Which layers each module would serve, and which are left alone."""
    groups: dict[Any, list[tuple[str, Any]]] = {}
    left: list[reports.LeftAlone] = []
    for name, layer in model.named_modules():
        kind = class_of(layer)
        if kind.__name__ not in ADAPTERS:
            if hasattr(layer, "conv1d") and hasattr(layer, "layer_idx"):
                left.append(reports.LeftAlone(name, f"{kind.__name__} has no adapter"))
        elif reason := reason_against(layer):
            left.append(reports.LeftAlone(name, reason))
        else:
            adapter = ADAPTERS[kind.__name__]
            sizes = tuple(adapter.sizes(layer).items())
            key = kind.__module__, adapter.spec(layer), sizes, device_of(layer)
            groups.setdefault(key, []).append((name, layer))
    done = []
    for (own, spec, sizes, device), layers in groups.items():
        try:
            module = module_of(spec, dict(sizes), state, assisted)
        except kvgen.SpecError as error:
            left += [reports.LeftAlone(name, str(error)) for name, _ in layers]
            continue
        layers.sort(key=lambda each: each[1].layer_idx)
        done.append(
            Served(
                module,
                ADAPTERS[class_of(layers[0][1]).__name__],
                sys.modules[own],
                [name for name, _ in layers],
                [layer.layer_idx for _, layer in layers],
                state,
                *room(module, device, buffer, assisted),
            )
        )
    return done, left


def class_of(layer: Any) -> type:
    """A layer's class, as it was."""
    kind: Any = type(layer)
    return kind.__base__ if "kvgen" in vars(layer) else kind


def reason_against(layer: Any) -> str | None:
    """Why a layer of a known class cannot be served."""
    adapter = ADAPTERS[class_of(layer).__name__]
    sizes = adapter.sizes(layer)
    if sizes["HV"] % sizes["H"]:
        return f"{sizes['HV']} value heads are no multiple of {sizes['H']} key heads"
    if "forward" in vars(layer) and "_old_forward" not in vars(layer):
        return "its forward has been replaced"
    if device_of(layer).type == "meta":
        return "its weights are on no device"
    kinds = {each.dtype for each in layer.parameters(recurse=False)}
    if wrong := kinds - {torch.float32, torch.bfloat16, torch.float16}:
        return f"its parameters are {wrong.pop()}"
    return None


def device_of(layer: Any) -> torch.device:
    """Where a layer computes, though its weights may lie elsewhere."""
    hook = getattr(layer, "_hf_hook", None)
    where = getattr(hook, "execution_device", None)
    return torch.device(layer.conv1d.weight.device if where is None else where)


def module_of(spec: str, sizes: dict[str, int], state: str, assisted: bool) -> ModuleType:
    return modules.serving(spec, sizes, state, ["decode", "verify"] if assisted else ["decode"])


def room(module: Any, device: torch.device, buffer: int | None, assisted: bool) -> tuple[int, int]:
    """The places and the window of caches. Raises ValueError where a cache cannot be had."""
    cache = module.Cache.empty(1, device=device, buffer=buffer)
    if not assisted:
        return cache.buffer, 0
    places = cache.buffer
    if buffer is None:
        # as many tokens between two folds as are tuned, and a window
        places = min(MAX_BUFFER, places + MAX_WINDOW)
    return places, min(MAX_WINDOW, places)


# -- what is done


def enter(layer: Any, served: Served, place: int) -> None:
    layer.__class__ = decoding_class(class_of(layer))
    layer.kvgen, layer.place = served, place
    rebind(layer)


def leave(layer: Any) -> None:
    layer.__class__ = class_of(layer)
    del layer.kvgen, layer.place
    rebind(layer)


def rebind(layer: Any) -> None:
    """Where accelerate's hooks stand in front of `forward`, they call one that they have kept."""
    if "_old_forward" in vars(layer):
        layer._old_forward = type(layer).forward.__get__(layer)


def said(done: list[Served], left: list[reports.LeftAlone], layers: dict[str, Any]) -> str:
    devices = [device_of(layers[served.names[0]]) for served in done]
    gpu = torch.cuda.get_device_name(devices[0]) if devices[0].type == "cuda" else "cpu"
    lines = [
        reports.Accelerated(each.names, each.module, each.state, each.buffer, draft_room(each))
        for each in done
    ]
    return reports.text(f"Transformers {transformers.__version__}", lines, left, gpu)


def draft_room(served: Served) -> int:
    """Most tokens of a window, longer ones going through `verify` in parts."""
    return served.buffer if served.window else 0


def refusal(model: torch.nn.Module, left: list[reports.LeftAlone]) -> str:
    reasons = {each.reason: each.layer for each in left}
    why = "; ".join(f"{layer}: {reason}" for reason, layer in reasons.items())
    known = ", ".join(ADAPTERS)
    return (
        f"model: no layer of {type(model).__name__} can be accelerated "
        f"({why or 'it has no linear attention'}), expected one of {known}; nothing was changed"
    )
