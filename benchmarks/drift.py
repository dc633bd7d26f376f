"""How far states and outputs are from float64 after thousands of tokens: writes docs/drift.md.

    python benchmarks/drift.py                      on a GPU, the specs' own sizes
    python benchmarks/drift.py --device cpu         in Triton's interpreter, tiny sizes, 512 tokens

All storage modes and the plain kernel are given the same tokens, from a fresh state; gates are as
large as in real models (the specs' `sample`), inputs are bfloat16.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if TYPE_CHECKING:
    import torch

SPECS = ("gated_deltanet", "kimi_delta_attention", "mamba2", "lightning_attention")
# storage mode -> overrides; the plain kernel keeps its state in float32
MODES = {
    "recurrent": {},
    "float32": {},
    "split": {"storage.state": "split", "storage.records": "input"},
    "bfloat16": {"storage.state": "bfloat16"},
    "float16": {"storage.state": "float16"},
}
TOKENS = (64, 512, 4096)
TINY = {"sizes.H": "1", "sizes.HV": "1", "sizes.K": "16", "sizes.V": "8"}
# outputs are compared over this many tokens before each length
LAST = 32


@dataclass(frozen=True)
class Drift:
    """Errors of one storage mode at one length: the worst row, and for outputs the worst token of
    the last few."""

    spec: str
    mode: str
    tokens: int
    state: float
    output: float


class Run:
    """One storage mode's cache; a row is a slot."""

    def __init__(
        self, mode: str, module: ModuleType, rows: int, device: str, dtype: torch.dtype
    ) -> None:
        import torch

        self.mode, self.module = mode, module
        self.plain = mode == "recurrent"
        buffer = 8 if device == "cpu" else None
        self.cache = module.Cache.empty(rows, device=device, dtype=dtype, buffer=buffer)
        self.slots = torch.arange(rows, dtype=torch.int32, device=device)
        self.held = 0
        self.errors: list[torch.Tensor] = []

    def step(
        self, inputs: dict[str, torch.Tensor], params: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        kernel = self.module.recurrent if self.plain else self.module.decode
        out = kernel(self.cache, 0, self.slots, **inputs, **params)
        if self.plain or self.cache.device.type != "cpu":
            self.module.advance(self.cache, self.slots)
        else:
            # as `advance` does, with fewer launches: one takes milliseconds in the interpreter
            self.cache.cursors.add_(1)
            self.held += 1
            if self.held == self.cache.buffer:
                self.module.flush(self.cache)
                self.held = 0
        return out


def drift(
    name: str,
    device: str,
    modes: Iterable[str] = tuple(MODES),
    lengths: Sequence[int] = TOKENS,
    rows: int = 2,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> list[Drift]:
    """Errors of every mode at every length."""
    import torch

    from kvgen import compiler
    from kvgen.checking.errors import errors
    from kvgen.checking.interpreter import require, rounding
    from kvgen.checking.samples import Sampler
    from kvgen.shipped import resolve

    require(device)
    sizes = TINY if device == "cpu" else {}
    runs: list[Run] = []
    for mode in modes:
        analysis = compiler.analyse(resolve(name), {**sizes, **MODES[mode]})
        runs.append(Run(mode, compiler.built(analysis), rows, device, torch.bfloat16))
    sampler = Sampler(analysis.spec, device, seed)
    params = sampler.params()
    exact_params = {key: x.double() for key, x in params.items()}
    matrix = analysis.form.state.name
    states: dict[str, torch.Tensor] | None = None
    found: list[Drift] = []
    with rounding():
        for token in range(1, max(lengths) + 1):
            inputs = sampler.inputs(rows, torch.bfloat16)
            exact = {key: x.double() for key, x in inputs.items()}
            wanted, states = runs[0].module.reference(states, **exact, **exact_params)
            for run in runs:
                error = errors(run.step(inputs, params), wanted)
                run.errors = [*run.errors[1 - LAST :], error]
            if token not in lengths:
                continue
            for run in runs:
                got = run.cache.read(0, run.slots)
                got = got[matrix] if isinstance(got, dict) else got
                state = errors(got, states[matrix]).max().item()
                output = torch.stack(run.errors).max().item()
                found.append(Drift(name, run.mode, token, state, output))
            if progress is not None:
                progress(f"{name}: {token} tokens")
    return found


def table(found: Sequence[Drift]) -> str:
    """Markdown: a row for each spec and storage mode, the lengths beside each other."""
    lengths = sorted({each.tokens for each in found})
    errors = {(each.spec, each.mode, each.tokens): each for each in found}
    head = [f"{what}, {length}" for what in ("state", "output") for length in lengths]
    lines = [
        "| spec | stored state | " + " | ".join(head) + " |",
        "| --- | --- |" + " ---: |" * len(head),
    ]
    for spec, mode in dict.fromkeys((each.spec, each.mode) for each in found):
        cells = [f"{errors[spec, mode, length].state:.1e}" for length in lengths]
        cells += [f"{errors[spec, mode, length].output:.1e}" for length in lengths]
        what = "float32, plain kernel" if mode == "recurrent" else mode
        lines.append(f"| {spec} | {what} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def page(found: Sequence[Drift], device: str) -> str:
    import torch
    import triton

    where = torch.cuda.get_device_name() if device == "cuda" else "Triton's interpreter"
    return (
        "# Drift\n\n"
        "Errors after so many tokens from a fresh state, taken as [method.md](method.md#errors) "
        "says. States are read with their unfolded records; outputs are the worst of the last "
        f"{LAST} tokens. Gates are as large as in real models: the specs' `sample`.\n\n"
        "An error of the state that went on growing from column to column would in the end spoil "
        "long texts. *split* keeps the state of a float32 kernel; its outputs carry the rounding "
        "of what a decode reads.\n\n"
        f"{table(found)}\n"
        f"{where}, torch {torch.__version__}, triton {triton.__version__}. "
        "Written by `python benchmarks/drift.py`.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--spec", action="append", help="a shipped spec; may be repeated")
    parser.add_argument("--tokens", type=int, nargs="+")
    parser.add_argument("-o", "--output", type=Path, help="[default: docs/drift.md]")
    options = parser.parse_args()
    if options.device == "cpu":
        # triton reads this when it is imported
        os.environ["TRITON_INTERPRET"] = "1"
    lengths = options.tokens or (TOKENS if options.device == "cuda" else TOKENS[:2])
    found: list[Drift] = []

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    for name in options.spec or SPECS:
        found += drift(name, options.device, lengths=lengths, progress=say)
    path = options.output or Path(__file__).resolve().parent.parent / "docs" / "drift.md"
    path.write_text(page(found, options.device), encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
