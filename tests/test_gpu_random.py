"""Random recurrences on a GPU, which takes types and shapes more strictly than the interpreter:
`pytest -m gpu`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.test_gpu import gpu  # noqa: F401
from tests.test_random_recurrences import check

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("seed", range(60))
def test_random_recurrence(seed: int, tmp_path: Path) -> None:
    with torch.device("cuda"):
        check(seed, tmp_path, lengths=(17, 40))
