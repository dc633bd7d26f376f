"""What `KVGEN_SGLANG` may ask for, and what of SGLang's arguments goes against it: all at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kvgen.compiler import analyse
from kvgen.explaining.derivation import Derivation
from kvgen.integrations.refused import Refused
from kvgen.integrations.sglang import settings
from kvgen.integrations.sglang.inputs import GATED_DELTANET
from kvgen.integrations.versions import UnknownVersion
from kvgen.shipped import resolve
from kvgen.wisdom.identity import form_hash


def arguments(**given: Any) -> Any:
    """SGLang's, with what its own rings need."""
    return SimpleNamespace(
        **{
            "enable_linear_replayssm": False,
            "linear_replayssm_cache_len": 16,
            "mamba_ssm_dtype": None,
            "mamba_radix_cache_strategy": "auto",
            "disable_radix_cache": False,
            "disable_overlap_schedule": True,
            "page_size": None,
            "linear_attn_backend": "triton",
            "linear_attn_decode_backend": None,
            "disaggregation_mode": "null",
            "enable_mixed_chunk": False,
            "enable_unified_memory": False,
            "enable_two_batch_overlap": False,
            "speculative_algorithm": None,
            "speculative_eagle_topk": None,
            "speculative_num_draft_tokens": None,
            "device": None,
            **given,
        }
    )


def environment(text: str) -> dict[str, str]:
    return {"KVGEN_SGLANG": text}


@pytest.mark.parametrize("there", [{}, environment(""), environment("  ")])
def test_nothing_is_asked_for_without_a_text(there: dict[str, str]) -> None:
    assert not settings.mentioned(there)


def test_a_text_names_the_state_and_the_places_of_a_ring() -> None:
    found = settings.asked(environment(" state = bfloat16, buffer=24"))
    assert found == settings.Settings("bfloat16", 24)
    assert settings.asked(environment("buffer=8")) == settings.Settings("float32", 8)


def test_what_follows_from_the_settings_is_set_and_nothing_else() -> None:
    given = arguments()
    wanted = settings.agreed(environment("state=float32,buffer=24"), given)
    before = dict(vars(given))
    settings.complete(wanted, given)
    assert {name: value for name, value in vars(given).items() if value != before[name]} == {
        "enable_linear_replayssm": True,
        "mamba_ssm_dtype": "float32",
        "linear_replayssm_cache_len": 24,
    }


def test_all_that_is_wrong_is_said_at_once() -> None:
    given = arguments(
        disable_overlap_schedule=False,
        mamba_radix_cache_strategy="extra_buffer",
        page_size=64,
        linear_attn_decode_backend="flashinfer",
        disaggregation_mode="decode",
        enable_mixed_chunk=True,
        enable_unified_memory=True,
        enable_two_batch_overlap=True,
        speculative_algorithm="DFLASH",
        speculative_eagle_topk=4,
        speculative_num_draft_tokens=17,
        enable_linear_replayssm=True,
        device="npu",
    )
    with pytest.raises(Refused) as refused:
        settings.agreed(environment("state=split,buffer=no,color=red,buffer"), given)
    text = str(refused.value)
    assert text.startswith("kvgen cannot serve what is asked for; nothing was changed:\n")
    for said in (
        "'color' is unknown, expected state or buffer",
        "buffer twice",
        "state=split, expected one of float32, bfloat16",
        "buffer=no, expected 1 to 64",
        "--mamba-radix-cache-strategy extra_buffer: expected no_buffer",
        "--disable-overlap-schedule: expected with it",
        "--page-size 64: expected 1",
        "--linear-attn-decode-backend flashinfer: expected triton",
        "--disaggregation-mode decode",
        "--enable-mixed-chunk: expected without",
        "--enable-two-batch-overlap: expected without",
        "--speculative-algorithm DFLASH: expected one of EAGLE",
        "--speculative-num-draft-tokens 17: expected at most 16",
        "--enable-linear-replayssm: expected without",
        "--device npu: expected cuda",
    ):
        assert said in text
    assert given.mamba_ssm_dtype is None


def test_drafts_have_rings_of_their_own() -> None:
    given = arguments(speculative_algorithm="NEXTN", enable_linear_replayssm_spec=False)
    wanted = settings.agreed(environment("state=float32"), given)
    settings.complete(wanted, given)
    assert given.enable_linear_replayssm_spec and not given.enable_linear_replayssm
    # SGLang resolves its arguments before it is told of trees in these rings
    given = arguments(speculative_algorithm="EAGLE", speculative_eagle_topk=4)
    given.enable_linear_replayssm_spec = False
    settings.complete(settings.agreed(environment("state=float32"), given), given)
    assert settings.trees(given) and not given.enable_linear_replayssm_spec
    with pytest.raises(Refused, match="buffer, expected without"):
        settings.agreed(environment("buffer=8"), arguments(speculative_algorithm="EAGLE"))


@pytest.mark.parametrize(
    ("text", "flags", "said"),
    [
        ("state=float32", {"mamba_ssm_dtype": "bfloat16"}, "--mamba-ssm-dtype bfloat16: expected"),
        ("buffer=8", {"linear_replayssm_cache_len": 12}, "--linear-replayssm-cache-len 12"),
        ("buffer=65", {}, "KVGEN_SGLANG: buffer=65, expected 1 to 64"),
        ("buffer=0", {}, "KVGEN_SGLANG: buffer=0, expected 1 to 64"),
        ("state=float32", {"linear_replayssm_cache_len": 0}, "expected 1 to 64"),
        ("state=float32", {"enable_unified_memory": True}, "--enable-unified-memory"),
    ],
)
def test_a_flag_that_says_otherwise_is_refused(text: str, flags: Any, said: str) -> None:
    with pytest.raises(Refused, match=said):
        settings.agreed(environment(text), arguments(**flags))


def test_without_a_radix_cache_its_rules_do_not_hold() -> None:
    given = arguments(disable_radix_cache=True, disable_overlap_schedule=False, page_size=64)
    assert settings.agreed(environment("state=float32"), given).records == "float32"


@pytest.mark.parametrize("version", ["0.5.16", "0.5.18", "0.5.23"])
def test_a_version_that_was_never_tried_is_refused(version: str) -> None:
    with pytest.raises(UnknownVersion, match=f"SGLang {version} is not known"):
        settings.KNOWN.require(version)


def test_its_own_spec_is_the_shipped_one_but_for_what_sglang_rounds() -> None:
    own = GATED_DELTANET.rounding
    assert own is not None
    variant, shipped = analyse(own), analyse(resolve("gated_deltanet"))
    assert form_hash(variant) == form_hash(shipped)
    lines = Derivation(variant).recurrence
    plain = [line.replace("rounded(sigmoid(b))", "sigmoid(b)") for line in lines]
    assert plain == Derivation(shipped).recurrence != lines
