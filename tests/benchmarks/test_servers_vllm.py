"""Arms of vLLM, as far as they need no vLLM."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from benchmarks.servers import engine, models


def test_an_arm_of_ours_is_not_vllm_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """kvgen on the path alone is no plug-in, and what is measured would be vLLM's own."""
    engine.check_installed()
    found = [SimpleNamespace(name="another")]
    monkeypatch.setattr(engine.metadata, "entry_points", lambda group: found)
    with pytest.raises(SystemExit, match=r"kvgen: no vllm.general_plugins entry point"):
        engine.check_installed()


@pytest.mark.parametrize("name", models.MODELS)
def test_a_model_has_three_layers_of_linear_attention_to_one_of_attention(name: str) -> None:
    config = models.config(name)
    count = config["num_hidden_layers"]
    if linear := config.get("linear_attn_config"):
        # counted from one
        assert sorted(linear["kda_layers"] + linear["full_attn_layers"]) == [*range(1, count + 1)]
        found = [at - 1 for at in linear["full_attn_layers"]]
    else:
        found = [at for at, kind in enumerate(config["layer_types"]) if kind == "full_attention"]
    assert found == [*range(3, count, 4)]


def test_a_model_that_has_no_small_sizes_says_so() -> None:
    with pytest.raises(ValueError, match="kimi: there are no small sizes of it, expected another"):
        models.config("kimi", tiny=True)
    assert models.config("dense", tiny=True)["hidden_size"] == models.TINY["hidden_size"]


@pytest.mark.parametrize(("name", "about"), [("QwenModel", 0.0), ("OlmoModel", 1.0)])
def test_norms_are_drawn_as_their_model_multiplies_by_them(name: str, about: float) -> None:
    """Weights of no size would make of everything nothing."""
    model = type(name, (torch.nn.Module,), {})()
    model.input_layernorm = torch.nn.LayerNorm(4096, bias=False)
    model.gate = torch.nn.Parameter(torch.empty(4096))
    models.draw(model)
    assert float(model.input_layernorm.weight.detach().mean()) == pytest.approx(about, abs=0.01)
    assert float(model.input_layernorm.weight.detach().std()) == pytest.approx(0.1, abs=0.01)
    assert float(model.gate.detach().mean()) == pytest.approx(0.0, abs=0.01)
