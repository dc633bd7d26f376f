"""Compile Gated DeltaNet and run it token by token next to the recurrence in float64, on a CPU.

Three requests decode 3 L + 1 tokens with a buffer of L, so that every row folds three times and
then goes on. All kernels run in Triton's interpreter; inputs are float32, so that what is left
between the two is arithmetic.
"""

from __future__ import annotations

import os
import sys

# triton reads this when it is imported
os.environ["TRITON_INTERPRET"] = "1"

import torch
from rich.console import Console
from rich.table import Table

import kvgen
from kvgen.shipped import resolve

L = 8
TOKENS = 3 * L + 1
SHOWN = (1, 2, L - 1, L, L + 1, 2 * L, 3 * L, 3 * L + 1)
BOUND = 1e-5
SIZES = {"sizes.H": 2, "sizes.HV": 4, "sizes.K": 32, "sizes.V": 32}


def worst(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest error of a row: the norm of the difference over the norm."""
    rows = (got.double() - wanted).flatten(1).norm(dim=1) / wanted.flatten(1).norm(dim=1)
    # a nan must not look small
    return rows.nan_to_num(float("inf")).max().item()


def main() -> int:
    console = Console()
    console.print("compiling gated_deltanet with H=2 HV=4 K=32 V=32 ...")
    gdn = kvgen.compile(resolve("gated_deltanet"), None, **SIZES)

    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    rows, heads, key_heads, keys, values = 3, 4, 2, 32, 32
    params = {"A_log": draw(heads), "dt_bias": draw(heads)}
    slots = torch.tensor([5, 2, 6], dtype=torch.int32)
    cache = gdn.Cache.empty(slots=8, layers=1, device="cpu", dtype=torch.float32, buffer=L)
    cache.reset(slots)
    state = {"S": torch.zeros(rows, heads, keys, values, dtype=torch.float64)}
    exact_params = {name: value.double() for name, value in params.items()}

    table = Table("token", "records after it", "output error", "state error", box=None)
    output_error = state_error = 0.0
    for token in range(1, TOKENS + 1):
        inputs = {
            "q": draw(rows, key_heads, keys),
            "k": draw(rows, key_heads, keys),
            "v": draw(rows, heads, values),
            "a": draw(rows, heads),
            "b": draw(rows, heads),
        }
        o = gdn.decode(cache, 0, slots, **inputs, **params)
        gdn.advance(cache, slots)
        exact = {name: value.double() for name, value in inputs.items()}
        o_exact, state = gdn.reference(state, **exact, **exact_params)

        errors = worst(o, o_exact), worst(cache.read(0, slots), state["S"])
        output_error, state_error = max(output_error, errors[0]), max(state_error, errors[1])
        if token in SHOWN:
            held = int(cache.cursors[slots[0]])
            records = f"{held} of {L}" if held else "folded into the state"
            table.add_row(str(token), records, *(f"{error:.1e}" for error in errors))
    console.print(table)

    good = max(output_error, state_error) <= BOUND
    console.print(
        f"{TOKENS} tokens in {rows} rows: worst output error {output_error:.1e}, "
        f"worst state error {state_error:.1e}, bound {BOUND:.0e}"
    )
    if good:
        console.print("[bold green]OK[/]: the module computes the recurrence")
    else:
        console.print("[bold red]FAILED[/]: the module is off")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
