"""vLLM with one arm's states: how it is started, what it is asked, how it is stepped."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.servers import models
from benchmarks.servers.processes import MARK, preset

# read when vLLM is imported: the engine runs in this process, nothing is asked of a network, the
# sampler is one that is there, and products of Kimi's layers need no package of their own
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    "VLLM_KIMI_K3_GEMM_AR": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}

BUFFER = 16
# how much the next token of the cycle stands out in a model whose text repeats
PEAK = 60.0
# by what vLLM finds plug-ins, and its own name for ours
PLUGINS, KVGEN = "vllm.general_plugins", "kvgen"


@dataclass(frozen=True)
class Arm:
    """Who decodes, and how states are stored."""

    name: str

    @property
    def ours(self) -> bool:
        return self.name.startswith("kvgen-")

    @property
    def state(self) -> str:
        return self.name.partition("-")[2]

    def options(self, buffer: int, invariant: bool) -> dict[str, Any]:
        """What LLM is given. invariant: kvgen's of that name. vLLM's prompts go through its Triton
        kernels: the other ones are packages of their own."""
        chosen: dict[str, Any] = {"gdn_prefill_backend": "triton"}
        if self.ours:
            chosen["kvgen"] = {"state": self.state, "buffer": buffer, "invariant": invariant}
            return {"additional_config": chosen}
        return {"additional_config": chosen, "mamba_ssm_cache_dtype": self.state}


ARMS = {
    name: Arm(name)
    for name in (
        "stock-float32", "stock-bfloat16", "kvgen-float32", "kvgen-split", "kvgen-bfloat16",
    )
}  # fmt: skip


def prepare(tiny: bool) -> None:
    """Set the environment; before vLLM is imported."""
    preset(ENVIRONMENT, tiny)


def start(
    arm: Arm,
    model: Path,
    *,
    batches: Sequence[int] = (),
    tiny: bool = False,
    buffer: int = BUFFER,
    invariant: bool = False,
    seed: int = 0,
    peak: float = 0.0,
    **options: Any,
) -> Any:
    """vLLM's LLM for an arm, its weights drawn.

    batches: what graphs are captured for; none: no graphs. options: LLM's own, over those here.
    """
    prepare(tiny)
    if arm.ours:
        check_installed()
    from vllm import LLM

    graphs = {
        "mode": 0,
        "cudagraph_mode": "FULL_DECODE_ONLY",
        "cudagraph_capture_sizes": sorted(batches),
    }
    settings: dict[str, Any] = {
        "model": str(model),
        "load_format": drawn(seed, peak),
        "skip_tokenizer_init": True,
        "dtype": "bfloat16",
        "enable_prefix_caching": False,
        "seed": 0,
        **arm.options(buffer, invariant),
        **({} if tiny or not batches else {"compilation_config": graphs}),
        **({"enforce_eager": True} if tiny or not batches else {}),
        **options,
    }
    return LLM(**settings)


def check_installed() -> None:
    """Without its entry point vLLM would decode by itself, and kvgen's arms be its own."""
    if KVGEN not in (each.name for each in metadata.entry_points(group=PLUGINS)):
        raise SystemExit(
            f"kvgen: no {PLUGINS} entry point in this environment, expected kvgen installed "
            "(pip install .), not only on the path"
        )


def spread(ranks: int) -> dict[str, Any]:
    """What LLM is given so that so many GPUs, a process each, hold a share of every layer."""
    # a process that has looked for GPUs is not forked
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    # on a machine without a GPU a process takes any of its cores
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    return {
        "tensor_parallel_size": ranks,
        "distributed_executor_backend": "mp",
        # sums go by NCCL alone, which knows how a machine's GPUs are linked
        "disable_custom_all_reduce": True,
    }


def stop(llm: Any) -> None:
    """End an engine and its processes."""
    llm.llm_engine.engine_core.shutdown()


def drawn(seed: int, peak: float) -> str:
    """What vLLM calls weights as models.py draws them. They are there before vLLM packs them as its
    kernels want them."""
    from vllm.model_executor.model_loader import register_model_loader
    from vllm.model_executor.model_loader.base_loader import BaseModelLoader

    from benchmarks.servers.models import draw

    name = f"drawn-{seed}-{peak:g}"

    @register_model_loader(name)
    class Drawn(BaseModelLoader):
        def download_model(self, model_config: Any) -> None:
            """There is nothing to fetch."""

        def load_weights(self, model: Any, model_config: Any) -> None:
            draw(model, seed, peak)

    return name


def prompt(row: int, length: int, vocabulary: int) -> dict[str, list[int]]:
    """A request's tokens, the same in every arm: no two rows begin alike."""
    return {"prompt_token_ids": [1 + (row * 7919 + at * 104729 + row * at * 31) % (vocabulary - 1)
                                 for at in range(length)]}  # fmt: skip


def repeating(row: int, length: int, vocabulary: int) -> dict[str, list[int]]:
    """A request whose text repeats, in a model that was drawn with `PEAK`."""
    return {"prompt_token_ids": models.cycle(row, length, vocabulary)}


def looked_up(drafts: int) -> dict[str, Any]:
    """LLM's options for so many drafts a step, from the text itself; none for 0."""
    if not drafts:
        return {}
    found = {
        "method": "ngram",
        "num_speculative_tokens": drafts,
        "prompt_lookup_min": 2,
        "prompt_lookup_max": 4,
    }
    return {"speculative_config": found}


def greedy(tokens: int, **options: Any) -> Any:
    from vllm import SamplingParams

    return SamplingParams(
        temperature=0, max_tokens=tokens, detokenize=False, ignore_eos=True, **options
    )


@dataclass
class Steps:
    """What stepping an engine until it is idle has shown. times: when each step's tokens were
    there, in seconds; tokens: how many they were; outputs: token ids by request."""

    times: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    outputs: dict[str, list[int]] = field(default_factory=dict)


def admit(llm: Any, requests: Sequence[tuple[str, Any, Any]]) -> dict[str, str]:
    """Give all requests (name, prompt, parameters) to the engine's core; names by its own ids."""
    server, names = llm.llm_engine, {}
    for name, tokens, parameters in requests:
        request = server.input_processor.process_inputs(
            name, tokens, parameters, supported_tasks=server.get_supported_tasks()
        )
        server.input_processor.assign_request_id(request)
        names[request.request_id] = name
        server.engine_core.add_request(request)
    return names


def steps(llm: Any, count: int) -> Iterator[Sequence[Any]]:
    """What the engine's core gives out in each step, until so many requests are done. What a
    server's front end makes of it is not waited for: it is another process there."""
    while count:
        if outputs := llm.llm_engine.engine_core.get_output().outputs:
            count -= sum(output.finished for output in outputs)
            yield outputs


def run(llm: Any, requests: Sequence[tuple[str, Any, Any]]) -> Steps:
    """Admit all requests together and step until they are done."""
    names = admit(llm, requests)
    found = Steps(outputs={name: [] for name in names.values()})
    for outputs in steps(llm, len(names)):
        found.times.append(time.perf_counter())
        found.tokens.append(sum(len(output.new_token_ids) for output in outputs))
        for output in outputs:
            found.outputs[names[output.request_id]] += output.new_token_ids
    return found


def settle() -> None:
    """What a start has left is not looked through for garbage again and again."""
    gc.collect()
    gc.freeze()


def say(text: str) -> None:
    """To be heard beyond this process's log."""
    print(f"{MARK}{text}", flush=True)


# what vLLM itself says --------------------------------------------------------------------------


def core(llm: Any) -> Any:
    """The engine's core, which runs in this process."""
    return llm.llm_engine.engine_core.engine_core


def memory(llm: Any) -> dict[str, Any]:
    """Blocks, pages and how many requests of the longest kind fit, by vLLM's own account."""
    cache = llm.llm_engine.vllm_config.cache_config
    groups = core(llm).scheduler.kv_cache_config.kv_cache_groups
    config = llm.llm_engine.vllm_config
    return {
        "blocks": cache.num_gpu_blocks,
        "block_size": cache.block_size,
        "requests": cache.kv_cache_max_concurrency,
        "tokens": config.model_config.max_model_len,
        "groups": [
            {
                "kind": type(group.kv_cache_spec).__name__,
                "layers": len(group.layer_names),
                "page_bytes": group.kv_cache_spec.page_size_bytes,
                "blocks_a_request": -(
                    -group.kv_cache_spec.max_memory_usage_bytes(config)
                    // group.kv_cache_spec.page_size_bytes
                ),
            }
            for group in groups
        ],
    }


def versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    import torch
    import triton

    def of(*names: str) -> str:
        for name in names:
            try:
                return version(name)
            except PackageNotFoundError:
                continue
        return "unknown"

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "gpu": gpu,
        "vllm": of("vllm", "vllm-cpu"),
        "torch": str(torch.__version__),
        "triton": triton.__version__,
        "transformers": of("transformers"),
    }


def yielded() -> None:
    """Leave to others what the allocator keeps of the longest prompts."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def peak_bytes() -> int:
    """The most of the GPU's memory that this process has held."""
    import torch

    return torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0
