"""Records in bfloat16, as servers' own rings have them: what is rounded, what is not, and how far
off that is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from twins import analysed, made, twin

import kvgen
from cli import cli
from kvgen.checking.check import check

RECORDS = "records=bfloat16"
SET = {"storage.records": "bfloat16", "sizes.K": 16, "sizes.V": 8}
CASES = {
    "gated_deltanet": ("buffer of 1", "drafts, trees", "prompts"),
    "kimi_delta_attention": ("decode, rows out of phase", "short contexts"),
    "mamba2": ("recurrent, after decodes", "short contexts"),
    "mlstm": ("flush, copy, recycled slots", "drafts, trees"),
    "rwkv7": ("flush, copy, recycled slots", "drafts, chains", "short contexts"),
}


def dtypes(name: str) -> dict[str, str]:
    return {each.name: each.dtype.name for each in analysed(name, RECORDS).records.stored}


def test_vectors_are_rounded_what_adds_up_is_not() -> None:
    assert dtypes("gated_deltanet") == {"log_decay": "float32", "k": "bfloat16", "d": "bfloat16"}
    decay, *vectors = dtypes("kimi_delta_attention").items()
    assert decay == ("log_decay_K", "float32") and dict(vectors) == dict(k="bfloat16", d="bfloat16")
    decay_sum, *vectors = dtypes("rwkv7").items()
    assert decay_sum == ("decay_sum", "float32") and {x for _, x in vectors} == {"bfloat16"}


@pytest.mark.parametrize("name", CASES)
def test_what_a_check_finds(name: str) -> None:
    assert check(analysed(name, RECORDS), "cpu", only=CASES[name]).ok


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("state", ["float32", "bfloat16", "split"])
def test_all_that_a_check_finds(name: str, state: str) -> None:
    assert check(analysed(name, RECORDS, f"state={state}"), "cpu").ok


@pytest.mark.usefixtures("rounded")
def test_a_tokens_own_correction_is_not_rounded() -> None:
    pair = twin("gated_deltanet", RECORDS)
    pair.admit([0, 1])
    pair.step([0, 1])
    assert pair.found["output"] < 2e-5
    pair.step([0, 1])
    assert 1e-4 < pair.found["output"] < 1e-2
    pair.flush()
    pair.compare()
    assert 1e-4 < pair.found["S"] < 5e-3


def test_a_servers_rings() -> None:
    """SGLang's, by layer and slot, beside its pool of states in bfloat16."""
    module = made("gated_deltanet", RECORDS, "state=bfloat16", "layout=vk").module
    rings = {"S": (2, 8, 16), "d": (2, 6, 8), "k": (1, 6, 16), "log_decay": (2, 6)}
    given = dict(module.Cache.empty(5, 3, device="cpu", buffer=6).tensors)
    for name, shape in rings.items():
        dtype = torch.float32 if name == "log_decay" else torch.bfloat16
        given[name] = torch.zeros(3, 5, *shape, dtype=dtype).transpose(0, 1)
    cache = module.Cache.wrap(given)
    assert cache.buffer == 6 and cache.tensors["k"].data_ptr() == given["k"].data_ptr()


def test_it_is_said_what_they_cost(tmp_path: Path) -> None:
    with pytest.warns(kvgen.SpecWarning, match="2e-3"):
        kvgen.load("gated_deltanet", **SET)
    options = [word for key, value in SET.items() for word in ("--set", f"{key}={value}")]
    run = CliRunner().invoke(cli, ["compile", "gated_deltanet", *options, "-o", str(tmp_path)])
    assert run.stderr.startswith("warning[rounded-records]: ") and "2e-3" in run.stderr
    assert "k [H, K] bfloat16" in run.stdout
