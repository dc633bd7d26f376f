"""SGLang with one arm's states: how it is started, what it is asked, how it is stepped.

Its scheduler runs in this process, with the loop that it has in a server; requests come from here
and not over a socket, and a step's tokens are looked at where its results are."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.servers.engine import BUFFER, Steps, peak_bytes, prompt, say, settle
from benchmarks.servers.processes import preset

__all__ = ["ARMS", "BUFFER", "Arm", "Request", "Server", "peak_bytes", "prepare", "say", "settle"]

# read when SGLang is imported: FlashInfer is not looked for, nothing is asked of a network, and the
# few things that torch compiles need no processes of their own
ENVIRONMENT = {
    "SGLANG_IS_FLASHINFER_AVAILABLE": "0",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
}


@dataclass(frozen=True)
class Arm:
    """Who decodes, and how states are stored: `stock`, `replay` (SGLang's own rings) or `kvgen`."""

    name: str

    @property
    def who(self) -> str:
        return self.name.partition("-")[0]

    @property
    def ours(self) -> bool:
        return self.who == "kvgen"

    @property
    def state(self) -> str:
        return self.name.partition("-")[2]

    def environment(self, buffer: int, drafts: bool) -> dict[str, str]:
        """What the plug-in of this process reads. Rings for drafts have places of their own."""
        if not self.ours:
            return {}
        return {"KVGEN_SGLANG": f"state={self.state}" + ("" if drafts else f",buffer={buffer}")}

    def options(self, buffer: int, drafts: bool) -> dict[str, Any]:
        """What SGLang's arguments are given."""
        chosen: dict[str, Any] = {"mamba_ssm_dtype": self.state}
        if self.who == "replay" and drafts:
            chosen["enable_linear_replayssm_spec"] = True
        elif self.who == "replay":
            chosen |= {"enable_linear_replayssm": True, "linear_replayssm_cache_len": buffer}
        return chosen


ARMS = {
    name: Arm(name)
    for name in (
        "stock-float32", "stock-bfloat16", "replay-float32", "replay-bfloat16",
        "kvgen-float32", "kvgen-bfloat16",
    )
}  # fmt: skip


def prepare(tiny: bool = False) -> None:
    """Set the environment; before SGLang is imported."""
    preset(ENVIRONMENT, tiny)


def arguments(
    arm: Arm,
    model: Path,
    *,
    batches: Sequence[int] = (),
    buffer: int = BUFFER,
    drafts: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """What SGLang is given for an arm. batches: what graphs are captured for; none: no graphs.
    options: over those here."""
    graphs: dict[str, Any] = {"disable_cuda_graph": True}
    if batches:
        graphs = {"cuda_graph_bs_decode": sorted(batches), "disable_prefill_cuda_graph": True}
    return {
        "model_path": str(model),
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "dtype": "bfloat16",
        "random_seed": 0,
        "attention_backend": "triton",
        "linear_attn_backend": "triton",
        "moe_runner_backend": "triton",
        "sampling_backend": "pytorch",
        "grammar_backend": "none",
        "disable_overlap_schedule": True,
        "disable_radix_cache": True,
        "page_size": 1,
        "chunked_prefill_size": -1,
        "watchdog_timeout": 600.0,
        "log_level": "warning",
        **graphs,
        **arm.options(buffer, drafts),
        **options,
    }


@dataclass(frozen=True)
class Request:
    """tokens: the prompt. new: how many more."""

    name: str
    tokens: Sequence[int]
    new: int


def asked(name: str, row: int, length: int, new: int, vocabulary: int) -> Request:
    return Request(name, prompt(row, length, vocabulary)["prompt_token_ids"], new)


@dataclass
class Server:
    """A scheduler and what it has been asked.

    held: SGLang's own requests, by name. gone: those that were aborted before they ran. feed: what
    else SGLang is given before a step, until it is None. after: called with each step's batch and
    result.
    """

    scheduler: Any
    steps: Steps = field(default_factory=Steps)
    held: dict[str, Any] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    waiting: list[Any] = field(default_factory=list)
    feed: Callable[[], Sequence[Any]] | None = None
    after: Callable[[Any, Any], None] | None = None

    def __post_init__(self) -> None:
        scheduler = self.scheduler
        scheduler.request_receiver = self
        # the front end, which would hear of each token, is not there
        channels = scheduler.ipc_channels
        channels.send_to_detokenizer.socket = channels.send_to_tokenizer.socket = None
        queue, results = scheduler._add_request_to_queue, scheduler.process_batch_result

        def queued(request: Any, is_retracted: bool = False) -> None:
            if request.rid not in self.held:
                self.held[request.rid] = request
            queue(request, is_retracted)

        def processed(batch: Any, result: Any) -> None:
            rows = list(batch.reqs)
            before = sum(len(each.output_ids) for each in rows)
            results(batch, result)
            self.steps.times.append(time.perf_counter())
            self.steps.tokens.append(sum(len(each.output_ids) for each in rows) - before)
            if self.after is not None:
                self.after(batch, result)

        scheduler._add_request_to_queue = queued
        scheduler.process_batch_result = processed

    def recv_requests(self) -> Sequence[Any]:
        """What SGLang's loop asks for before each step; where nothing is left, the loop ends."""
        given = [*self.waiting, *(self.feed() if self.feed is not None else ())]
        self.waiting.clear()
        if not given and self.feed is None and self.idle():
            self.scheduler.gracefully_exit = True
        return given

    def done(self, request: Any) -> bool:
        return bool(request.finished()) or request.rid in self.gone

    def idle(self) -> bool:
        return all(map(self.done, self.held.values()))

    def abort(self, name: str) -> Any:
        """What SGLang is given to abort a request, and all whose names begin with its name."""
        if any(each.rid == name for each in self.scheduler.waiting_queue):
            # it is dropped there, without an end
            self.gone.add(name)
        return aborted(name)

    def run(self, requests: Sequence[Request]) -> Steps:
        """Admit all requests together and step until they are done."""
        self.steps, self.held, self.gone = Steps(), {}, set()
        self.waiting = [tokenized(each) for each in requests]
        self.loop()
        # a last window may give more than was asked for
        self.steps.outputs = {each.name: list(self.held[each.name].output_ids)[: each.new]
                              for each in requests}  # fmt: skip
        return self.steps

    def loop(self) -> None:
        self.scheduler.gracefully_exit = False
        if self.scheduler.enable_overlap:
            # with the stream of its own that this schedule has
            self.scheduler.run_event_loop()
        else:
            self.scheduler.event_loop_normal()


def tokenized(request: Request) -> Any:
    """A request as SGLang's scheduler gets it: the likeliest token, so many times."""
    from sglang.srt.managers.io_struct import TokenizedGenerateReqInput
    from sglang.srt.sampling.sampling_params import SamplingParams

    parameters = SamplingParams(temperature=0.0, max_new_tokens=request.new, ignore_eos=True)
    parameters.normalize(None)
    return TokenizedGenerateReqInput(
        rid=request.name, input_text="", input_ids=array("q", request.tokens), input_embeds=None,
        mm_inputs=None, token_type_ids=None, sampling_params=parameters, return_logprob=False,
        logprob_start_len=-1, top_logprobs_num=0, token_ids_logprob=None, stream=False,
    )  # fmt: skip


def aborted(name: str) -> Any:
    from sglang.srt.managers.io_struct import AbortReq

    return AbortReq(rid=name)


def start(
    arm: Arm,
    model: Path,
    *,
    batches: Sequence[int] = (),
    tiny: bool = False,
    buffer: int = BUFFER,
    seed: int = 0,
    peak: float = 0.0,
    drafts: bool = False,
    **options: Any,
) -> Server:
    """SGLang's scheduler for an arm, its weights drawn as models.py draws them."""
    prepare(tiny)
    os.environ.update(arm.environment(buffer, drafts))
    given = arguments(
        arm, model, batches=() if tiny else batches, buffer=buffer, drafts=drafts, **options
    )
    from sglang.srt.plugins import load_plugins

    load_plugins()
    from sglang.srt.entrypoints.engine import _set_envs_and_config
    from sglang.srt.managers.scheduler import Scheduler, configure_scheduler_process
    from sglang.srt.model_loader import loader
    from sglang.srt.runtime_context import publish
    from sglang.srt.server_args import PortArgs, ServerArgs

    from benchmarks.servers.models import draw

    loader.initialize_dummy_weights = lambda model: draw(model, seed, peak)
    settings = ServerArgs(**given)
    _set_envs_and_config(settings)
    configure_scheduler_process(settings, 0, 0, 0, 0, 0, 0, None)
    publish(settings, role="scheduler")
    ports = PortArgs.init_new(settings)
    server = Server(Scheduler(settings, ports, 0, 0, 0, 0, 0, 0, None))
    if served(server).startswith("kvgen.") != arm.ours:
        raise RuntimeError(f"{arm.name} is decoded by {served(server)}")
    return server


# what SGLang itself says ------------------------------------------------------------------------


def runner(server: Server) -> Any:
    return server.scheduler.tp_worker.model_runner


def served(server: Server) -> str:
    """The class of what decodes in linear layers, by SGLang's own account."""
    backend = runner(server).attn_backend.linear_attn_backend
    windows = getattr(backend, "windows", None)
    if windows is not None:
        return type(windows).__module__ + ".Windows"
    kind = type(backend.kernel_dispatcher.decode_kernel)
    return f"{kind.__module__}.{kind.__name__}"


def memory(server: Server) -> dict[str, Any]:
    """What SGLang's pools have, by its own account."""
    found, scheduler = runner(server), server.scheduler
    pool = found.req_to_token_pool.mamba_pool
    return {
        "requests": int(scheduler.max_running_requests),
        "tokens": int(scheduler.max_total_num_tokens),
        "states": int(pool.size),
        "state_bytes": bytes_of(pool.mamba_cache),
    }


def bytes_of(cache: Any) -> dict[str, int]:
    """Bytes a slot of each of a pool's tensors, all layers together."""
    import dataclasses

    import torch

    found = {}
    for each in dataclasses.fields(cache):
        value = getattr(cache, each.name)
        for at, tensor in enumerate(value if isinstance(value, list | tuple) else [value]):
            if isinstance(tensor, torch.Tensor) and tensor.dim() > 1:
                name = each.name if not isinstance(value, list | tuple) else f"{each.name}{at}"
                found[name] = tensor.nbytes // tensor.shape[1]
    return found


def key_bytes(server: Server) -> int:
    """What a token takes of keys and values, in all layers of attention."""
    pool = runner(server).token_to_kv_pool
    pool = getattr(pool, "full_kv_pool", pool)
    return sum(each[0].nbytes for each in (*pool.k_buffer, *pool.v_buffer))


def versions() -> dict[str, str]:
    from importlib.metadata import version

    import torch
    import triton

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "gpu": gpu,
        "sglang": version("sglang"),
        "torch": str(torch.__version__),
        "triton": triton.__version__,
        "transformers": version("transformers"),
    }


def scratch() -> Path:
    return Path(tempfile.mkdtemp())
