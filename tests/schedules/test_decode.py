"""A decode's text: what it computes of the buffer."""

from __future__ import annotations

import pytest
from twins import analysed

from kvgen import compiler


def decode_of(name: str, *storage: str) -> str:
    text = compiler.emit(analysed(name, *storage), {})
    return text[text.index("def _decode_kernel") : text.index("INTERPRETED =")]


@pytest.mark.parametrize("state", ["float32", "bfloat16", "split"])
@pytest.mark.parametrize("name", ["gated_deltanet", "deltanet", "gated_deltaproduct"])
def test_numbers_of_recorded_inputs_go_to_scores(name: str, state: str) -> None:
    """Of which a place has one, where it has K numbers of a key."""
    text = decode_of(name, f"state={state}", "records=input")
    scores = [line for line in text.splitlines() if "_score" in line.split("=")[0]]
    assert scores and all("* inverse_norm" in line for line in scores)
    assert "inverse_norms[:, None]" not in text


@pytest.mark.parametrize("storage", [("state=split", "records=input"), ("records=input",)])
def test_keys_that_decay_by_channel_are_whole(storage: tuple[str, ...]) -> None:
    text = decode_of("kimi_delta_attention", *storage)
    assert "inverse_norms[:, None]" in text
