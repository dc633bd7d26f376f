"""Transformers' generate() on a model like Qwen3-Next: as it is, accelerated, with prompt lookup.

    python benchmarks/servers/transformers_speed.py --json docs/data/h200-transformers.json

The model has random weights, Gated DeltaNet at the sizes of Qwen3-Next-80B, twelve layers of which
nine are linear, and few experts. Its prompt is a text that it has said itself, which repeats, as
prompt lookup likes it. Arms take turns; a time is a whole generate(), prompt included, and is
printed as it comes. `--tiny` shows on a CPU, in Triton's interpreter, that it works.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if "--tiny" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"
    # whose kernels need a GPU
    sys.modules["fla"] = None  # type: ignore[assignment]

import torch
import transformers
import triton

from kvgen.integrations.transformers import accelerate, report, restore

TINY = "--tiny" in sys.argv
DEVICE = "cpu" if TINY else "cuda"
REAL: dict[str, Any] = {
    "vocab_size": 4096,
    "hidden_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
}
SMALL: dict[str, Any] = {
    "vocab_size": 16,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "layer_types": ["linear_attention", "full_attention"],
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
# words of a prompt, words that follow, how often, drafts at a time, the rows of plain decoding
PROMPT, NEW, REPEATS, DRAFTS, ROWS = (12, 4, 1, 3, (1, 2)) if TINY else (256, 96, 3, 10, (1, 8))
# words whose kernels are looked at one by one
PROFILED = 4 if TINY else 8
STATE = "float32"
# rows, drafts at a time, and what `accelerate` is given; None: as the model is
Arm = tuple[int, int, dict[str, Any] | None]


def model_of() -> Any:
    torch.manual_seed(0)
    config = transformers.Qwen3NextConfig(
        **(SMALL if TINY else REAL), pad_token_id=0, bos_token_id=1, eos_token_id=2
    )
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if TINY else torch.bfloat16)
    try:
        with torch.device(DEVICE):
            model = transformers.Qwen3NextForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(dtype)
    # words that outweigh what layers make of them: what it says soon repeats itself, as text does
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=5.0)
    return model


def say(model: Any, prompt: torch.Tensor, new: int, drafts: int = 0) -> torch.Tensor:
    """The words that follow, all of them: [B, new]."""
    lookup = {"prompt_lookup_num_tokens": drafts} if drafts else {}
    said = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=new,
        min_new_tokens=new,
        do_sample=False,
        **lookup,
    )
    return said[:, prompt.shape[1] :]


def timed(model: Any, prompt: torch.Tensor, drafts: int = 0) -> tuple[float, torch.Tensor]:
    wait()
    began = time.perf_counter()
    words = say(model, prompt, NEW, drafts)
    wait()
    return time.perf_counter() - began, words


def wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def shares(model: Any, prompt: torch.Tensor) -> dict[str, float]:
    """Of decoding: the device's time in linear attention of all that it works, and how much of the
    time it works at all."""
    from torch.profiler import ProfilerActivity, profile, record_function

    marks: list[Any] = []

    def begin(*_: Any) -> None:
        marks.append(record_function("linear attention"))
        marks[-1].__enter__()

    def end(*_: Any) -> None:
        marks.pop().__exit__(None, None, None)

    hooks = []
    for layer in model.modules():
        if type(layer).__name__.endswith("GatedDeltaNet"):
            hooks += [layer.register_forward_pre_hook(begin), layer.register_forward_hook(end)]
    cuda = DEVICE == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as found:
        wait()
        began = time.perf_counter()
        say(model, prompt[:, -16:], PROFILED)
        wait()
        wall = 1e6 * (time.perf_counter() - began)
    for hook in hooks:
        hook.remove()
    events = found.key_averages()
    kinds = torch.autograd.DeviceType
    ours = [event for event in events if event.key == "linear attention"]
    marked = next(event for event in ours if event.device_type == kinds.CPU)
    if not cuda:
        return {"linear": marked.cpu_time_total / wall, "busy": 1.0}
    kernels = [each for each in events if each.device_type == kinds.CUDA and each not in ours]
    total = sum(each.self_device_time_total for each in kernels)
    return {"linear": marked.device_time_total / total, "busy": total / wall}


class Counting:
    """How many forward passes there were, by the head of a model."""

    def __init__(self, model: Any) -> None:
        self.passes = 0
        self.hook = model.lm_head.register_forward_hook(self.add)

    def add(self, *_: Any) -> None:
        self.passes += 1


def measure(keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The times of all arms, then the shares of plain decoding. keep: is given what is known so
    far."""
    model = model_of()
    seed = torch.arange(3, 3 + 4 * max(ROWS), device=DEVICE).view(max(ROWS), 4) % 13 + 3
    # long enough that it has begun to repeat itself
    text = torch.cat([seed, say(model, seed, PROMPT if TINY else 2 * PROMPT)], 1)[:, -PROMPT:]
    arms: dict[str, Arm] = {
        name_of(name, rows): (rows, 0, options)
        for rows in ROWS
        for name, options in (("stock", None), ("accelerated", {"state": STATE}))
    }
    arms[name_of("prompt lookup", 1)] = (1, DRAFTS, {"state": STATE, "assisted": True})
    times: dict[str, list[float]] = {name: [] for name in arms}
    words: dict[str, torch.Tensor] = {}
    passes: dict[str, int] = {}
    said = {}
    for turn in range(REPEATS + 1):
        for name, (rows, drafts, options) in arms.items():
            if options is not None:
                said[name] = report(accelerate(model, **options))
            counting = Counting(model)
            took, words[name] = timed(model, text[:rows], drafts)
            counting.hook.remove()
            passes[name] = counting.passes
            print(f"turn {turn} of {REPEATS}  {name:16} {took:7.2f} s", flush=True)
            # the first turn compiles
            if turn:
                times[name].append(took)
            restore(model)
    rows = {
        name: {
            "arm": name.rsplit(",")[0],
            "rows": count,
            "seconds": times[name],
            "tokens_s": count * NEW / statistics.median(times[name]),
            "passes": passes[name],
            "tokens_a_pass": NEW / passes[name],
            # words of each row before the first that stock did not say
            "as_stock": (words[name] == words[name_of("stock", count)])
            .int()
            .cumprod(1)
            .sum(1)
            .tolist(),
        }
        for name, (count, _, _) in arms.items()
    }
    about = {
        "gpu": torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU",
        **{each.__name__: each.__version__ for each in (transformers, torch, triton)},
        "stock_kernels": [name for name in ("fla", "causal_conv1d") if installed(name)],
        "model": SMALL if TINY else REAL,
        "dtype": str(model.dtype),
        "prompt": PROMPT,
        "new": NEW,
        "drafts": DRAFTS,
        "state": STATE,
        "reports": said,
    }
    found = {"about": about, "rows": list(rows.values())}
    keep(found)
    for name, (count, drafts, options) in arms.items():
        if not drafts:
            if options is not None:
                accelerate(model, **options)
            rows[name].update(shares(model, text[:count]))
            restore(model)
            keep(found)
    return found


def name_of(arm: str, rows: int) -> str:
    return f"{arm}, {rows}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--tiny", action="store_true", help="a small model on a CPU")
    options = parser.parse_args()

    def keep(found: dict[str, Any]) -> None:
        if options.json:
            options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    found = measure(keep)
    for each in found["rows"]:
        shown = f"{each['arm']:13} {each['rows']} rows {each['tokens_s']:8.1f} tokens/s"
        shown += f" {each['tokens_a_pass']:5.2f} tokens a pass"
        shown += f"  {min(each['as_stock'])} of {NEW} words as stock's"
        if "linear" in each:
            shown += f"  linear attention {each['linear']:.0%} of the device's time"
            shown += f", which works {each['busy']:.0%} of it"
        print(shown)
    kernels = found["about"]["stock_kernels"]
    print(f"stock takes kernels of {', '.join(kernels) or 'torch alone'}")
    return 0


def installed(name: str) -> bool:
    if name in sys.modules:
        return sys.modules[name] is not None
    return importlib.util.find_spec(name) is not None


if __name__ == "__main__":
    sys.exit(main())
