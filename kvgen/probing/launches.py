"""What a generated module launches: every kernel, with arguments as a server would pass them.

The module's own host code runs on tensors without memory, and its launches are recorded instead of
executed: types, strides, constants and options are those of real calls at the spec's sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from kvgen.codegen.features import EXTEND, VERIFY
from kvgen.codegen.features import SHORT as SHORT_CONTEXTS
from kvgen.kernels.registry import named
from kvgen.kernels.short import SHORT
from kvgen.kernels.size import SHARED
from kvgen.language import spec as specs
from kvgen.language.spec import Spec, Tensor

if TYPE_CHECKING:
    import torch
    from triton.backends.compiler import GPUTarget
    from triton.runtime.jit import JITFunction

# enough that the states take the more than 2 GiB that they have in a server: AMD's compiler
# addresses smaller tensors in another way
SLOTS, LAYERS = 256, 36
# tokens a step may add where there are drafts
WINDOW = 4
DEVICE = "meta"

# what stands in the names of a target's GPUs
GPUS = {
    "sm_80": ("A100", "A800", "A30"),
    "sm_90": ("H100", "H200", "H800", "H20"),
    "sm_100": ("B100", "B200"),
    "sm_120": ("RTX 50", "RTX PRO"),
    "gfx942": ("MI300", "MI325"),
}


@dataclass(frozen=True)
class Launch:
    """A kernel and all that decides which program Triton makes of it."""

    kernel: str
    config: str
    function: JITFunction[Any]
    signature: dict[str, str]
    constants: dict[tuple[int, ...], Any]
    attributes: dict[tuple[int, ...], Any]
    options: dict[str, Any]


def record(
    module: Any, name: str, target: GPUTarget, batches: tuple[int, ...] | None
) -> list[Launch]:
    """The distinct launches of a session with the module on the target's GPUs.

    name: the target's, as in sm_90. batches: None for those that the configurations distinguish.
    """
    spec, wrong = specs.read(module.SPEC["text"])
    assert spec is not None and not wrong
    if target.backend == "hip" and hasattr(module, "EXACT"):
        module.EXACT = module.ROUGH = type(module.EXACT)("ieee")
    with _recorded(target) as recorder:
        _place(module, target)
        for table, buffer in _tables(module, name):
            module.CONFIGS, module.BUFFERS = {"default": table}, {"default": buffer}
            known = {batch for kernel in table.values() for batch in kernel}
            _session(module, spec, batches or tuple(sorted(known)), recorder)
    return recorder.labelled()


@dataclass(frozen=True)
class Case:
    """One configuration of a kernel, and the cache and rows that it is launched for.

    kernel: as configurations name it. rows: the batch. tokens: a window's or a prompt's, 1 for
    kernels that take one.
    """

    kernel: str
    config: dict[str, int]
    rows: int
    slots: int
    layers: int
    buffer: int
    tokens: int = 1


def launches_of(module: Any, case: Case, target: GPUTarget) -> list[Launch]:
    """The distinct launches of one kernel with one configuration: those of a first layer, which
    does not overlap with what ran before, and of others, whose offset is a multiple of 16 or not.
    """
    import torch

    spec, wrong = specs.read(module.SPEC["text"])
    assert spec is not None and not wrong
    configs = module.CONFIGS
    kernel = named(case.kernel)
    tables = kernel.alone(configs["default"]) | {
        case.kernel: {case.rows: kernel.asked(case.config)}
    }
    module.CONFIGS = configs | {"default": tables}
    _place(module, target)
    try:
        with _recorded(target) as recorder:
            cache = module.Cache.empty(
                case.slots, case.layers, device=DEVICE, buffer=case.buffer,
                window=kernel.window(case.tokens),
                **({"short_context": kernel.context} if kernel.context else {}),
            )  # fmt: skip
            # what a cache launches to begin with
            recorder.launches.clear()
            slots = torch.empty(case.rows, dtype=torch.int32, device=DEVICE)
            tokens = (case.tokens,) if kernel.several else ()
            given = {
                **_empty(spec, spec.inputs, cache.dtype, case.rows, *tokens),
                **_empty(spec, spec.params, torch.float32),
                **({"lengths": slots.clone()} if kernel.prompt else {}),
            }
            for layer in (layer for layer in (0, 1, 16) if layer < case.layers):
                kernel.launch(module, cache, layer, slots, given)
    finally:
        module.CONFIGS = configs
    # beside a fold runs what finds out which rows have to
    return [launch for launch in recorder.labelled() if not launch.kernel.endswith("advance")]


def _place(module: Any, target: GPUTarget) -> None:
    """What the module would find on the target, where all decodes of a session are one step's."""
    overlaps = target.backend == "cuda" and int(target.arch) >= 90
    module.overlapping = lambda table, device: overlaps
    name = f"sm_{target.arch}" if target.backend == "cuda" else str(target.arch)
    module.shared_memory = lambda device: SHARED[name]
    # tensors without memory do, for nothing is executed
    module.check_memory = lambda cache: None
    module.step_of = lambda cache, layer, slots: ("step", 1 << layer, slots) if overlaps else None


def _empty(
    spec: Spec, tensors: tuple[Tensor, ...], dtype: torch.dtype, *front: int
) -> dict[str, Any]:
    import torch

    shapes = {tensor.name: [*front, *map(spec.size, tensor.axes)] for tensor in tensors}
    return {name: torch.empty(s, dtype=dtype, device=DEVICE) for name, s in shapes.items()}


def _tables(module: Any, target: str) -> list[tuple[dict[str, Any], int]]:
    """The configurations and the buffer of every GPU of the target, and those of any other."""
    configs, buffers = module.CONFIGS, module.BUFFERS
    return [
        # what is not tuned for a GPU is as for any other
        (configs["default"] | table, buffers.get(gpu, buffers["default"]))
        for gpu, table in configs.items()
        if gpu == "default" or any(part in gpu for part in GPUS[target])
    ]


def _session(module: Any, spec: Spec, batches: tuple[int, ...], recorder: _Recorder) -> None:
    """Call everything that a server calls."""
    import torch

    empty = partial(_empty, spec)
    cache = module.Cache.empty(SLOTS, LAYERS, device=DEVICE)
    # factored keys may leave room for fewer
    tokens = min(WINDOW, cache.buffer)
    drafts = module.Cache.empty(SLOTS, LAYERS, device=DEVICE, window=tokens)
    short = None
    if SHORT_CONTEXTS in module.FEATURES:
        options = {"device": DEVICE, "window": tokens, "short_context": SHORT.context}
        short = module.Cache.empty(SLOTS, LAYERS, **options)
    params = empty(spec.params, torch.float32)
    for batch in batches:
        recorder.batch = batch
        slots = torch.empty(batch, dtype=torch.int32, device=DEVICE)
        inputs = empty(spec.inputs, cache.dtype, batch)
        # the offset of layer 0 is 0, which Triton may compile differently from others
        for layer in (0, 1):
            module.decode(cache, layer, slots, **inputs, **params)
            module.recurrent(cache, layer, slots, **inputs, **params)
        module.advance(cache, slots)
        module.advance(cache, slots, torch.empty(batch, dtype=torch.bool, device=DEVICE))
        module.accept(drafts, slots, counts=slots.clone())
        path = torch.empty(batch, tokens, dtype=torch.int32, device=DEVICE)
        module.accept(drafts, slots, path=path)
        windows = empty(spec.inputs, cache.dtype, batch, tokens)
        for layer in (0, 1):
            if VERIFY in module.FEATURES:
                module.verify(drafts, layer, slots, **windows, **params)
                module.verify(drafts, layer, slots, **windows, **params, parents=path)
            if EXTEND in module.FEATURES:
                module.extend(cache, layer, slots, **windows, **params, lengths=slots.clone())
                if blocks := module.Cache.table.blocks:
                    long = empty(spec.inputs, cache.dtype, batch, 2 * blocks.tokens)
                    module.extend(cache, layer, slots, **long, **params, lengths=slots.clone())
        if short is None:
            continue
        for layer in (0, 1):
            module.decode(short, layer, slots, **inputs, **params)
            module.verify(short, layer, slots, **windows, **params)
            module.verify(short, layer, slots, **windows, **params, parents=path)
            module.extend(short, layer, slots, **windows, **params, lengths=slots.clone())
        module.advance(short, slots)
        module.advance(short, slots, torch.empty(batch, dtype=torch.bool, device=DEVICE))
        module.accept(short, slots, counts=slots.clone())
        module.accept(short, slots, path=path)
    recorder.batch = None
    slots = torch.empty(2, dtype=torch.int32, device=DEVICE)
    for each in (cache, short) if short else (cache,):
        for layer in (0, 1):
            each.load(layer, slots, each.read(layer, slots))
        each.copy(slots, slots.clone())
        each.reset(slots)
        module.flush(each)


@dataclass
class _Recorder:
    """Launches by what identifies them, and the batches that each was used for."""

    target: GPUTarget
    batch: int | None = None
    launches: dict[str, Launch] = field(default_factory=dict)
    batches: dict[str, dict[int | None, None]] = field(default_factory=dict)

    def add(self, function: JITFunction[Any], args: Any, kwargs: dict[str, Any]) -> None:
        from triton.compiler.compiler import make_backend
        from triton.runtime.jit import create_function_from_signature

        # what Triton itself does before it looks for a compiled kernel
        backend = make_backend(self.target)
        bind = create_function_from_signature(function.signature, function.params, backend)
        bound, specialised, options = bind(*args, **kwargs)
        kinds = dict(zip(bound, specialised, strict=True))
        constants, attributes = {}, {}
        for i, (name, (kind, attribute)) in enumerate(kinds.items()):
            if kind == "constexpr":
                constants[i,] = bound[name]
            elif isinstance(attribute, str):
                attributes[i,] = backend.parse_attr(attribute)
        chosen = {p.name: bound[p.name] for p in function.params if p.is_constexpr}
        launch = Launch(
            kernel=function.__name__.removeprefix("_").removesuffix("_kernel"),
            config=" ".join(f"{name}={value}" for name, value in {**chosen, **options}.items()),
            function=function,
            signature={name: kind for name, (kind, _) in kinds.items()},
            constants=constants,
            attributes=attributes,
            options=options,
        )
        key = repr((launch.kernel, kinds, constants, sorted(options.items())))
        self.launches.setdefault(key, launch)
        self.batches.setdefault(key, {})[self.batch] = None

    def labelled(self) -> list[Launch]:
        """Each with what tells it from others of its kernel and configuration, and its batches."""
        launches = []
        for key, launch in self.launches.items():
            alike = [
                other
                for other in self.launches.values()
                if (other.kernel, other.config) == (launch.kernel, launch.config)
            ]
            parts = [launch.config]
            for i, name in enumerate(launch.signature):
                kind = _kind(launch, i, name)
                if any(_kind(other, i, name) != kind for other in alike):
                    parts.append(kind)
            batches = [str(batch) for batch in self.batches[key] if batch is not None]
            if batches:
                parts.append(f"batch={','.join(batches)}")
            launches.append(replace(launch, config=" ".join(filter(None, parts))))
        kernels = list(dict.fromkeys(launch.kernel for launch in launches))
        return sorted(launches, key=lambda launch: kernels.index(launch.kernel))


def _kind(launch: Launch, i: int, name: str) -> str:
    """A parameter as Triton sees it: `rows=1`, `rows:i32`, `rows:i32%16`, `ptr:*bf16%16<2GiB`."""
    if (i,) in launch.constants:
        return f"{name}={launch.constants[i,]}"
    known = dict(launch.attributes.get((i,), ()))
    divisible = "%16" if "tt.divisibility" in known else ""
    small = "<2GiB" if "tt.pointer_range" in known else ""
    return f"{name}:{launch.signature[name]}{divisible}{small}"


@contextmanager
def _recorded(target: GPUTarget) -> Iterator[_Recorder]:
    from triton.runtime.jit import JITFunction

    recorder = _Recorder(target)

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        recorder.add(self, args, kwargs)

    original = JITFunction.run
    JITFunction.run = run
    try:
        yield recorder
    finally:
        JITFunction.run = original
