"""What `kvgen explain` says of short contexts, beside the bytes of the caches themselves."""

from __future__ import annotations

import json

import pytest
from test_explain import ODD, analysed
from test_explain_windows import feedback

from kvgen import compiler, shipped
from kvgen.explaining import explain
from kvgen.explaining.derivation import Derivation
from kvgen.explaining.short import PAGE, short

TITLE = "Short contexts"


@pytest.mark.parametrize("records", ["float32", "input"])
@pytest.mark.parametrize("state", ["float32", "bfloat16", "split"])
@pytest.mark.parametrize("spec", ["gated_deltanet", "kimi_delta_attention_bounded", "mlstm"])
def test_bytes_are_those_of_a_cache(
    spec: str, state: str, records: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    overrides = {"storage.state": state, "storage.records": records}
    analysis = compiler.analyse(shipped.resolve(spec), overrides)
    module = compiler.built(analysis)
    monkeypatch.setattr(module, "_launch", lambda *_, **__: None)
    cache = module.Cache.empty(1, device="meta", short_context=64)
    found = short(Derivation(analysis))
    assert found is not None
    assert module.PAGE == PAGE
    assert cache.buffer == found.buffer
    assert cache.bytes_per_page == PAGE * found.total.record
    assert cache.bytes_per_state == found.total.state
    assert found.pages * cache.bytes_per_page <= cache.bytes_per_state
    assert (found.pages + 1) * cache.bytes_per_page > cache.bytes_per_state


def test_lengths_of_gated_deltanet() -> None:
    text = " ".join(explain.text(analysed("gated_deltanet")).split())
    # a state has 2,097,152 bytes and a record 24,704: 84.9 tokens, and 7.5 more in a buffer
    assert "memory state / record, in whole pages 80 tokens" in text
    assert "bytes read by a decode, L = 16 state / record + (L - 1)/2 92 tokens" in text
    found = explain.data(analysed("gated_deltanet"))["short"]
    assert found["memory"] == {"pages": 5, "tokens": 80}
    assert found["read"]["tokens"] == pytest.approx(2097152 / 24704 + 7.5)


def test_a_split_state_pays_sooner_for_its_reads() -> None:
    text = " ".join(explain.text(analysed("gated_deltanet", state="split")).split())
    assert "memory state / record" in text
    # a decode reads the upper plane, 1,048,576 bytes
    assert "upper plane / record" in text


def test_where_even_a_page_is_more_than_a_state() -> None:
    found = explain.data(analysed("names"))["short"]
    assert found["record"] * PAGE > 4 * 6 * 10 * 4
    assert found["memory"] == {"pages": 0, "tokens": 0}
    assert "whole pages 0 tokens" in " ".join(explain.text(analysed("names")).split())


def test_keys_in_pages_are_not_factored() -> None:
    name = "kimi_delta_attention_bounded"
    texts = {state: explain.text(analysed(name, state=state)) for state in ("float32", "split")}
    said = {state: "beside each token's own decay" in text for state, text in texts.items()}
    factored = {state: bool(analysed(name, state=state).form.factored) for state in texts}
    assert said == factored and any(said.values())


@pytest.mark.parametrize("which", ["decay", "both"])
def test_nothing_without_windows(which: str) -> None:
    analysis = feedback(which)
    assert TITLE not in explain.text(analysis)
    assert explain.data(analysis)["short"] is None


@pytest.mark.parametrize("name", sorted(ODD))
def test_every_form(name: str) -> None:
    text = explain.text(analysed(name))
    assert text.count(f"  {TITLE}\n") == 1
    data = explain.data(analysed(name))["short"]
    assert json.loads(json.dumps(data, allow_nan=False)) == data
