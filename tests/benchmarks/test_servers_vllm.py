"""Arms of vLLM, as far as they need no vLLM."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from benchmarks.servers import engine


def test_an_arm_of_ours_is_not_vllm_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """kvgen on the path alone is no plug-in, and what is measured would be vLLM's own."""
    engine.check_installed()
    found = [SimpleNamespace(name="another")]
    monkeypatch.setattr(engine.metadata, "entry_points", lambda group: found)
    with pytest.raises(SystemExit, match=r"kvgen: no vllm.general_plugins entry point"):
        engine.check_installed()
