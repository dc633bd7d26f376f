"""docs/servers.md: its tables are what the figures in docs/data say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.servers import gpu_time, page

VERSIONS = {"gpu": "some GPU", "vllm": "0.33.0", "torch": "2.11.0", "triton": "3.6.0"}


def text(name: str) -> str:
    return f"before\n\n<!-- {name} -->\nold\n<!-- end -->\n\nafter\n"


def written(folder: Path, name: str, *figures: dict[str, Any]) -> str:
    for file, data in zip(page.BLOCKS[name][1:], figures, strict=True):
        (folder / file).write_text(json.dumps(data), encoding="utf-8")
    return page.filled(text(name), folder)


def line(text: str, start: str) -> list[str]:
    found = next(each for each in text.splitlines() if each.startswith(f"| {start} |"))
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_the_page_is_what_the_figures_say() -> None:
    if not page.PAGE.is_file():
        pytest.skip("the pages are in the repository only")
    assert page.main(["--check"]) == 0


def test_a_block_without_figures_says_so(tmp_path: Path) -> None:
    found = page.filled(text("vllm-speed"), tmp_path)
    assert found.startswith("before\n") and found.endswith("\nafter\n")
    assert "Not measured yet." in found and "old" not in found
    assert page.filled(found, tmp_path) == found


def run(arm: str, ms: float, linear: float, staggered: bool = False) -> dict[str, Any]:
    rounds = [
        {"median_ms": ms * k, "p99_ms": 2 * ms * k, "tokens_s": 8e3 / ms / k, "steps": 224}
        for k in (1.5, 1.0, 0.9)
    ]
    parts = {"conv": 10.0, "recurrence": linear - 20.0, "norm": 10.0, "other": 1000.0 - linear}
    gpu = {"steps": 20, "parts_us": parts, "linear_us": linear, "total_us": 1000.0, "kernels": []}
    about = {**VERSIONS, "model": "next", "prompt": 128, "staggered": staggered, "buffer": 16}
    return {"arm": arm, "about": about, "rows": [{"batch": 8, "rounds": rounds, "gpu": gpu}]}


def test_kernels_alone_are_over_those_of_the_same_states(tmp_path: Path) -> None:
    """Of one round each no wall clock is shown."""
    stock = [run("stock-float32", 4.0, 400.0), run("stock-bfloat16", 4.0, 200.0)]
    runs = [run("kvgen-bfloat16", 2.0, 100.0), run("kvgen-float32", 2.0, 300.0), *stock]
    for each in runs:
        del each["rows"][0]["rounds"][1:]
    found = written(tmp_path, "vllm-speed-conv", {"runs": runs})
    linear, busy = (part for part in found.split("\n\n") if part.startswith("| batch"))
    assert "| 8 | 380 / 400 | 180 / 200 | 280 / 300 (0.75) | 80 / 100 (0.50) |" in linear
    assert "| 8 | 1000 | 1000 | 1000 (1.00) | 1000 (1.00) |" in busy
    assert "Tokens a second" not in found and "between tokens" not in found


def test_tokens_a_second_have_their_error(tmp_path: Path) -> None:
    """Split states beside the server's float32; a batch with one round has none."""
    runs = [run("stock-float32", 4.0, 400.0), run("kvgen-split", 2.0, 100.0)]
    for each, sixteen in zip(
        runs, (run("x-split", 4.0, 9.0), run("x-split", 2.0, 9.0)), strict=True
    ):
        (row,) = sixteen["rows"]
        each["rows"].append(row | {"batch": 16, "rounds": row["rounds"][:1]})
    found = written(tmp_path, "vllm-speed-conv", {"runs": runs})
    *_, rates = (part for part in found.split("\n\n") if part.startswith("| batch"))
    # of 1,333, 2,000 and 2,222 the mean, and 461 over the root of 3
    assert line(rates, "8") == ["8", "1,852 ± 267", "3,704 ± 534 (2.00 ± 0.41)"]
    assert line(rates, "16") == ["16", "–", "–"]
    assert "mean of 3 rounds" in found


def test_speed_is_the_fastest_round_over_stock_float32(tmp_path: Path) -> None:
    runs = [run("kvgen-split", 2.0, 100.0), run("stock-float32", 4.0, 400.0)]
    found = written(tmp_path, "vllm-speed", {"runs": runs})
    # in the order of the arms, whichever was measured first
    assert "| batch | vLLM float32 | kvgen split |" in found
    tables = [part for part in found.split("\n\n") if part.startswith("| batch")]
    tokens, between, linear, busy = (line(part, "8") for part in tables)
    assert tokens == ["8", "2,222", "4,444 (2.00)"]
    assert between == ["8", "3.60 / 7.20", "1.80 / 3.60"]
    assert "The best of an arm's 3 rounds" in found and "up to 1.7 times" in found
    assert linear == ["8", "380 / 400", "80 / 100 (0.25)"]
    assert busy == ["8", "1000", "1000 (1.00)"]
    assert "40% at 8" in found


def test_sglang_stands_beside_its_own_rings(tmp_path: Path) -> None:
    runs = [run(f"{who}-float32", us, 50.0) for who, us in
            (("kvgen", 100.0), ("replay", 200.0), ("stock", 400.0))]  # fmt: skip
    for each in runs:
        each["about"] = {name: value for name, value in each["about"].items() if name != "vllm"}
        each["about"] |= {"sglang": "0.5.17", "timed_at": "the scheduler"}
    late = [each | {"about": each["about"] | {"overlap": True}} for each in runs]
    found = written(tmp_path, "sglang-speed", {"runs": [*runs, *late]})
    head = "| batch | SGLang float32 | its own rings float32 | kvgen float32 |"
    assert found.count(head) == 8
    assert "over SGLang's own with float32 states" in found and "vLLM" not in found
    assert "some GPU (sglang 0.5.17" in found and "tokens, overlap schedule.**" in found


def test_models_and_kinds_of_prompts_have_tables_of_their_own(tmp_path: Path) -> None:
    runs = [run("stock-float32", 4.0, 400.0, late) for late in (False, True)]
    found = written(tmp_path, "vllm-speed", {"runs": runs})
    assert "prompts of 128 tokens" in found and "prompts of many lengths" in found


def test_equality_is_told_in_units_of_what_stock_does_to_itself(tmp_path: Path) -> None:
    stock = {"largest": 0.02, "mean": 1e-4, "parted": 3, "gap": 0.01, "places": []}
    ours = {"largest": 0.03, "mean": 5e-5, "parted": 4, "gap": 0.02, "places": []}
    about = {**VERSIONS, "model": "next", "dtype": "bfloat16", "prompts": 64, "tokens": 256}
    figures = {"about": about, "stock": stock, "arms": {"kvgen-float32": ours}}
    found = written(tmp_path, "vllm-equal", figures)
    expected = ["kvgen float32", "3.00e-02", "1.50", "5.00e-05", "0.50", "4", "2.00e-02"]
    assert line(found, "kvgen float32") == expected


def fits(arm: str, drafts: int, blocks: int, page_bytes: int, requests: float) -> dict[str, Any]:
    groups = [
        {"kind": "MambaSpec", "layers": 3, "page_bytes": page_bytes, "blocks_a_request": blocks}
        for _ in range(3)
    ]
    attention = {"kind": "FullAttentionSpec", "blocks_a_request": 1}
    groups.append({**attention, "layers": 3, "page_bytes": page_bytes})
    return {**VERSIONS, "arm": arm, "drafts": drafts, "blocks": 1000, "tokens": 1024,
            "requests": requests, "groups": groups}  # fmt: skip


def test_requests_that_fit_stand_beside_the_linear_layers_pages(tmp_path: Path) -> None:
    found = [fits("stock-float32", 3, 4, 2 << 20, 100.0), fits("kvgen-split", 3, 1, 5 << 19, 270.0)]
    about = {"memory_bytes": 16 << 30, "drafts": 3}
    cells = line(written(tmp_path, "vllm-drafts", {"about": about, "fit": found}), "kvgen split")
    # 4 pages of 2 MiB against one of 2.5
    assert cells == ["kvgen split", "3", "1000", "2.50", "3 + 1", "270", "2.70", "3.20"]


def test_drafts_are_compared_with_the_same_arm_without(tmp_path: Path) -> None:
    def speeds(drafts: int, kept: float, *rates: float) -> dict[str, Any]:
        turns = [{"tokens_s": rate, "tokens_a_step": kept, "step_ms": 1.0} for rate in rates]
        rows = [{"batch": 8, "rounds": turns}]
        return {**VERSIONS, "arm": "kvgen-split", "drafts": drafts, "rows": rows}

    runs = [speeds(0, 1.0, 900.0, 1100.0), speeds(3, 3.9, 2500.0, 2500.0)]
    figures = {"about": {"drafts": 3}, "speed": runs}
    found = written(tmp_path, "vllm-drafts-speed", figures, figures)
    assert "drafts of 3 tokens" in found and "mean of 2 rounds" in found
    assert line(found, "8") == ["8", "2,500 ± 0 (2.50 ± 0.25, 3.90)"]


def test_a_decode_between_others_stands_over_what_it_was(tmp_path: Path) -> None:
    row = {"call": "decode between", "spec": "gated_deltanet-vk", "new": 4.11, "ratio": 0.86}
    rows = [row | {"batch": 1}, row | {"batch": 8, "spec": "mamba2", "ratio": 1.0}]
    rows.append(row | {"batch": 1, "call": "end of a step", "new": 9.0})
    figures = {"about": {"gpu": "NVIDIA H200"}, "rows": rows}
    text = written(tmp_path, "between", figures)
    assert "| rows | gated_deltanet-vk | mamba2 |" in text
    assert "| 1 | 4.11 (0.86) | – |" in text and "| 8 | – | 4.11 (1.00) |" in text


def test_a_soak_tells_what_is_lost_and_what_has_grown(tmp_path: Path) -> None:
    about = {**VERSIONS, "arm": "kvgen-float32", "dtype": "float32", "requests": 2000}
    look = {"gpu_bytes": 5 << 20, "host_bytes": 7 << 20}
    figures = {
        "about": about, "tokens": 60000, "aborted": 150, "preempted": 40, "preemptions": 52,
        "lost": ["r7"], "left": 1, "parted": 0, "gap": 0.0,
        "memory": [look, {name: size + (1 << 20) for name, size in look.items()}],
    }  # fmt: skip
    found = written(tmp_path, "vllm-soak", figures, figures)
    assert line(found, "kvgen-float32, float32")[1:] == [
        "2000", "60,000", "150", "40 (52 times)", "2", "0", "0.0e+00", "+1 / +1 MiB",
    ]  # fmt: skip


SGLANG = {"gpu": "some GPU", "sglang": "0.5.17", "torch": "2.11.0", "triton": "3.6.0"}


def test_a_soak_of_sglang_stands_beside_stocks_own(tmp_path: Path) -> None:
    stock = {"aborted": 40, "preempted": 9, "preemptions": 11, "known": 150, "lost": [],
             "parted": 100, "gap": 0.5}  # fmt: skip
    ours = stock | {"parted": 90, "lost": ["7"], "left": 1, "stock": stock}
    about = {**SGLANG, "arm": "kvgen-float32", "requests": 500}
    found = written(tmp_path, "sglang-soak", ours | {"about": about})
    assert line(found, "SGLang float32")[1:] == ["40", "9 (11 times)", "150", "0", "100", "5.0e-01"]
    assert line(found, "kvgen float32")[4:6] == ["2", "90"]


def test_what_fits_with_windows_is_over_stock_with_windows(tmp_path: Path) -> None:
    def fit(arm: str, drafts: int, requests: int) -> dict[str, Any]:
        return {"arm": arm, "drafts": drafts, "requests": requests, "state_bytes": 19 << 20,
                "tokens_a_step": 3.5}  # fmt: skip

    fits = [
        fit("kvgen-float32", 4, 600),
        fit("stock-float32", 4, 150),
        fit("kvgen-float32", 0, 620),
    ]
    same = {"kvgen-float32": {"requests": 16, "parted": 2, "gap": 0.25}}
    about = {**SGLANG, "memory_bytes": 16 << 30, "longest": 1024}
    found = written(tmp_path, "sglang-drafts", {"about": about, "fit": fits, "same": same})
    rows = [each for each in found.splitlines() if each.startswith("| kvgen")]
    assert [cell.strip() for cell in rows[1].strip("|").split("|")] == [
        "kvgen float32", "4", "19.0", "600", "4.00", "3.50", "2 of 16 (2.5e-01)",
    ]  # fmt: skip
    assert rows[0].count("–") == 2


# Transformers ------------------------------------------------------------------------------------


def test_an_arm_of_transformers_stands_beside_stock_of_as_many_rows(tmp_path: Path) -> None:
    about = {"gpu": "some GPU", "transformers": "5.17.0", "torch": "2.11.0", "triton": "3.6.0"}
    about |= {"prompt": 256, "new": 192, "drafts": 10, "dtype": "torch.bfloat16"}
    about |= {"state": "float32", "stock_kernels": ["fla"]}
    rows: list[dict[str, Any]] = [
        {"arm": "stock", "rows": 1, "tokens_s": 50.0, "tokens_a_pass": 1.0, "as_stock": [192]},
        {"arm": "stock", "rows": 8, "tokens_s": 400.0, "tokens_a_pass": 1.0, "as_stock": [192] * 8},
        {"arm": "drafts", "rows": 1, "tokens_s": 175.0, "tokens_a_pass": 6.0, "as_stock": [100]},
    ]
    rows[0] |= {"linear": 0.25, "busy": 0.5}
    found = written(tmp_path, "transformers-speed", {"about": about, "rows": rows})
    assert "in bfloat16, states in float32, drafts of 10 tokens, on some GPU (trans" in found
    assert line(found, "stock")[1:] == ["1", "50", "1.00", "1.00", "25%", "50%", "all"]
    assert line(found, "drafts")[1:] == ["1", "175", "3.50", "6.00", "–", "–", "100"]


# kernels -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("_causal_conv1d_update_kernel", "conv"),
        ("fused_recurrent_gated_delta_rule_packed_decode_kernel", "recurrence"),
        ("_decode_kernel", "recurrence"),
        ("_fold_kernel", "recurrence"),
        ("_advance_kernel", "recurrence"),
        ("fused_recurrent_kda_packed_decode_kernel", "recurrence"),
        ("kda_gate_chunk_cumsum_vector_kernel", "recurrence"),
        ("layer_norm_fwd_kernel", "norm"),
        ("layer_norm_gated_fwd_kernel1", "norm"),
        ("fused_moe_kernel", "other"),
        ("void vllm::rms_norm_kernel<c10::BFloat16>", "other"),
        ("kernel_unified_attention_2d", "other"),
    ],
)
def test_a_kernel_belongs_to_what_its_name_says(name: str, part: str) -> None:
    assert gpu_time.part(name) == part


def test_kernels_that_overlap_are_not_counted_twice() -> None:
    # the second is launched while the first runs, and the third after both
    ran = [("_decode_kernel", 0.0, 10.0), ("other one", 8.0, 14.0), ("_fold_kernel", 20.0, 25.0)]
    found = gpu_time.summed(ran, steps=1)
    assert found["parts_us"] == {"conv": 0.0, "recurrence": 15.0, "norm": 0.0, "other": 4.0}
    assert (found["linear_us"], found["total_us"]) == (15.0, 19.0)
