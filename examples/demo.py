"""What the buffer is for: Gated DeltaNet token by token beside the recurrence in float64, on a CPU.

A request decodes 3 L + 1 tokens with a buffer of L, so that it folds three times and then goes on.
All kernels run in Triton's interpreter; inputs are float32, so that what is left between the two is
arithmetic. Bytes are counted, as a GPU would move them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# triton reads this when it is imported
os.environ["TRITON_INTERPRET"] = "1"

import torch
from rich.console import Console

import kvgen
from kvgen import compiler
from kvgen.codegen.cost import Cost, cost
from kvgen.shipped import resolve

L = 8
TOKENS = 3 * L + 1
BOUND = 1e-5
# a sixteenth of a layer of Qwen3-Next: its heads are as large, but there are fewer
SIZES = {"H": 1, "HV": 2, "K": 128, "V": 128}

INTRODUCTION = f"""\
A linear-attention layer has a state, a matrix [K, V] for every head. The plain kernel reads and
writes all of it for every token. A module of kvgen's reads it, and leaves what the token changes,
its record, in a buffer; when the buffer is full, all records are folded into the state at once.

Gated DeltaNet, heads of {SIZES["K"]} x {SIZES["V"]}, room for {L} records, without a GPU:
"""
HEADS = f"""\
                                      kB moved              error
token  buffer {"":{L - 4}}  state           kvgen   plain   saved   output    state"""


@dataclass(frozen=True)
class Step:
    """What a token did. held: records in the buffer after it. bytes: those it moved, with its fold.
    plain: those of the plain kernel. errors: of its output and of the state after it."""

    token: int
    held: int
    bytes: int
    plain: int
    errors: tuple[float, float]

    @property
    def line(self) -> str:
        folded = self.held == 0
        bar = "#" * (L if folded else self.held) + "." * (0 if folded else L - self.held)
        state = "read, [bold cyan]folded[/]" if folded else "read        "
        saved = f"{1 - self.bytes / self.plain:5.0%}"
        return (
            f"{self.token:5}  |{bar}|  {state}  {self.bytes / 1e3:7.0f} {self.plain / 1e3:7.0f}"
            f"   {saved}  {self.errors[0]:.1e}  {self.errors[1]:.1e}"
        )


def error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """The norm of the difference over the norm."""
    found = (got.double() - wanted).norm() / wanted.norm()
    # a nan must not look small
    return found.nan_to_num(float("inf")).item()


def counted(overrides: dict[str, str]) -> Cost:
    """The bytes of a token, its inputs in float32."""
    analysis = compiler.analyse(resolve("gated_deltanet"), overrides)
    return cost(analysis.form, analysis.records, input_bytes=4)


def decoded() -> Iterator[Step]:
    """Decode tokens by the module and by the recurrence."""
    overrides = {f"sizes.{axis}": str(size) for axis, size in SIZES.items()}
    gdn: Any = kvgen.compile(resolve("gated_deltanet"), None, **overrides)
    counts = counted(overrides)
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    key_heads, heads, keys, values = SIZES.values()
    params = {"A_log": draw(heads), "dt_bias": draw(heads)}
    slots = torch.tensor([5], dtype=torch.int32)
    cache = gdn.Cache.empty(slots=8, layers=1, device="cpu", dtype=torch.float32, buffer=L)
    cache.reset(slots)
    state = {"S": torch.zeros(1, heads, keys, values, dtype=torch.float64)}
    exact_params = {name: value.double() for name, value in params.items()}
    for token in range(1, TOKENS + 1):
        inputs = {
            "q": draw(1, key_heads, keys),
            "k": draw(1, key_heads, keys),
            "v": draw(1, heads, values),
            "a": draw(1, heads),
            "b": draw(1, heads),
        }
        before = int(cache.cursors[slots])
        o = gdn.decode(cache, 0, slots, **inputs, **params)
        gdn.advance(cache, slots)
        held = int(cache.cursors[slots])

        exact = {name: value.double() for name, value in inputs.items()}
        o_exact, state = gdn.reference(state, **exact, **exact_params)
        errors = error(o, o_exact), error(cache.read(0, slots), state["S"])
        moved = counts.decode_over(before) + (0 if held else counts.fold(before + 1))
        yield Step(token, held, moved, counts.recurrent(), errors)


def main() -> int:
    console = Console(highlight=False, soft_wrap=True)
    console.print(INTRODUCTION, HEADS, sep="\n", markup=False)
    steps: list[Step] = []
    for step in decoded():
        console.print(step.line)
        steps.append(step)

    moved, plain = sum(step.bytes for step in steps), sum(step.plain for step in steps)
    folds = sum(step.held == 0 for step in steps)
    output, state = (max(step.errors[at] for step in steps) for at in (0, 1))
    good = max(output, state) <= BOUND
    console.print(
        f"\n{TOKENS} tokens, {folds} folds: {moved / 1e6:.1f} MB moved, by the plain kernel"
        f" {plain / 1e6:.1f} MB, {plain / moved:.2f} times as many.\n"
        "Decoding waits for these bytes: on a GPU fewer of them are less time.\n"
        f"Errors against float64: outputs {output:.1e}, states {state:.1e}; at most {BOUND:.0e}."
    )
    if good:
        console.print("[bold green]OK[/]: the module computes the recurrence")
    else:
        console.print("[bold red]FAILED[/]: the module is off")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
