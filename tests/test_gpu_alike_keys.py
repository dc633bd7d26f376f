"""Windows on keys that are alike, on a GPU and at the sizes that models have."""

from __future__ import annotations

import alike
import pytest
import torch

from kvgen import compiler
from kvgen.checking.checker import EXACT
from kvgen.checking.twin import Made
from kvgen.shipped import resolve

pytestmark = pytest.mark.gpu
STREAMS = [(0.0, 1.0), (0.1, 1.0), (0.1, 0.9), (0.0, 0.5)]


@pytest.mark.parametrize("name", alike.triangles())
def test_windows_are_as_exact_as_single_tokens(name: str) -> None:
    analysis = compiler.analyse(resolve(name))
    made = Made(analysis, compiler.built(analysis))
    found = []
    for noise, decay in STREAMS:
        for tokens in (48, 256):
            for dtype in (torch.float32, torch.bfloat16):
                errors = {
                    window: alike.run(made, tokens, noise, decay, window, "cuda", dtype)
                    for window in (1, 0, 8, 16)
                }
                alone = errors.pop(1)
                for window, error in errors.items():
                    where = (noise, decay, tokens, str(dtype), window, error, alone)
                    print(name, *where)
                    most = 10 * max(alone["S"], 1e-6)
                    most = min(most, EXACT) if alone["S"] <= EXACT else most
                    if error["S"] > most:
                        found.append(where)
                    if dtype == torch.bfloat16 and error["output"] > 2 * alone["output"]:
                        found.append(where)
    assert not found, found
