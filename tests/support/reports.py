"""Made-up reports of benchmarks, for the tests of what is written from them."""

from __future__ import annotations

from kvgen.benching.report import Absent, Against, Report, Row

BATCHES = (1, 4, 16, 64, 256)
REPLAY = "sglang ReplaySSM, L 16, nk 2"
TIMES = {
    ("kvgen", "decode", 16): (4.0, 6.0, 15.0, 52.0, 190.0),
    ("kvgen", "recurrent", 1): (3.5, 8.0, 27.0, 97.0, 372.0),
    ("fla", "fla fused_recurrent_gated_delta_rule", 1): (4.2, 8.7, 32.0, 112.0, 435.0),
    ("sglang", "sglang packed decode", 1): (5.9, 10.1, 27.8, 97.0, 370.0),
    ("sglang", REPLAY, 16): (7.3, 9.4, 14.0, 62.0, 223.0),
}


def rows(state: str = "split", batches: tuple[int, ...] = BATCHES) -> tuple[Row, ...]:
    found: list[Row] = []
    for (library, kernel, buffer), times in TIMES.items():
        for batch, us in zip(BATCHES, times, strict=True):
            if batch in batches:
                floor = (1.4 if buffer == 1 else 0.5) * batch
                kept = state if library == "kvgen" else "float32"
                row = Row(
                    kernel, batch, 36, us, 0.02, 1.3 * us, floor, floor / us, between_us=1.5 * us
                )
                found.append(
                    Row(**{**vars(row), "error": 1.7e-3, "library": library, "state": kept,
                           "buffer": buffer})
                )  # fmt: skip
    return tuple(found)


def report(name: str = "gated_deltanet", state: str = "split", copy: float = 3000.0) -> Report:
    return Report(
        name, state, "bfloat16", "some GPU", "torch 1, triton 2", copy, 36, 16, rows(state),
        peers=(
            Against("fla", "fused_recurrent_gated_delta_rule", "0.6.0"),
            Against("sglang", "packed decode", "0.5.23", "a note"),
        ),
        absent=(Absent("flashinfer", "cannot be imported: No module named 'flashinfer'"),),
        title="Gated DeltaNet <of made-up figures>",
        sizes={"H": 16, "HV": 32, "K": 128, "V": 128},
        date="2026-01-02",
        tuned=True,
    )  # fmt: skip
