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
TOKENS = 64
# how far keys differ, and what a token leaves of the state
STREAMS = [(0.0, 1.0), (0.1, 0.9)]


@pytest.mark.parametrize("name", alike.triangles())
def test_windows_are_as_exact_as_single_tokens(name: str) -> None:
    analysis = compiler.analyse(resolve(name))
    made = Made(analysis, compiler.built(analysis))
    found = []
    for noise, decay in STREAMS:
        for dtype in (torch.float32, torch.bfloat16):
            alone = alike.run(made, TOKENS, noise, decay, 1, "cuda", dtype)
            # where nothing decays, the last bit of a key's norm adds up, and may happen to be right
            most = 10 * max(alone["S"], 1e-6)
            most = min(most, EXACT) if alone["S"] <= EXACT else most
            for window in (0, 8, 16):
                error = alike.run(made, TOKENS, noise, decay, window, "cuda", dtype)
                where = (noise, decay, dtype, window, error["S"], alone["S"])
                print(name, *where, error["output"], alone["output"])
                # of inputs in 16 bits products come in two parts, which the state may show
                if dtype == torch.float32 and error["S"] > most:
                    found.append(where)
                if dtype == torch.bfloat16 and error["output"] > 2 * alone["output"]:
                    found.append((*where, error["output"], alone["output"]))
    assert not found, found
