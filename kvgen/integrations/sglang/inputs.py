"""What SGLang hands to a layer's kernel, as the inputs and parameters of a recurrence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Given = dict[str, torch.Tensor]


def parted(mixed: torch.Tensor, heads: int, keys: int, values: int) -> Given:
    """Queries, keys and values that lie side by side. mixed: [B, H K + H K + HV V], after the
    convolution. heads: HV. keys, values: K, V."""
    width = (mixed.shape[1] - heads * values) // 2
    q, k, v = mixed.split([width, width, heads * values], dim=1)
    return {
        "q": q.unflatten(1, (-1, keys)),
        "k": k.unflatten(1, (-1, keys)),
        "v": v.unflatten(1, (-1, values)),
    }


def gated_deltanet(
    mixed: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    rates: torch.Tensor,
    bias: torch.Tensor,
    state: torch.Tensor,
) -> Given:
    """mixed: as above. a, b: [B, HV]. rates, bias: `A_log` and `dt_bias`, [HV]. state: of a layer,
    [slots, HV, V, K]."""
    _, heads, values, keys = state.shape
    return parted(mixed, heads, keys, values) | {"a": a, "b": b, "A_log": rates, "dt_bias": bias}


def kimi_delta_attention(
    mixed: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    rates: torch.Tensor,
    bias: torch.Tensor,
    state: torch.Tensor,
) -> Given:
    """The same with a gate for each key channel: a: HV K values a row, b: HV, with an axis of 1 in
    front of or behind the rows, bias: HV K in all."""
    _, heads, values, keys = state.shape
    rows = mixed.shape[0]
    return parted(mixed, heads, keys, values) | {
        "f": a.reshape(rows, heads, keys),
        "b": b.reshape(rows, heads),
        "A_log": rates.reshape(-1),
        "dt_bias": bias.reshape(heads, keys),
    }


@dataclass(frozen=True)
class Recurrence:
    """A shipped spec as SGLang serves it. given: its inputs. rings: its records in the pool, by
    name. drafts: those of windows. rounding: the spec of its single tokens where activations are in
    bfloat16, if SGLang rounds more of these than inputs and outputs."""

    name: str
    given: Callable[..., Given]
    rings: Mapping[str, str]
    drafts: Mapping[str, str]
    rounding: Path | None = None

    def records(self, pool: Any) -> dict[str, torch.Tensor]:
        """The rings of tokens one by one, by the records' names."""
        return {name: getattr(pool.mamba_cache, ring) for name, ring in self.rings.items()}


GATED_DELTANET = Recurrence(
    "gated_deltanet",
    gated_deltanet,
    {"log_decay": "replayssm_g", "k": "replayssm_k", "d": "replayssm_d"},
    {
        "log_decay": "replayssm_g",
        "sigmoid_b": "replayssm_beta",
        "raw_k": "replayssm_rawk",
        "v": "replayssm_rawv",
    },
    Path(__file__).with_name("gated_deltanet.yaml"),
)
KIMI_DELTA_ATTENTION = Recurrence(
    "kimi_delta_attention",
    kimi_delta_attention,
    {"log_decay_K": "replayssm_g", "k": "replayssm_k", "d": "replayssm_d"},
    {
        "log_decay_K": "replayssm_g",
        "sigmoid_b": "replayssm_beta",
        "raw_k": "replayssm_rawk",
        "v": "replayssm_rawv",
    },
)
