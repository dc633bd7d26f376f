"""One request's layers in float64: the convolution, then the recurrence as written."""

from __future__ import annotations

import functools
from typing import Any

import torch
from sglang_server import Server

import kvgen

SPECS = {False: "gated_deltanet", True: "kimi_delta_attention"}


@functools.cache
def recurrence(kimi: bool, heads: int, wide: int, channels: int) -> Any:
    sizes = {"sizes.H": heads, "sizes.HV": wide, "sizes.K": channels, "sizes.V": channels}
    return kvgen.load(SPECS[kimi], features=["decode"], **sizes)


class Exact:
    """Starts from what a slot of the pool holds: states with empty rings, a convolution's past."""

    def __init__(self, server: Server, slot: int) -> None:
        self.server = server
        self.module = recurrence(server.kimi, server.heads, server.wide, server.channels)
        states = server.held.temporal[:, slot].double()
        self.states = [each.transpose(-1, -2).clone() for each in states]
        self.pasts = list(server.past(slot).double().clone())
        self.after: list[list[Any]] = [[] for _ in self.states]

    def decode(
        self, place: int, layer: Any, tokens: tuple[torch.Tensor, ...], row: int
    ) -> torch.Tensor:
        """One token of one layer, [HV, V]. tokens: of all rows."""
        server = self.server
        mixed, a, b = (each.reshape(-1, each.shape[-1])[row].double() for each in tokens)
        window = torch.cat([self.pasts[place], mixed[None]])
        self.pasts[place] = window[1:]
        along = torch.nn.functional.silu((window.T * layer.conv_weights.double()).sum(1))
        keys = server.heads * server.channels
        q, k, v = along.split([keys, keys, server.wide * server.channels])
        rates = layer.A_log.double().reshape(-1)
        bias, gate = layer.dt_bias.double(), {"a": a[None]}
        if server.kimi:
            bias = bias.view(server.wide, -1)
            gate = {"f": a.view(1, server.wide, -1)}
        o, states = self.module.reference(
            {"S": self.states[place][None]},
            q=q.view(1, server.heads, -1),
            k=k.view(1, server.heads, -1),
            v=v.view(1, server.wide, -1),
            b=b[None],
            **gate,
            A_log=rates,
            dt_bias=bias,
        )
        self.states[place] = states["S"][0]
        return o[0]

    def verify(
        self,
        place: int,
        layer: Any,
        tokens: tuple[torch.Tensor, ...],
        first: int,
        parents: list[int],
    ) -> torch.Tensor:
        """A window of one layer, [T, HV, V], whose tokens follow their parents; `keep` keeps what
        leads to one of them. first: the row of the window's first token."""
        found, before = [], (self.states[place], self.pasts[place])
        for at, parent in enumerate(parents):
            start = before if parent < 0 else self.after[place][parent]
            self.states[place], self.pasts[place] = start
            found.append(self.decode(place, layer, tokens, first + at))
            self.after[place].append((self.states[place], self.pasts[place]))
        return torch.stack(found)

    def keep(self, node: int) -> None:
        for place, after in enumerate(self.after):
            self.states[place], self.pasts[place] = after[node]
            after.clear()


def folded(
    *,
    checkpoint_state: torch.Tensor,
    rawv_cache: torch.Tensor,
    rawk_cache: torch.Tensor,
    beta_cache: torch.Tensor,
    ssm_state_indices: torch.Tensor,
    accept_lens: torch.Tensor,
    g_cache: torch.Tensor | None = None,
    gk_cache: torch.Tensor | None = None,
    **rest: Any,
) -> None:
    """SGLang's own fold of windows, by its arguments: its kernel has a loop that Triton's
    interpreter does not take."""
    gates = gk_cache if g_cache is None else g_cache[..., None]
    assert gates is not None
    ratio = rawv_cache.shape[2] // rawk_cache.shape[2]
    for slot, count in zip(ssm_state_indices.tolist(), accept_lens.tolist(), strict=True):
        state = checkpoint_state[:, slot].double()
        for at in range(count):
            k, v, gate = (each[:, slot, :, at].double() for each in (rawk_cache, rawv_cache, gates))
            k = k * (k.square().sum(-1, keepdim=True) + 1e-6).rsqrt()
            k = k.repeat_interleave(ratio, 1)
            state *= gate.exp()[..., None, :]
            v -= torch.einsum("lhvk,lhk->lhv", state, k)
            v *= beta_cache[:, slot, :, at, None].double()
            state += v[..., :, None] * k[..., None, :]
        checkpoint_state[:, slot] = state.to(checkpoint_state.dtype)
