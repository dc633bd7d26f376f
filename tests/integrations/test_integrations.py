"""What all integrations share: modules kept for servers, versions, the report."""

from __future__ import annotations

import pytest

import kvgen
from kvgen.integrations import modules, report, versions

SIZES = {"H": 1, "HV": 2, "K": 16, "V": 16}
KNOWN = versions.Known("vLLM", "0.32", "0.34")


@pytest.fixture
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KVGEN_CACHE_DIR", str(tmp_path))
    return tmp_path


def test_a_module_is_kept_once_by_sizes_storage_and_features(cache_folder):
    first = modules.serving("gated_deltanet", SIZES, "float32", ["decode"])
    assert modules.serving("gated_deltanet", SIZES, "float32", ["decode"]) is first
    other = modules.serving("gated_deltanet", SIZES, "split", ["decode"])
    assert other.SIZES == first.SIZES == SIZES and other is not first
    kept = [path for path in cache_folder.rglob("*") if path.is_file()]
    assert len([path for path in kept if path.suffix == ".py"]) == 2


def test_a_state_that_servers_cannot_ask_for_is_named(cache_folder):
    with pytest.raises(kvgen.SpecError, match="int8"):
        modules.serving("gated_deltanet", SIZES, "int8", ["decode"])


def test_a_cache_folder_that_cannot_be_written_is_named_with_what_to_set(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KVGEN_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"file/modules/.*, expected a folder.*KVGEN_CACHE_DIR"):
        modules.serving("gated_deltanet", SIZES, "float32", ["decode"])


@pytest.mark.parametrize("version", ["0.32.0", "0.33.0+cpu", "0.33.1"])
def test_a_known_version_passes(version):
    KNOWN.require(version)


@pytest.mark.parametrize("version", ["0.31.9", "0.34.0", "1.0", "dev"])
def test_an_unknown_version_is_refused_with_those_that_are_known(version):
    with pytest.raises(versions.UnknownVersion) as refused:
        KNOWN.require(version)
    text = str(refused.value)
    assert f"vLLM {version} is not known" in text and "from 0.32" in text
    assert "nothing was changed" in text


def test_the_report_says_what_and_how_and_what_not(cache_folder):
    module = modules.serving("gated_deltanet", SIZES, "split", ["decode"])
    names = [f"model.layers.{index}" for index in range(5)]
    done = [report.Accelerated(names, module, "split", 16, 4)]
    left = [report.LeftAlone("model.layers.5", "its heads are 512 wide")]
    said = report.text("vLLM 0.33.0", done, left, "NVIDIA H200")
    assert "5 layers (model.layers.0, model.layers.1, model.layers.2 and 2 more)" in said
    assert "state split, buffer of 16, drafts of up to 3, not tuned for NVIDIA H200" in said
    assert "left alone: 1 layer (model.layers.5): its heads are 512 wide" in said
    assert "in Triton's interpreter" in report.text("vLLM 0.33.0", done, left, "cpu")
    nothing = report.text("vLLM 0.33.0", [], left, "cpu")
    assert nothing.startswith("kvgen leaves vLLM 0.33.0 as it is:")
