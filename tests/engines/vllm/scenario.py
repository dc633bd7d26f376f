"""What the engine is asked for, the same of vLLM as it is and with kvgen: python scenario.py FOLDER
OUT SETTINGS [DRAFTS]. OUT: tokens and their two best log-probabilities by request."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "TRITON_INTERPRET": "1",
    "OMP_NUM_THREADS": "1",
}
# blocks of attention hold so many tokens
BLOCK = 256
# of those that there are one is padding; a request takes one of each group of layers, and another
# one of attention's behind every 256 tokens: three requests fit, but not to their end
BLOCKS = 1 + 11


def prompt(seed: int, length: int) -> dict[str, list[int]]:
    return {
        "prompt_token_ids": [1 + (seed * 37 + at * at * 13 + at * 7) % 62 for at in range(length)]
    }


def repeating(seed: int, length: int) -> dict[str, list[int]]:
    """One that drafts are found for."""
    return {"prompt_token_ids": [1 + (seed * 37 + at % 5 * 11) % 62 for at in range(length)]}


def started(folder: str, settings: dict[str, Any], drafts: int) -> Any:
    # what is no checkpoint vLLM has no kernels for on a CPU, either
    bare = not any(Path(folder).glob("*.safetensors"))
    if bare:
        import interpreted

        interpreted.prepare()
    from vllm import EngineArgs, LLMEngine

    more: dict[str, Any] = {}
    if bare:
        import tiny

        interpreted.adapt()
        more["load_format"] = tiny.drawn()
    if drafts:
        more["speculative_config"] = {
            "method": "ngram",
            "num_speculative_tokens": drafts,
            "prompt_lookup_max": 3,
            "prompt_lookup_min": 1,
        }
    if settings:
        more["additional_config"] = {"kvgen": settings}
    else:
        more["mamba_ssm_cache_dtype"] = "float32"
    arguments = EngineArgs(
        model=folder, skip_tokenizer_init=True, enforce_eager=True, dtype="bfloat16", seed=0,
        max_model_len=2 * BLOCK, max_num_seqs=4, max_num_batched_tokens=128,
        enable_prefix_caching=False, num_gpu_blocks_override=BLOCKS, **more,
    )  # fmt: skip
    return LLMEngine.from_engine_args(arguments)


class Session:
    """Requests to one engine, and what it has said."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.said = engine, {}

    def ask(self, name: str, tokens: dict[str, list[int]], count: int) -> None:
        from vllm import SamplingParams

        greedy = SamplingParams(
            temperature=0, max_tokens=count, detokenize=False, ignore_eos=True, logprobs=2
        )
        self.engine.add_request(name, tokens, greedy)

    def steps(self, most: int = 1000) -> None:
        for _ in range(most):
            if not self.engine.has_unfinished_requests():
                return
            for output in self.engine.step():
                if output.finished:
                    best = [
                        sorted((each.logprob for each in place.values()), reverse=True)[:2]
                        for place in output.outputs[0].logprobs
                    ]
                    self.said[output.request_id] = [list(output.outputs[0].token_ids), best]


def play(session: Session, drafts: int, attention: bool) -> None:
    # prompts in chunks beside rows that decode, and one that goes away
    session.ask("long", prompt(1, 300 if attention else 140), 5)
    session.ask("short", prompt(2, 9), 8)
    session.steps(2)
    session.ask("gone", prompt(4, 30), 40)
    session.steps(3)
    session.engine.abort_request(["gone"])
    # into the blocks of others; one of a single token, unless there are drafts: then vLLM takes it
    # for one that goes on from what is in its block
    if not drafts:
        session.ask("single", prompt(3, 1), 6)
    session.ask("after", repeating(5, 40), 30)
    session.steps()
    if not attention:
        return
    # each needs another block in the middle of decoding, and there is none: some begin again
    for number in range(3):
        session.ask(f"crossing {number}", repeating(6 + number, BLOCK - 6 + 2 * number), 8)
    session.steps()


def quicken(module: Any) -> None:
    """A program for each head: in the interpreter time goes with the number of programs."""
    tile = 1 << (module.SIZES["V"] - 1).bit_length()
    for kernels in module.CONFIGS.values():
        for config in kernels["decode"].values():
            config["TILE"] = tile


def is_attention(layer: Any) -> bool:
    from vllm.model_executor.layers.attention import Attention

    return isinstance(layer, Attention)


def follows(layer: Any) -> bool | None:
    """Whether a module's copies of a layer's weights become those that the layer is given, where
    they lie; None where it has none."""
    import torch

    from kvgen.integrations.vllm.delta import own

    copies = layer.taps()
    if not copies:
        return None
    places = [each.data_ptr() for each in copies.values()]
    weight = own.weight_of(layer)
    weight.mul_(2.0)
    after = layer.taps()
    flat = torch.cat([each.flatten(1) for each in after.values()], dim=1)
    return torch.equal(flat, weight.T) and places == [each.data_ptr() for each in after.values()]


def main(folder: str, out: str, given: str, drafts: str = "0") -> None:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    settings = json.loads(given)
    engine = started(folder, settings, int(drafts))
    core = engine.engine_core.engine_core
    layers = core.vllm_config.compilation_config.static_forward_context.values()
    found: dict[str, Any] = {}
    if settings:
        from shadow import Shadow

        quicken(next(layer.served.module for layer in layers if hasattr(layer, "served")))

        shadow = Shadow(settings["state"])
        shadow.watch()
        found |= {"worst": shadow.worst, "counts": shadow.counts}
    counted = core.scheduler._preempt_request
    found["preempted"] = 0

    def preempt(*arguments: Any, **options: Any) -> Any:
        found["preempted"] += 1
        return counted(*arguments, **options)

    core.scheduler._preempt_request = preempt
    session = Session(engine)
    play(session, int(drafts), any(is_attention(layer) for layer in layers))
    found["follows"] = [follows(layer) for layer in layers if hasattr(layer, "taps")]
    groups = {id(layer.group): layer.group for layer in layers if hasattr(layer, "served")}
    found |= {
        "said": session.said,
        "layers": sorted(type(layer).__name__ for layer in layers),
        "groups": [group.size for group in groups.values()],
        "apart": [group.apart for group in groups.values()],
        "shared": [layer.groups.shared for layer in layers if hasattr(layer, "served")],
    }
    Path(out).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
