"""benchmarks/again.py without a GPU: what it would have timed, and what it makes of the answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import again, family
from kvgen.tuning import space

H200 = family.PAGES["h200"]


def kept(spec: str, storage: str = "float32", heads: str = "") -> family.Tuned:
    return {each.name: each for each in family.read(H200.kept)}[spec, storage, heads]


@pytest.mark.parametrize(
    "name", [("mamba2", "split"), ("kimi_delta_attention", "float32", "H 8, HV 8")]
)
def test_tuned_and_untuned_stand_side_by_side(name: tuple[str, ...]) -> None:
    task = again.task_of(kept(*name))
    analysis = task.job.analysis
    assert analysis.form.spec.storage.state.name == name[1]
    assert analysis.spec.size("HV") == (8 if len(name) == 3 else 128)
    assert set(task.entries) == {row.batch for row in task.tuned.rows} == {1, 4, 16, 64, 256}
    for batch, entries in task.entries.items():
        assert [each["kernel"] for each in entries] == ["decode"] * 2 + ["recurrent"] * 2
        tuned, untuned, _, plain = entries
        assert tuned["buffer"] == task.tuned.buffer
        assert untuned["config"] == space.default(analysis, "decode", batch)
        assert plain["config"] == space.default(analysis, "recurrent", batch)
    assert any(tuned != untuned for tuned, untuned, *_ in task.entries.values())


def test_what_is_the_same_program_is_timed_once() -> None:
    task = again.task_of(kept("gated_deltanet"))
    asked: list[Any] = []

    def ask(job: Any, do: str, batch: int, entries: list[again.Entry]) -> dict[str, Any]:
        assert (job, do) == (task.job, "steps")
        asked.append(entries)
        times = [10.0 * (at + 1) for at in range(len(entries))]
        return {"us": [(us - 1, us, us + 1) for us in times], "layers": 36}

    tuner: Any = SimpleNamespace(workers=[SimpleNamespace(ask=ask)])
    for row in task.tuned.rows:
        _, _, plain, rules = task.entries[row.batch]
        found = again.timed(tuner, task, row)
        assert (found.us, found.before, found.plain_us) == (10.0, 20.0, 30.0)
        assert found.plain_before == (30.0 if plain == rules else 40.0)
        assert (found.batch, found.error, found.floor_us) == (row.batch, row.error, row.floor_us)
        assert len(asked[-1]) == (3 if plain == rules else 4)
    assert {len(entries) for entries in asked} == {3, 4}
