"""The shipped specs that no test file names: each decodes, folds and agrees with its recurrence.

`kvgen check` runs over those that are served every day (test_check.py); over all others, with all
that can be stored, it is slow.
"""

from __future__ import annotations

from itertools import cycle

import pytest
import torch
from twins import LAYERS, OTHERS, STATES, analysed, made

from kvgen.checking.check import bounds, check
from kvgen.checking.interpreter import rounding
from kvgen.checking.twin import Twin

# a read of 16 bits errs by the state's length, not by the output's: small heads let them differ
SIZES = {"K": 24, "V": 20}


@pytest.mark.parametrize(
    ("name", "state"), list(zip([*OTHERS, *LAYERS], cycle(["float32", "split"]), strict=False))
)
def test_decodes(name: str, state: str) -> None:
    module = made(name, f"state={state}", **SIZES)
    twin = Twin(module, "cpu", layers=1, buffer=2, slots=4, seed=1)
    output, stored = bounds(module.analysis.spec.storage, torch.float32)
    with rounding():
        twin.admit([2])
        twin.reset([0])
        for _ in range(2):
            twin.step([2, -1])
        for kernel in ("decode", "recurrent", "decode"):
            twin.step([0, 2], kernel=kernel)
        twin.compare()
    found = dict(twin.found)
    assert found.pop("padding") == 0 and found.pop("other slots") == 0
    assert found.pop("output") <= output, twin.found
    assert max(found.values()) <= stored, twin.found


@pytest.mark.slow
@pytest.mark.parametrize("records", ["float32", "input"])
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", [*OTHERS, *LAYERS])
def test_checks(name: str, state: str, records: str) -> None:
    storage = (f"state={state}", f"records={records}")
    report = check(analysed(name, *storage, K=32, V=16), "cpu")
    # an output of one small head may be much shorter than what was read: errors weigh more
    slack = 1.0 if state == "float32" else 3.0
    bad = [row for row in report.rows if row.error > row.bound * slack]
    assert all("from recurrent's" in row.quantity and state != "float32" for row in bad), bad


@pytest.mark.parametrize("name", [*OTHERS, *LAYERS])
def test_stays_bounded(name: str) -> None:
    """What `sample` draws may go on for thousands of tokens; here for some hundreds."""
    module = made(name, **SIZES)
    twin = Twin(module, "cpu", layers=1, slots=1, seed=2)
    params = {key: value.double() for key, value in twin.params[0].items()}
    state, largest = None, []
    for token in range(600):
        inputs = twin.sampler.inputs(2, torch.float32)
        exact = {key: value.double() for key, value in inputs.items()}
        _, state = module.module.reference(state, **exact, **params)
        if token % 200 == 199:
            largest.append(state["S"].square().mean().sqrt().item())
    # a sum of random products grows by the square root of their number
    assert largest[2] < 2.2 * largest[0]
