"""What kernels say of themselves, beside what they do."""

from __future__ import annotations

import pytest
import torch
from twins import analysed, made

from kvgen.codegen.cost import buffer_length, cost
from kvgen.explaining.formulas import formulas
from kvgen.kernels.chain import CHAIN
from kvgen.kernels.chunk import CHUNK
from kvgen.kernels.decode import DECODE
from kvgen.kernels.extend import EXTEND, Extend
from kvgen.kernels.fold import FOLD
from kvgen.kernels.kernel import Kernel
from kvgen.kernels.load import load_of
from kvgen.kernels.registry import KERNELS, STEPS, SUBJECTS, kernels_of, named, subject
from kvgen.kernels.short import SHORT
from kvgen.kernels.sweep import SWEEP
from kvgen.kernels.verify import VERIFY
from kvgen.timing import rows, steps
from kvgen.tuning import oracle
from kvgen.tuning.floors import alone_us, floor_us

BUFFER = 4


def test_all_are_found_by_name() -> None:
    assert len({each.name for each in SUBJECTS}) == len(SUBJECTS) == len(KERNELS) + 1
    assert all(subject(each.name) is each for each in SUBJECTS)
    assert all(named(each.name) is each for each in KERNELS)
    assert set(STEPS) == {each for each in KERNELS if each.in_steps}


def test_only_a_decode_has_all_of_v_for_an_output_s_end() -> None:
    analysis = analysed("qwen3_next_layer", V=128, K=128)
    form, load = analysis.form, load_of(analysis.form, analysis.records)
    assert form.finish is not None
    for kernel in kernels_of(form):
        configs = list(kernel.untuned(load).values())
        assert (min(each["TILE"] for each in configs) == 128) == (kernel is DECODE), kernel.name
        # a tuner may find another width faster
        assert kernel.is_safe(form, {**configs[0], "TILE": 32})


def test_those_of_a_recurrence() -> None:
    assert kernels_of(analysed("gated_deltanet", K=128, V=128).form) == KERNELS
    # long keys leave what has all tokens' columns at once no registers
    long = kernels_of(analysed("gated_deltanet", K=1024, V=128).form)
    assert set(KERNELS) - {*long} == {CHAIN, CHUNK, SWEEP}
    # tensor cores have nothing to contract
    short = kernels_of(analysed("gated_deltanet", K=8, V=8).form)
    assert set(KERNELS) - {*short} == {CHUNK, SWEEP}


@pytest.mark.parametrize("name", ["gated_deltanet", "kimi_delta_attention_bounded"])
def test_drafts_have_room_in_factored_keys(name: str) -> None:
    form = analysed(name).form
    most = form.factored.most if form.factored else VERIFY.wanted(form)
    for kernel in (VERIFY, CHAIN):
        assert kernel.tokens(form) <= most
        assert kernel.places(form, 1) == kernel.tokens(form)


@pytest.mark.parametrize("state", ["float32", "split"])
def test_a_folds_bytes_are_those_of_explain(state: str) -> None:
    analysis = analysed("gated_deltanet", f"state={state}")
    total = cost(analysis.form, analysis.records)
    length = buffer_length(analysis.form, analysis.records)
    [shown] = [each.value for each in formulas(analysis) if each.key == FOLD.name]
    assert FOLD.moved(total, analysis.form, length) * length == pytest.approx(shown)


def test_a_study_of_a_decode_has_another_floor_than_its_steps() -> None:
    analysis = analysed("gated_deltanet")
    for kernel in kernels_of(analysis.form):
        what = analysis, kernel.name, 64, 16, 1e12
        assert (alone_us(*what) < floor_us(*what)) == (kernel is DECODE)


@pytest.mark.parametrize(
    "kernel",
    [pytest.param(k, id=k.name, marks=[pytest.mark.slow] if k is SHORT else []) for k in KERNELS],
)
def test_its_oracle_finds_no_fault_with_it(kernel: Kernel) -> None:
    found = made("gated_deltanet", "state=split")
    kind = oracle.Prompt if kernel.prompt else oracle.Oracle
    case = kind(found.analysis, found.module, BUFFER, "cpu", kernel)
    errors = case.errors(kernel)
    assert errors.ok, errors


# on CPU tensors a step's end without a step is an error
@pytest.mark.parametrize("kernel", [k for k in KERNELS if k is not FOLD], ids=lambda k: k.name)
def test_its_rows_are_what_it_is_launched_on(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "DEVICE", "cpu")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (100_000, 100_000))
    monkeypatch.setattr(rows, "LAYERS", 2)
    monkeypatch.setattr(rows, "PROMPT_LAYERS", 1)
    monkeypatch.setattr(Extend, "prompt", 8)
    found = made("gated_deltanet", "state=split")
    form = found.analysis.form
    what = found.analysis, found.module, kernel, 2, BUFFER, 100
    some = rows.make_rows(*what)
    some.stand(kernel.cursors(some, form))
    if kernel is EXTEND:
        some.fresh()
    some.poison()
    assert some.unwritten()
    some.call(kernel)()
    assert not some.unwritten()
    assert some.cache.buffer == kernel.places(form, BUFFER)
    assert kernel.cycle(some) == 1
