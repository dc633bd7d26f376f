"""SGLang's decode kernels: plain ones, which update states in place, and buffered ReplaySSM."""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from kvgen.benching.peers.peer import Peer, Problem, Started

LIBRARY = "sglang"
PACKAGE = "sglang"

# what its server takes where nothing else is said
BUFFER = 16
SPLITS = 2


# Gated DeltaNet and KDA ---------------------------------------------------------------------------


def gated_delta_packed(problem: Problem) -> Started:
    from sglang.kernels.ops.attention.fla.fused_recurrent import (
        fused_recurrent_gated_delta_rule_packed_decode,
    )

    mixed, states, out = problem.packed("q", "k", "v"), problem.states("vk"), problem.outputs()

    def call(layer: int) -> torch.Tensor:
        inputs, params = problem.inputs[layer], problem.params[layer]
        fused_recurrent_gated_delta_rule_packed_decode(
            mixed[layer], inputs["a"], inputs["b"], params["A_log"], params["dt_bias"],
            problem.sizes["K"] ** -0.5, states[layer], out[layer], problem.slots,
            use_qk_l2norm_in_kernel=True,
        )  # fmt: skip
        return out[layer]

    return Started(call)


def kda_packed(problem: Problem, lower_bound: float | None = None) -> Started:
    from sglang.kernels.ops.attention.fla.fused_recurrent import fused_recurrent_kda_packed_decode

    mixed, states, out = problem.packed("q", "k", "v"), problem.states("vk"), problem.outputs()
    biases = [params["dt_bias"].flatten() for params in problem.params]

    def call(layer: int) -> torch.Tensor:
        inputs, params = problem.inputs[layer], problem.params[layer]
        fused_recurrent_kda_packed_decode(
            mixed[layer], inputs["f"].flatten(1), inputs["b"], params["A_log"], biases[layer],
            problem.sizes["K"] ** -0.5, states[layer], out[layer], problem.slots,
            use_qk_l2norm_in_kernel=True, lower_bound=lower_bound,
        )  # fmt: skip
        return out[layer]

    return Started(call)


def bounded_kda_packed(problem: Problem) -> Started:
    return kda_packed(problem, lower_bound=-5.0)


def replay(problem: Problem, gate: str, is_kda: bool) -> Started:
    from sglang.kernels.ops.attention.linear.fused_recurrent_linear_replayssm import (
        fused_recurrent_linear_replayssm_decode,
    )

    sizes = problem.sizes
    heads = sizes["HV"]
    mixed, states, out = problem.packed("q", "k", "v"), problem.states("vk"), problem.outputs()
    deltas = problem.buffers((heads, BUFFER, sizes["V"]), problem.dtype)
    keys = problem.buffers((sizes["H"], BUFFER, sizes["K"]), problem.dtype)
    channels = (sizes["K"],) if is_kda else ()
    decays = problem.buffers((heads, BUFFER, *channels), torch.float32)
    for decay in decays:
        # logarithms of decays are not positive
        decay.abs_().neg_()
    positions = torch.zeros_like(problem.slots)

    def call(layer: int) -> torch.Tensor:
        inputs, params = problem.inputs[layer], problem.params[layer]
        fused_recurrent_linear_replayssm_decode(
            mixed[layer], inputs[gate], inputs["b"], params["A_log"], params["dt_bias"],
            sizes["K"] ** -0.5, states[layer], deltas[layer], keys[layer], decays[layer],
            out[layer], problem.slots, positions,
            use_qk_l2norm_in_kernel=True, is_kda=is_kda, nk=SPLITS,
        )  # fmt: skip
        return out[layer]

    return Started(call, positions, BUFFER)


def gated_delta_replay(problem: Problem) -> Started:
    return replay(problem, "a", is_kda=False)


def kda_replay(problem: Problem) -> Started:
    return replay(problem, "f", is_kda=True)


def gated_delta_record(sizes: Mapping[str, int], element: int) -> int:
    heads = sizes["HV"]
    return (heads * sizes["V"] + sizes["H"] * sizes["K"]) * element + 4 * heads


def kda_record(sizes: Mapping[str, int], element: int) -> int:
    heads, channels = sizes["HV"], sizes["K"]
    return (heads * sizes["V"] + sizes["H"] * channels) * element + 4 * heads * channels


def replay_unfit(sizes: Mapping[str, int]) -> str:
    return "" if sizes["K"] > 16 * (SPLITS - 1) else f"K {sizes['K']} is less than its tiles"


# Mamba-2 ------------------------------------------------------------------------------------------


def mamba2(problem: Problem) -> Started:
    from sglang.kernels.ops.mamba.triton_ops.mamba_ssm import selective_state_update

    sizes, states, out = problem.sizes, problem.states("vk"), problem.outputs()
    heads, channels = sizes["HV"], sizes["V"]
    # computed when weights are loaded; strides of 0 tell the kernel that a head has one decay
    A = [
        (-params["A_log"].exp())[:, None, None].expand(heads, channels, sizes["K"])
        for params in problem.params
    ]

    def call(layer: int) -> torch.Tensor:
        inputs, params = problem.inputs[layer], problem.params[layer]
        selective_state_update(
            states[layer],
            inputs["x"],
            inputs["dt"][..., None].expand(-1, -1, channels),
            A[layer],
            inputs["B"],
            inputs["C"],
            D=params["D"][:, None].expand(heads, channels),
            dt_bias=params["dt_bias"][:, None].expand(heads, channels),
            dt_softplus=True,
            state_batch_indices=problem.slots,
            out=out[layer][:, 0],
        )
        return out[layer]

    return Started(call)


# Lightning attention ------------------------------------------------------------------------------


def seg_la(problem: Problem) -> Started:
    from sglang.kernels.ops.attention.linear.seg_la import SegLaMeta, seg_la_fwd

    states, rows = problem.states("kv"), problem.rows
    ones = torch.ones_like(problem.slots)
    starts = torch.arange(rows + 1, dtype=torch.int32, device=ones.device)
    meta = SegLaMeta(rows, 1, starts, problem.slots, ones, ones.float())

    def call(layer: int) -> torch.Tensor:
        inputs, params = problem.inputs[layer], problem.params[layer]
        return seg_la_fwd(
            inputs["q"], inputs["k"], inputs["v"], states[layer], params["slope"], meta,
            softmax_scale=1.0,
        )  # fmt: skip

    return Started(call)


def seg_la_unfit(sizes: Mapping[str, int]) -> str:
    square = sizes["K"] == sizes["V"] and sizes["K"] % 128 == 0 and sizes["H"] == sizes["HV"]
    return "" if square else "it takes K = V in multiples of 128 and one key head a value head"


def linear_decode(problem: Problem) -> Started:
    from sglang.kernels.ops.attention.linear.lightning_attn import linear_decode_forward_triton

    states = problem.states("kv")
    shape = (problem.rows, problem.sizes["HV"], problem.sizes["V"])

    def call(layer: int) -> torch.Tensor:
        inputs, params = problem.inputs[layer], problem.params[layer]
        q, k, v = (inputs[name].unsqueeze(2) for name in "qkv")
        o = linear_decode_forward_triton(q, k, v, states[layer], params["slope"], problem.slots)
        return o.view(shape)

    return Started(call)


def linear_decode_unfit(sizes: Mapping[str, int]) -> str:
    square = sizes["K"] == sizes["V"] and sizes["K"].bit_count() == 1 and sizes["K"] >= 32
    same = sizes["H"] == sizes["HV"]
    return "" if square and same else "it takes K = V, a power of two, one key head a value head"


IN_CUDA = "written in CUDA from batch 8 up where states are float32, in Triton else"


def buffered(
    family: str,
    start: Callable[[Problem], Started],
    record: Callable[[Mapping[str, int], int], int],
) -> Peer:
    return Peer(
        LIBRARY,
        f"ReplaySSM, L {BUFFER}, nk {SPLITS}",
        family,
        start,
        unfit=replay_unfit,
        buffer=BUFFER,
        record=record,
    )


PEERS = (
    Peer(LIBRARY, "packed decode", "gated_deltanet", gated_delta_packed),
    buffered("gated_deltanet", gated_delta_replay, gated_delta_record),
    Peer(LIBRARY, "packed decode", "kimi_delta_attention", kda_packed, note=IN_CUDA),
    buffered("kimi_delta_attention", kda_replay, kda_record),
    Peer(
        LIBRARY, "packed decode", "kimi_delta_attention_bounded", bounded_kda_packed, note=IN_CUDA
    ),
    Peer(LIBRARY, "selective_state_update", "mamba2", mamba2),
    Peer(LIBRARY, "seg_la", "lightning_attention", seg_la, unfit=seg_la_unfit),
    Peer(
        LIBRARY,
        "linear_decode_forward_triton",
        "lightning_attention",
        linear_decode,
        unfit=linear_decode_unfit,
    ),
)
