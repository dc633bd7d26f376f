"""Records that a fold alone reads: what is kept, what is not, and that every step folds."""

from __future__ import annotations

import random

import pytest
import torch
from twins import analysed, made, twin

from kvgen.checking.check import check
from kvgen.checking.windows import Server
from kvgen.codegen.cost import buffer_length

RECORDS = "records=replayed"
CASES = {
    "gated_deltanet": ("decode, rows out of phase", "drafts, trees", "flush, copy, recycled slots"),
    "kimi_delta_attention": ("recurrent, after decodes", "drafts, chains", "prompts"),
    "comba": ("odd sizes", "drafts, trees"),
    "gated_deltaproduct": ("HV = 3 H", "drafts, chains"),
}


def dtypes(name: str, *storage: str) -> dict[str, str]:
    return {each.name: each.dtype.name for each in analysed(name, *storage).records.stored}


def test_inputs_and_numbers_are_kept_and_no_corrected_value() -> None:
    assert dtypes("gated_deltanet", RECORDS) == {
        "log_decay": "float32", "v": "input", "raw_k": "input", "sigmoid_b": "float32"
    }  # fmt: skip
    assert dtypes("kimi_delta_attention", RECORDS) == {
        "log_decay_K": "float32", "v": "input", "raw_k": "input", "sigmoid_b": "float32"
    }  # fmt: skip


@pytest.mark.parametrize("name", ["mamba2", "gla"])
def test_where_no_write_depends_on_a_read_it_is_as_inputs(name: str) -> None:
    assert dtypes(name, RECORDS) == dtypes(name, "records=input")
    assert not analysed(name, RECORDS).form.emptied


def test_a_slot_takes_what_the_windows_of_a_servers_own_rings_do() -> None:
    """Raw keys and values in the activations' 16 bits, a gate and a beta for each value head."""
    analysis = analysed("gated_deltanet", RECORDS, H=16, HV=32, K=128, V=128)
    sizes = dict(analysis.spec.sizes)
    assert analysis.records.bytes(sizes) == 2 * 16 * 128 + 2 * 32 * 128 + 2 * 4 * 32


@pytest.mark.parametrize("name", CASES)
def test_what_a_check_finds(name: str) -> None:
    assert check(analysed(name, RECORDS), "cpu", only=CASES[name]).ok


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CASES, "mlstm", "rwkv7"])
@pytest.mark.parametrize("state", ["float32", "bfloat16", "split"])
def test_all_that_a_check_finds(name: str, state: str) -> None:
    assert check(analysed(name, RECORDS, f"state={state}"), "cpu").ok


@pytest.mark.usefixtures("rounded")
@pytest.mark.parametrize("name", ["gated_deltanet", "kimi_delta_attention"])
@pytest.mark.parametrize("kind", ["chain", "tree"])
def test_windows_after_windows_lose_nothing_of_inputs_in_16_bits(name: str, kind: str) -> None:
    pair = twin(name, RECORDS, dtype=torch.bfloat16, window=4)
    pair.admit([5, 2])
    server = Server(pair, random.Random(1), (kind,), (1, 3, 4))
    for _ in range(20):
        server.step([5, 2])
        assert not pair.cache.cursors.any()
        pair.compare()
    assert pair.found["S"] < 1e-6


def test_every_step_folds_what_it_keeps() -> None:
    module = made("gated_deltanet", RECORDS).module
    assert module.Cache.empty(2, device="cpu").buffer == 1
    pair = twin("gated_deltanet", RECORDS, window=2)
    pair.admit([0, 1])
    before = pair.cache.read(0, pair.ids([0, 1]))
    pair.step([0, 1])
    assert not pair.cache.cursors.any()
    # the state itself is no longer what it was
    assert not torch.equal(pair.cache.tensors["S"][:2, 0], before)
    pair.compare()
    assert pair.found["S"] < 1e-6 and pair.found["output"] < 2e-6


def test_there_is_nothing_to_keep_in_pages() -> None:
    module = made("gated_deltanet", RECORDS).module
    assert "short" not in module.FEATURES and "verify" in module.FEATURES
    with pytest.raises(ValueError, match="records: replayed keeps none beyond a step"):
        module.Cache.empty(2, device="cpu", short_context=64)
    analysis = analysed("gated_deltanet", RECORDS)
    assert buffer_length(analysis.form, analysis.records) == 1
