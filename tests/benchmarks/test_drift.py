"""States do not drift: hundreds of tokens against float64, in the interpreter, at tiny sizes."""

from __future__ import annotations

import pytest

from benchmarks.drift import Drift, drift, table

LENGTHS = (64, 128, 256)


@pytest.fixture(scope="module")
def found() -> dict[tuple[str, int], Drift]:
    modes = ("recurrent", "float32", "split")
    runs = drift("gated_deltanet", "cpu", modes, LENGTHS, rows=1)
    return {(each.mode, each.tokens): each for each in runs}


def test_a_float32_state_is_as_good_as_the_plain_kernel_s(found) -> None:
    for length in LENGTHS:
        plain, buffered = found["recurrent", length], found["float32", length]
        assert buffered.state <= 2 * plain.state + 1e-7
        assert buffered.output <= 4e-3


def test_a_split_state_does_not_drift(found) -> None:
    for length in LENGTHS:
        assert found["split", length].state <= 2 * found["recurrent", length].state + 1e-7
        assert found["split", length].output <= 6e-3
    first, *later = (found["split", length].state for length in LENGTHS)
    assert max(later) <= 3 * first


def test_table() -> None:
    rows = [Drift("a", mode, n, n * 1e-6, 1e-3) for mode in ("recurrent", "split") for n in (1, 2)]
    assert table(rows) == (
        "| spec | stored state | state, 1 | state, 2 | output, 1 | output, 2 |\n"
        "| --- | --- | ---: | ---: | ---: | ---: |\n"
        "| a | float32, plain kernel | 1.0e-06 | 2.0e-06 | 1.0e-03 | 1.0e-03 |\n"
        "| a | split | 1.0e-06 | 2.0e-06 | 1.0e-03 | 1.0e-03 |\n"
    )
