"""What stands between two decodes in a server, in little."""

from __future__ import annotations

import torch

from kvgen.timing import steps

# of a layer's hidden vector and of what is projected from it: weights of 50 MB each. As many of
# them as no GPU's cache holds, so that each is read anew, and nothing else stays in the cache
HIDDEN, WIDE, WEIGHTS = 2048, 12288, 4


class Producer:
    """A product with weights that fill the GPU's cache, and an elementwise kernel, for so many
    rows. A decode behind it finds its state and records in memory, and may not begin before it has
    ended."""

    def __init__(self, rows: int, hidden: int = HIDDEN, wide: int = WIDE) -> None:
        blank = {"device": steps.DEVICE, "dtype": torch.bfloat16}
        self.hidden = torch.full((rows, hidden), 0.5, **blank)
        self.weights = [torch.full((hidden, wide), 0.01, **blank) for _ in range(WEIGHTS)]

    def __call__(self, layer: int) -> torch.Tensor:
        weights = self.weights[layer % len(self.weights)]
        return torch.nn.functional.silu(self.hidden @ weights)
