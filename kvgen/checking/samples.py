"""Random inputs and parameters for checks, as the spec's `sample` asks for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch

from kvgen.language.spec import Spec, Tensor

CHANNELS = ("K", "V")
MATRIX = ("HV", "K", "V")

WORDS = {
    "normal": "N(0, 1)",
    "small": "0.1 N(0, 1)",
    "tiny": "0.01 N(0, 1)",
    "unit": "N(0, 1), scaled to length 1",
    "positive": "uniform in (0, 1)",
    "gate": "N(-4, 1)",
    "log_uniform": "log of uniform in (1, 16)",
}


class Sampler:
    """Draws the inputs and parameters of a spec; the same seed draws the same values."""

    def __init__(self, spec: Spec, device: str, seed: int = 0) -> None:
        self.spec = spec
        self.device = device
        self.sizes = dict(spec.sizes)
        self.kinds = dict(spec.sample)
        self.generator = torch.Generator(device).manual_seed(seed)

    def params(self) -> dict[str, torch.Tensor]:
        """One layer's parameters, in float32."""
        return {tensor.name: self._draw(tensor, ()) for tensor in self.spec.params}

    def inputs(self, rows: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """One token's inputs, with the rows in front."""
        return {t.name: self._draw(t, (rows,)).to(dtype) for t in self.spec.inputs}

    def states(self, rows: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
        """States as a prefill may leave them, in float32, values the spec's storage can hold; and
        the past of inputs, in their dtype."""
        found: dict[str, torch.Tensor] = {}
        for tensor in self.spec.states:
            shape = (rows, *(self.sizes[axis] for axis in tensor.axes))
            kind = {"device": self.device, "generator": self.generator}
            if tensor.axes == MATRIX:
                value = self.spec.storage.state.kept(0.5 * torch.randn(shape, **kind))
            else:
                # a normaliser is positive
                value = 0.5 + torch.rand(shape, **kind)
            found[tensor.name] = value
        for past in self.spec.pasts:
            tokens = self._draw(past.tensor, (rows * past.count,))
            found[past.name] = tokens.unflatten(0, (rows, past.count)).to(dtype)
        return found

    def uniform(self, like: torch.Tensor) -> torch.Tensor:
        """Uniform in (0, 1), of another tensor's shape."""
        return torch.rand(like.shape, device=self.device, generator=self.generator)

    def drawn(self) -> dict[str, str]:
        """What is drawn, by name, in words."""
        tensors = (*self.spec.inputs, *self.spec.params)
        return {tensor.name: _words(tensor, self.kinds.get(tensor.name)) for tensor in tensors}

    def _draw(self, tensor: Tensor, front: tuple[int, ...]) -> torch.Tensor:
        shape = (*front, *(self.sizes[axis] for axis in tensor.axes))
        normal = torch.randn(shape, device=self.device, generator=self.generator)
        low, high = tensor.range or (-math.inf, math.inf)
        match self.kinds.get(tensor.name):
            case "small":
                value = 0.1 * normal
            case "tiny":
                value = 0.01 * normal
            case "unit":
                has_channels = bool(tensor.axes) and tensor.axes[-1] in CHANNELS
                value = normal / (
                    normal.norm(dim=-1, keepdim=True) if has_channels else normal.abs()
                )
            case "positive":
                value = self.uniform(normal)
            case "gate":
                value = normal - 4
            case "log_uniform":
                value = (1 + 15 * self.uniform(normal)).log()
            case None if math.isfinite(low) and math.isfinite(high):
                value = low + (high - low) * self.uniform(normal)
            case None if math.isfinite(low):
                value = low + normal.abs()
            case None if math.isfinite(high):
                value = high - normal.abs()
            case _:
                value = normal
        return value.clamp(low, high)


def _words(tensor: Tensor, kind: str | None) -> str:
    low, high = tensor.range or (-math.inf, math.inf)
    bounded = math.isfinite(low) or math.isfinite(high)
    if kind is not None:
        return WORDS[kind] + (f", kept in [{low:g}, {high:g}]" if bounded else "")
    if math.isfinite(low) and math.isfinite(high):
        return f"uniform in ({low:g}, {high:g})"
    if math.isfinite(low):
        return f"{low:g} + |N(0, 1)|" if low else "|N(0, 1)|"
    return f"{high:g} - |N(0, 1)|" if bounded else WORDS["normal"]


def draw(
    spec: Spec, rows: int, *, dtype: torch.dtype, device: str, seed: int
) -> dict[str, torch.Tensor]:
    """One token's inputs in `dtype`, with the rows in front, and one layer's parameters."""
    sampler = Sampler(spec, device, seed)
    return {**sampler.inputs(rows, dtype), **sampler.params()}


# layouts: the same values in memory that is not contiguous, with NaN between them

Layout = Callable[[Mapping[str, torch.Tensor]], dict[str, torch.Tensor]]


def plain(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(tensors)


def packed(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """All inputs as slices of one [rows, …] tensor, as a fused projection leaves them."""
    first = next(iter(tensors.values()))
    widths = {name: max(1, math.prod(x.shape[1:])) for name, x in tensors.items()}
    whole = first.new_full((first.shape[0], sum(widths.values()) + 3), math.nan)
    found: dict[str, torch.Tensor] = {}
    at = 0
    for name, x in tensors.items():
        part = whole[:, at : at + widths[name]]
        view = part.unflatten(1, x.shape[1:]) if x.dim() > 1 else part[:, 0]
        found[name] = view.copy_(x)
        at += widths[name]
    return found


def padded(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every input with room behind its last axis."""
    found: dict[str, torch.Tensor] = {}
    for name, x in tensors.items():
        wide = x.new_full((*x.shape[:-1], x.shape[-1] + 5), math.nan)
        found[name] = wide[..., : x.shape[-1]].copy_(x)
    return found
