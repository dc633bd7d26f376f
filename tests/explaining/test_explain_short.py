"""What `kvgen explain` says of short contexts, beside the bytes of the caches themselves."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from commands import run
from tuned_records import key, record, store

from kvgen import compiler, shipped
from kvgen.explaining import explain
from kvgen.explaining.derivation import Derivation
from kvgen.explaining.short import PAGE, Timed, crossing, short
from kvgen.wisdom import contexts
from kvgen.wisdom.identity import key_of
from kvgen.wisdom.store import Answer
from tests.explaining.test_explain import ODD, analysed
from tests.explaining.test_explain_windows import feedback

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
    monkeypatch.setattr(module, "launch", lambda *_, **__: None)
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


# by tuned times ----------------------------------------------------------------------------------


def test_lengths_by_tuned_times() -> None:
    analysis = analysed("gated_deltanet")
    found = short(Derivation(analysis))
    assert found is not None
    # at 32 tokens half the time of a step on states: twice the bytes take as long
    timed = Timed("Some GPU", 64, 32, 10.0, 20.0)
    tokens = crossing(found, timed)
    moved = found.total.short
    assert moved(tokens) <= 2 * moved(32) < moved(tokens + 1)
    assert 64 <= tokens <= 70
    # as fast at 32 tokens, and slower even without any
    assert crossing(found, Timed("Some GPU", 1, 32, 5.0, 5.0)) == 32
    assert crossing(found, Timed("Some GPU", 1, 32, 500.0, 5.0)) == 0
    text = " ".join(explain.text(analysis, [timed]).split())
    assert "By tuned times" in text and f"Some GPU 64 10 20 {tokens} tokens" in text
    assert "By tuned times" not in explain.text(analysis)
    data = explain.data(analysis, [timed])["short"]
    assert json.loads(json.dumps(data))["times"] == [
        {"gpu": "Some GPU", "batch": 64, "tokens": 32, "us": 10.0, "stateful_us": 20.0,
         "most_tokens": tokens}
    ]  # fmt: skip


def test_only_where_both_are_measured() -> None:
    def answer(kernel: str, batch: int, us: float) -> Answer:
        return Answer("exact", record(key(kernel, batch), us=us), "")

    table = {
        "B": {
            "decode": {16: answer("decode", 16, 9.0), 64: answer("decode", 64, 20.0)},
            "short": {64: answer("short", 64, 10.0), 256: answer("short", 256, 30.0)},
        },
        "A": {"decode": {16: answer("decode", 16, 9.0)}},
    }
    assert contexts.timed(table) == [Timed("B", 64, 32, 10.0, 20.0)]


def test_explain_looks_into_the_store(own: Path) -> None:
    analysis = compiler.analyse(shipped.resolve("retnet"))
    assert "By tuned times" not in run("explain", "retnet").output
    keys = [key_of(analysis, kernel, "Some GPU", 64) for kernel in ("decode", "short")]
    config = {"TILE": 64, "TILES": 1, "PAGES": 1, "STAGES": 1, "num_warps": 1}
    store(own).add([record(keys[0], us=20.0), record(keys[1], us=10.0, config=config)])
    found = run("explain", "retnet")
    assert found.exit_code == 0 and re.search(r"Some GPU +64 +10 +20 +\d+ tokens", found.output)
