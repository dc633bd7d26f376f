"""kvgen in vLLM's own engine, on a CPU in Triton's interpreter, beside vLLM as it is."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
pytestmark = pytest.mark.engine

# vLLM's own kernels on a CPU keep less than float32 of a state from one token to the next, so that
# a few of their log-probabilities are off by so much: how far, hangs on the processor, too, which
# draws the weights and rounds in its own way
APART = 1.0
REQUESTS = {
    "long": 5,
    "short": 8,
    "single": 6,
    "after": 30,
    **{f"crossing {n}": 8 for n in range(3)},
}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One in which each layer matters, and one that repeats itself, so that drafts are kept."""
    import tiny

    names = ("deep", "circling", "mamba2", "olmo", "kimi", "bounded")
    folders = {name: tmp_path_factory.mktemp(name) for name in names}
    tiny.write(folders["deep"], 0.5)
    tiny.write(folders["circling"], 0.5, circle=4)
    tiny.write_mamba2(folders["mamba2"])
    tiny.write_config(folders["olmo"], tiny.OLMO)
    tiny.write_config(folders["kimi"], tiny.KIMI)
    tiny.write_config(folders["bounded"], tiny.KIMI, gate_lower_bound=-5.0)
    return folders


@pytest.fixture(scope="session")
def played(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the engine has said, by settings, model and drafts; each is started once."""
    known: dict[tuple[str, str, int], Any] = {}
    folder = tmp_path_factory.mktemp("said")

    def play(settings: dict[str, Any], model: str = "deep", drafts: int = 0) -> Any:
        key = json.dumps(settings), model, drafts
        if key not in known:
            out = folder / f"{len(known)}.json"
            arguments = [str(models[model]), str(out), key[0], str(drafts)]
            run = ran([str(HERE / "scenario.py"), *arguments])
            assert run.returncode == 0, run.stdout[-6000:]
            known[key] = json.loads(out.read_text()) | {"log": run.stdout}
        return known[key]

    return play


def ran(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def agree(ours: Any, stock: Any) -> int:
    """How many tokens are the same before vLLM's two best are too close to tell."""
    same, apart = 0, []
    for name, (found, chances) in ours.items():
        tokens, best = stock[name]
        assert len(found) == len(tokens) == REQUESTS[name]
        for place, (token, other) in enumerate(zip(tokens, found, strict=True)):
            first, second = best[place]
            apart.append(abs(first - chances[place][0]))
            assert apart[-1] < APART, (name, place)
            if token != other:
                assert first - second < APART, (name, place)
                break
            same += 1
    assert statistics.median(apart) < APART / 10
    return same


def test_vllm_as_it_is_is_left_as_it_is(played):
    said = played({})
    assert "QwenGatedDeltaNetAttention" in said["layers"]
    assert not any(name.startswith("Buffered") for name in said["layers"])
    assert "kvgen" not in said["log"].replace("additional_config", "")
    assert sorted(said["said"]) == sorted(REQUESTS)


@pytest.mark.parametrize(
    ("settings", "model", "drafts", "bounds"),
    [
        ({"state": "float32", "buffer": 3}, "deep", 0, (8e-3, 1e-6)),
        ({"state": "split", "buffer": 4}, "deep", 0, (1.2e-2, 2e-5)),
        ({"state": "float32", "buffer": 6}, "circling", 3, (8e-3, 1e-6)),
        ({"state": "float32", "buffer": 3}, "mamba2", 0, (8e-3, 1e-6)),
    ],
    ids=["float32", "split", "drafts", "mamba2"],
)
def test_an_engine_says_the_same_and_every_call_is_exact(played, settings, model, drafts, bounds):
    ours, stock = played(settings, model, drafts), played({}, model)
    ours_of = "BufferedMambaMixer2" if model == "mamba2" else "BufferedQwenGatedDeltaNet"
    assert ours["layers"].count(ours_of) == 4
    assert ours["groups"] == [2, 2] and ours["apart"] == [False, False]
    assert ours["shared"] == [True] * 4
    # single tokens of a model in bfloat16 are convolved by the module, if its states are not split
    convolves = model == "deep" and settings["state"] != "split"
    assert ours["follows"] == [convolves or None] * (0 if model == "mamba2" else 4)
    worst, counts = ours["worst"], ours["counts"]
    assert 0 < worst["output"] < bounds[0] and 0 <= worst["state"] < bounds[1]
    # in two groups: those that end, one that goes away, and those that begin again
    assert ours["preempted"] > 0 or drafts
    assert counts["started"] == 2 * (len(ours["said"]) + 1 + ours["preempted"])
    assert counts["continued"] >= 4 and counts["folded"] > 0
    if drafts:
        # some drafts are kept, some are not; a request's last window is not heard of again
        last = 4 * len(ours["said"])
        assert counts["verified"] - last < counts["kept"] < counts["verified"] * (1 + drafts)
    assert sorted(ours["said"]) == sorted(set(REQUESTS) - ({"single"} if drafts else set()))
    assert agree(ours["said"], stock["said"]) > sum(REQUESTS.values()) * 0.4


@pytest.mark.parametrize(
    ("settings", "model", "served", "name"),
    [
        ({"state": "split", "buffer": 4}, "olmo", "OlmoHybridGatedDeltaNet", "olmo_hybrid"),
        ({"state": "float32", "buffer": 3}, "olmo", "OlmoHybridGatedDeltaNet", "olmo_hybrid_conv"),
        ({"state": "split", "buffer": 4}, "kimi", "KimiDeltaAttention", "kimi_delta_attention"),
        ({"state": "float32", "buffer": 3}, "kimi", "KimiDeltaAttention",
         "kimi_delta_attention_conv"),
        ({"state": "float32", "buffer": 3}, "bounded", "KimiDeltaAttention",
         "kimi_delta_attention_bounded"),
    ],
    ids=["olmo", "olmo convolving", "kimi", "kimi convolving", "bounded"],
)  # fmt: skip
def test_layers_with_kernels_for_a_gpu_alone_are_exact_too(played, settings, model, served, name):
    """vLLM's own kernels, and what is kvgen's for CUDA, in Triton's interpreter."""
    ours = played(settings, model)
    assert ours["layers"].count(f"Buffered{served}") == 4
    assert f"{name}: 4 layers (model.layers.0" in ours["log"]
    assert ours["follows"] == [name.endswith("_conv") or None] * 4
    # without attention there is one group, and vLLM does not part prompts
    attention = model == "olmo"
    assert ours["groups"] == ([2, 2] if attention else [4])
    worst, counts = ours["worst"], ours["counts"]
    assert 0 < worst["output"] < 1.2e-2 and 0 <= worst["state"] < 2e-5
    started = len(ours["groups"]) * (len(ours["said"]) + 1 + ours["preempted"])
    assert counts["started"] == started and counts["folded"] > 0
    assert (counts.get("continued", 0) >= 4) == attention
    asked = [name for name in REQUESTS if attention or not name.startswith("crossing")]
    assert sorted(ours["said"]) == sorted(asked)
    if attention:
        assert agree(ours["said"], played({}, model)["said"]) > sum(REQUESTS.values()) * 0.4


def test_what_is_accelerated_is_said_at_start(played):
    for state, buffer, name in (("split", 4, ""), ("float32", 3, "_conv")):
        log = played({"state": state, "buffer": buffer})["log"]
        assert "kvgen accelerates vLLM 0.32" in log
        assert f"gated_deltanet{name}: 4 layers (model.layers.0" in log
        assert f"state {state}, buffer of {buffer}, in Triton's interpreter" in log


@pytest.fixture(scope="session")
def refusals(models: dict[str, Path]) -> Any:
    run = ran([str(HERE / "refused.py"), str(models["deep"])])
    assert run.returncode == 0, run.stdout[-4000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("case", "named"),
    [
        ("unknown key", "kvgen.states: unknown"),
        ("unknown state", "kvgen.state: 'int8'"),
        ("another dtype", "mamba_ssm_cache_dtype: bfloat16, expected auto or float32"),
        ("prefix caching", "enable_prefix_caching: on"),
        ("too many drafts", "num_speculative_tokens: 4"),
        ("connector", "kv_transfer_config: set"),
        ("no such layers", "LlamaForCausalLM"),
        ("unknown version", "vLLM 0.99.0 is not known to kvgen"),
    ],
)
def test_what_cannot_be_is_refused_at_start(refusals, case, named):
    assert named in refusals[case] and "nothing was changed" in refusals[case]


def test_layers_that_cannot_be_served_as_asked_are_refused(models, tmp_path):
    arguments = [str(models["mamba2"]), str(tmp_path / "said.json"), '{"state": "split"}']
    run = ran([str(HERE / "scenario.py"), *arguments])
    assert run.returncode != 0 and not (tmp_path / "said.json").exists()
    assert "nothing was changed" in run.stdout
    assert "MambaMixer2: vLLM's prompts write its state" in run.stdout


def test_what_can_be_is_not_refused(refusals):
    assert refusals["usual"] is None and refusals["not asked for"] is None
