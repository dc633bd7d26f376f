"""What a module gets of each layer class, and what the layer makes of its output.

The projections, the convolution, the gated norm and the output projection stay the layer's own;
the recurrence between them is the module's, with the gates and norms that its spec has.
"""

from __future__ import annotations

import math
from typing import Any

import torch

Named = dict[str, torch.Tensor]


class Adapter:
    """A layer class: its spec and sizes, the way of a token through it.

    Tensors of tokens are [B, T, …]. What `projected` gives is `mixed` [B, T, channels], which the
    convolution goes over, and whatever `inputs` and `output` need besides.
    """

    # whether the layer keeps its states as [B, HV, V, K]
    transposed = False
    # whether it masks padding behind the convolution too, which may have a bias
    masks_twice = False

    def spec(self, layer: Any) -> str:
        """The name of the shipped spec."""
        raise NotImplementedError

    def sizes(self, layer: Any) -> dict[str, int]:
        """The spec's sizes."""
        return {
            "H": layer.num_k_heads,
            "HV": layer.num_v_heads,
            "K": layer.head_k_dim,
            "V": layer.head_v_dim,
        }

    def params(self, layer: Any) -> Named:
        """The spec's parameters."""
        return {"A_log": layer.A_log, "dt_bias": layer.dt_bias}

    def projected(self, layer: Any, hidden: torch.Tensor) -> tuple[torch.Tensor, Named]:
        raise NotImplementedError

    def inputs(self, layer: Any, mixed: torch.Tensor, rest: Named) -> Named:
        """The spec's inputs from `mixed` behind the convolution."""
        q, k, v = mixed.split([layer.key_dim, layer.key_dim, layer.value_dim], dim=-1)
        return {
            "q": q.unflatten(-1, (-1, layer.head_k_dim)),
            "k": k.unflatten(-1, (-1, layer.head_k_dim)),
            "v": v.unflatten(-1, (-1, layer.head_v_dim)),
            "a": rest["a"],
            "b": rest["b"],
        }

    def of_prompt(self, layer: Any, inputs: Named) -> Named:
        """The inputs of a prompt, where the layer takes them otherwise than of single tokens."""
        return inputs

    def output(self, layer: Any, core: torch.Tensor, rest: Named) -> torch.Tensor:
        """The layer's output from the module's, `core` [B, T, HV, V]."""
        raise NotImplementedError

    def turned(self, state: torch.Tensor) -> torch.Tensor:
        """A state as the module has it from one as the layer has it, and back."""
        return state.transpose(-1, -2) if self.transposed else state


def normed(norm: Any, core: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """The gated norm of every head, [B, T, HV, V] → [B, T, HV · V]."""
    width = core.shape[-1]
    return norm(core.reshape(-1, width), gate.reshape(-1, width)).reshape(*core.shape[:2], -1)


class Qwen3Next(Adapter):
    def spec(self, layer: Any) -> str:
        return "gated_deltanet"

    def projected(self, layer: Any, hidden: torch.Tensor) -> tuple[torch.Tensor, Named]:
        q, k, v, z, b, a = layer.fix_query_key_value_ordering(
            layer.in_proj_qkvz(hidden), layer.in_proj_ba(hidden)
        )
        mixed = torch.cat([each.flatten(2) for each in (q, k, v)], dim=-1)
        return mixed, {"a": a, "b": b, "z": z}

    def output(self, layer: Any, core: torch.Tensor, rest: Named) -> torch.Tensor:
        return layer.out_proj(normed(layer.norm, core, rest["z"]))


class Qwen3_5(Qwen3Next):
    def projected(self, layer: Any, hidden: torch.Tensor) -> tuple[torch.Tensor, Named]:
        rest = {name: getattr(layer, f"in_proj_{name}")(hidden) for name in ("a", "b", "z")}
        return layer.in_proj_qkv(hidden), rest


class OlmoHybrid(Adapter):
    def spec(self, layer: Any) -> str:
        # gates up to 2 are what tells the two recurrences apart
        return "olmo_hybrid" if layer.allow_neg_eigval else "gated_deltanet"

    def projected(self, layer: Any, hidden: torch.Tensor) -> tuple[torch.Tensor, Named]:
        rest = {name: getattr(layer, f"{name}_proj")(hidden) for name in ("a", "b", "g")}
        return qkv_of(layer, hidden), rest

    def output(self, layer: Any, core: torch.Tensor, rest: Named) -> torch.Tensor:
        return layer.o_proj(normed(layer.o_norm, core, rest["g"]))


class KimiLinear(Adapter):
    def spec(self, layer: Any) -> str:
        return "kimi_delta_attention"

    def sizes(self, layer: Any) -> dict[str, int]:
        heads, width = layer.num_heads, layer.head_dim
        return {"H": heads, "HV": heads, "K": width, "V": width}

    def params(self, layer: Any) -> Named:
        gate = layer.forget_gate
        return {"A_log": gate.A_log.flatten(), "dt_bias": gate.dt_bias.unflatten(0, self.of(layer))}

    def projected(self, layer: Any, hidden: torch.Tensor) -> tuple[torch.Tensor, Named]:
        gate = layer.forget_gate
        return qkv_of(layer, hidden), {
            "f": gate.f_b_proj(gate.f_a_proj(hidden)).unflatten(-1, self.of(layer)),
            "b": layer.b_proj(hidden),
            "g": layer.g_b_proj(layer.g_a_proj(hidden)),
        }

    def inputs(self, layer: Any, mixed: torch.Tensor, rest: Named) -> Named:
        q, k, v = mixed.unflatten(-1, (3, *self.of(layer))).unbind(2)
        return {"q": q, "k": k, "v": v, "f": rest["f"], "b": rest["b"]}

    def output(self, layer: Any, core: torch.Tensor, rest: Named) -> torch.Tensor:
        gate = rest["g"].unflatten(-1, self.of(layer))
        return layer.o_proj(layer.o_norm(core, gate).flatten(2))

    def of(self, layer: Any) -> tuple[int, int]:
        return layer.num_heads, layer.head_dim


class Mamba2(Adapter):
    transposed = masks_twice = True

    def spec(self, layer: Any) -> str:
        return "mamba2"

    def sizes(self, layer: Any) -> dict[str, int]:
        return {
            "H": layer.n_groups,
            "HV": layer.num_heads,
            "K": layer.ssm_state_size,
            "V": layer.head_dim,
        }

    def params(self, layer: Any) -> Named:
        return {"A_log": layer.A_log, "dt_bias": layer.dt_bias, "D": layer.D}

    def projected(self, layer: Any, hidden: torch.Tensor) -> tuple[torch.Tensor, Named]:
        gate, mixed, dt = layer.in_proj(hidden).split(
            [layer.intermediate_size, layer.conv_dim, layer.num_heads], dim=-1
        )
        return mixed, {"gate": gate, "dt": dt}

    def inputs(self, layer: Any, mixed: torch.Tensor, rest: Named) -> Named:
        of_group = layer.n_groups * layer.ssm_state_size
        x, B, C = mixed.split([layer.intermediate_size, of_group, of_group], dim=-1)
        return {
            "x": x.unflatten(-1, (-1, layer.head_dim)),
            "B": B.unflatten(-1, (layer.n_groups, -1)),
            "C": C.unflatten(-1, (layer.n_groups, -1)),
            "dt": rest["dt"],
        }

    def of_prompt(self, layer: Any, inputs: Named) -> Named:
        # the layer holds softplus(dt + dt_bias) within limits, of prompts alone
        least, most = (unsoftened(limit) - layer.dt_bias.float() for limit in layer.time_step_limit)
        return {**inputs, "dt": torch.minimum(torch.maximum(inputs["dt"].float(), least), most)}

    def output(self, layer: Any, core: torch.Tensor, rest: Named) -> torch.Tensor:
        gate = rest["gate"]
        return layer.out_proj(layer.norm(core.flatten(2), gate).to(gate.dtype))


def unsoftened(y: float) -> float:
    """What softplus makes y of."""
    if y <= 0:
        return -math.inf
    return y + math.log(-math.expm1(-y)) if y < math.inf else y


def qkv_of(layer: Any, hidden: torch.Tensor) -> torch.Tensor:
    """q, k and v from projections of their own."""
    return torch.cat([layer.q_proj(hidden), layer.k_proj(hidden), layer.v_proj(hidden)], dim=-1)


ADAPTERS: dict[str, Adapter] = {
    "Qwen3NextGatedDeltaNet": Qwen3Next(),
    "Qwen3_5GatedDeltaNet": Qwen3_5(),
    "Qwen3_5MoeGatedDeltaNet": Qwen3_5(),
    "KimiLinearDeltaAttention": KimiLinear(),
    "OlmoHybridGatedDeltaNet": OlmoHybrid(),
    "NemotronHMamba2Mixer": Mamba2(),
    "Mamba2Mixer": Mamba2(),
}
