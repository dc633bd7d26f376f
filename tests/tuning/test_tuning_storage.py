"""Tuners that share what they measure, in a storage of Optuna's."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from optuna.trial import TrialState
from patience import PATIENCE
from tuners import command

import cli
from kvgen.tuning import shared
from kvgen.tuning.shared import STALE, Shared, opened
from kvgen.tuning.trials import Outcome, key_of
from kvgen.tuning.workers import Halted, WorkerError
from kvgen.wisdom.folder import Folder
from tests.tuning.test_tuning_command import TUNE, asked, ended, trials, until

CONFIGS = [{"TILE": tile, "num_warps": warps} for tile in (16, 32) for warps in (1, 2)]
# two of them are enough to see that they share
SHORT = (*TUNE[:-1], "4")


def outcome(config: dict[str, int], us: float | None = 5.0) -> Outcome:
    times = (us, us, us) if us else None
    return Outcome(config, "timed" if us else "wrong", times, error=1e-3, program="p")


@pytest.fixture(params=["journal", "sqlite", "server"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "journal":
        return f"journal:{tmp_path / 'shared' / 'journal.log'}"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'shared.db'}"
    return request.getfixturevalue("database")


@pytest.fixture
def database() -> Iterator[str]:
    """A new database on the server that KVGEN_TEST_DATABASE names, as in
    postgresql://user@localhost/postgres."""
    import sqlalchemy

    if "KVGEN_TEST_DATABASE" not in os.environ:
        pytest.skip("KVGEN_TEST_DATABASE names no server")
    server = sqlalchemy.make_url(os.environ["KVGEN_TEST_DATABASE"])
    name = f"kvgen_{uuid.uuid4().hex}"
    engine = sqlalchemy.create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"create database {name}")
        yield server.set(database=name).render_as_string(hide_password=False)
        connection.exec_driver_sql(f"drop database {name} with (force)")
    engine.dispose()


def study(url: str) -> Shared:
    return Shared(opened(url), "a study", CONFIGS, {"spec": "mine"})


def test_what_one_finds_another_knows(url: str) -> None:
    one, two = study(url), study(url)
    calls: list[dict[str, int]] = []

    def evaluate(config: dict[str, int]) -> Outcome:
        calls.append(config)
        return outcome(config, None if config["TILE"] == 32 else 5.0)

    for config in CONFIGS:
        wanted = outcome(config, None if config["TILE"] == 32 else 5.0)
        assert one.tried(config, evaluate, lambda: False) == wanted
        assert two.tried(config, evaluate, lambda: False) == wanted
    assert calls == CONFIGS
    assert set(study(url).known()) == {key_of(config) for config in CONFIGS}
    states = [trial.state for trial in one.storage.get_all_trials(one.study)]
    assert states == [TrialState.COMPLETE] * 2 + [TrialState.PRUNED] * 2


def test_what_another_is_at_is_waited_for(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "POLL", 0.05)
    one, two = study(url), study(url)
    claim = one._claim(CONFIGS[0])
    assert claim is not None and two._claim(CONFIGS[0]) is None
    monkeypatch.setattr(shared, "FRESH", 0.0)
    assert two.taken(CONFIGS[0]) and not two.taken(CONFIGS[1])
    with pytest.raises(Halted):
        two.tried(CONFIGS[0], unwanted, lambda: True)
    polls = iter([False, False, True])

    def finish() -> bool:
        if next(polls, False):
            one._finish(claim, outcome(CONFIGS[0]))
        return False

    assert two.tried(CONFIGS[0], unwanted, finish) == outcome(CONFIGS[0])


def test_what_failed_may_be_tried_again(url: str) -> None:
    one, two = study(url), study(url)
    with pytest.raises(RuntimeError):
        one.tried(CONFIGS[0], gone, lambda: False)
    assert one.tried(CONFIGS[1], lambda config: None, lambda: False) is None
    for config in CONFIGS[:2]:
        assert two.tried(config, outcome, lambda: False) == outcome(config)


def gone(config: dict[str, int]) -> Outcome:
    raise RuntimeError("the worker is gone")


def unwanted(config: dict[str, int]) -> Outcome:
    raise AssertionError("another has tried it")


@pytest.mark.parametrize(
    ("owner", "age", "void"),
    [
        (["another host", 1], 0.0, False),
        (["another host", 1], STALE + 1, True),
        # a process of this host that is gone
        (["here", 1 << 22], 0.0, True),
        (["here", 1], 0.0, False),
    ],
)
def test_claims_of_the_dead(owner: Any, age: float, void: bool, tmp_path: Path) -> None:
    one, two = (study(f"journal:{tmp_path / 'j.log'}") for _ in range(2))
    one.owner, two.owner = owner, ["here", 7]
    real = time.time
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared.time, "time", lambda: real() - age)
        assert one._begun(CONFIGS[0]) is not None
    two.known(fresh=True)
    assert two.taken(CONFIGS[0]) is not void
    if void:
        assert two.tried(CONFIGS[0], outcome, lambda: False) == outcome(CONFIGS[0])


def test_a_torn_journal(tmp_path: Path) -> None:
    """Cut at the last whole line, when it is opened and by whoever writes next."""
    path = tmp_path / "j.log"
    url = f"journal:{path}"
    one = study(url)
    one.publish([outcome(CONFIGS[0])])
    for at, torn in enumerate((b'{"op_code": 5, "worker', b"x" * 9000), 1):
        whole = path.read_bytes()
        path.write_bytes(whole + torn)
        one.publish([outcome(CONFIGS[at])])
        assert path.read_bytes().startswith(whole) and torn not in path.read_bytes()
        path.write_bytes(path.read_bytes() + torn)
        two = study(url)
        assert torn not in path.read_bytes()
        assert set(two.known()) == {key_of(config) for config in CONFIGS[: at + 1]}
    for line in path.read_text().splitlines():
        json.loads(line)


@pytest.mark.parametrize(
    "bad", ["nonsense", "postgresql://nobody@localhost:1/x", "journal:/proc/x"]
)
def test_a_storage_that_is_none(bad: str) -> None:
    with pytest.raises(WorkerError, match="the storage failed: "):
        opened(bad)


def test_a_storage_that_goes_away(tmp_path: Path) -> None:
    """Ends the run with a message; what was measured is kept."""
    path = tmp_path / "j.log"
    process = command(tmp_path, *SHORT, "--storage", f"journal:{path}", seconds=0.05)
    until(lambda: sum(map(len, trials(tmp_path).values())) >= 15, process)
    path.write_text("nothing\nof\nthe\nkind\n" * 5000)
    process.communicate(timeout=PATIENCE)
    assert Folder(tmp_path / "wisdom", "test").records()


def test_several_hosts(tmp_path: Path) -> None:
    share(tmp_path, f"journal:{tmp_path / 'shared' / 'journal.log'}")


@pytest.mark.slow
def test_several_hosts_on_a_database(tmp_path: Path) -> None:
    share(tmp_path, f"sqlite:///{tmp_path / 'shared.db'}")


def test_several_hosts_on_a_server(tmp_path: Path, database: str) -> None:
    share(tmp_path, database)


def share(tmp_path: Path, url: str) -> None:
    """Nothing is measured by both, and both know all."""
    folders = [tmp_path / "one", tmp_path / "two"]
    processes = [
        command(
            folder, *SHORT, "--storage", url, seconds=0.02, log=str(folder) + ".log",
            hello={"uuid": folder.name},
        )
        for folder in folders
    ]  # fmt: skip
    for process in processes:
        _, err = ended(process)
        assert "everything was tried" in err
    times = [asked(Path(str(folder) + ".log")) for folder in folders]
    assert all(len(each) > 5 for each in times), "one of them did it alone"
    together = times[0] + times[1]
    assert len(set(together)) == len(together)
    # as many as one would have timed, or a few more that were under way
    assert len(together) <= 40 + 40 + 12 + 4
    configs = [
        {r.key.kernel: r.config for r in Folder(folder / "wisdom", "test").records()}
        for folder in folders
    ]
    assert configs[0]["recurrent"] == configs[1]["recurrent"]


def test_killed_and_gone_on_with(tmp_path: Path) -> None:
    """By a process that knows the storage alone."""
    path = tmp_path / "j.log"
    first, second = tmp_path / "first", tmp_path / "second"
    storage = ("--storage", f"journal:{path}")
    process = command(tmp_path / "a", *SHORT, *storage, seconds=0.05, log=str(first))
    until(lambda: sum(map(len, trials(tmp_path / "a").values())) >= 20, process)
    process.kill()
    process.communicate()
    with path.open("ab") as file:
        file.write(b'{"op_code": 6, "wor')
    measured = [
        f"{name} {sorted(each.config.items())}"
        for name, found in trials(tmp_path / "a").items()
        for each in found
    ]
    _, err = ended(command(tmp_path / "b", *SHORT, *storage, log=str(second)))
    assert "everything was tried" in err
    # what was on the way from the one file to the other is lost to the storage
    assert len(set(asked(second)) & set(measured)) <= 3
    assert len(measured) >= 20


@pytest.mark.parametrize("others", [["--gpu", "--force"], []])
def test_with_what_it_does_not_go(others: list[str]) -> None:
    arguments = ["tune", "gated_deltanet", "--storage", "journal:x", *others]
    result = CliRunner().invoke(cli.cli, arguments)
    assert result.exit_code == 2 and "--storage needs --gpu" in result.stderr
