"""The programs that measure SGLang: what they ask of it and what they make of its answers, with a
scheduler in its place."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.servers import models, sglang_drafts, sglang_engine, sglang_forced, sglang_soak


@dataclass
class Asked:
    rid: str
    new: int
    output_ids: list[int] = field(default_factory=list)
    aborted: bool = False
    cached_tokens: int = 0
    retraction_count: int = 0

    def finished(self) -> bool:
        return self.aborted or len(self.output_ids) >= self.new


class Scheduler:
    """SGLang's loop, and a token a step for each of at most two requests; a name aborts one.
    widest: tokens that a step may give."""

    enable_overlap = False

    def __init__(self, widest: int = 1) -> None:
        self.request_receiver: Any = None
        self.ipc_channels = SimpleNamespace(
            send_to_detokenizer=SimpleNamespace(socket="one"),
            send_to_tokenizer=SimpleNamespace(socket="another"),
        )
        self.gracefully_exit = False
        self.queue: list[Asked] = []
        self.waiting_queue: list[Asked] = []
        self.running_batch = SimpleNamespace(reqs=[])
        self.widest = widest

    def _add_request_to_queue(self, request: Asked, is_retracted: bool = False) -> None:
        self.queue.append(request)

    def process_batch_result(self, batch: Any, result: Any) -> None:
        for each in batch.reqs:
            each.output_ids += [len(each.output_ids) + at for at in range(self.widest)]

    def event_loop_normal(self) -> None:
        while not self.gracefully_exit:
            for each in self.request_receiver.recv_requests():
                if isinstance(each, str):
                    next(x for x in self.queue if x.rid == each).aborted = True
                else:
                    self._add_request_to_queue(each)
            there = [each for each in self.queue if not each.finished()][:2]
            if there:
                self.process_batch_result(SimpleNamespace(reqs=there), None)


@pytest.fixture(autouse=True)
def _requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sglang_engine, "tokenized", lambda request: Asked(request.name, request.new)
    )


def asked(counts: Sequence[int]) -> list[sglang_engine.Request]:
    return [sglang_engine.Request(str(row), [1], count) for row, count in enumerate(counts)]


def test_a_server_steps_until_all_are_done_and_then_takes_more() -> None:
    server = sglang_engine.Server(Scheduler())
    found = server.run(asked([3, 1, 2]))
    assert found.tokens == [2, 2, 2] and found.outputs == {"0": [0, 1, 2], "1": [0], "2": [0, 1]}
    assert len(found.times) == 3 and found.times == sorted(found.times)
    assert server.run(asked([1])).outputs == {"0": [0]}


def test_what_a_window_gives_beyond_the_last_token_is_left_out() -> None:
    found = sglang_engine.Server(Scheduler(widest=4)).run(asked([5]))
    assert found.tokens == [4, 4] and found.outputs == {"0": [0, 1, 2, 3, 4]}


def test_what_is_called_after_a_step_sees_its_tokens() -> None:
    server, seen = sglang_engine.Server(Scheduler()), []
    server.after = lambda batch, result: seen.append([len(x.output_ids) for x in batch.reqs])
    server.run(asked([2, 2]))
    assert seen == [[1, 1], [2, 2]]


def test_one_that_is_aborted_before_it_runs_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sglang_engine, "aborted", lambda name: ("abort", name))
    server = sglang_engine.Server(Scheduler())
    waits, runs = Asked("1", 5), Asked("2", 5)
    server.held, server.scheduler.waiting_queue = {"1": waits, "2": runs}, [waits]
    assert server.abort("1") == ("abort", "1") and server.abort("2") == ("abort", "2")
    assert server.done(waits) and not server.done(runs) and not server.idle()


def test_no_name_of_a_soak_begins_with_anothers() -> None:
    names = [each.name for each in sglang_soak.requests(120, 0, 512, tiny=True)]
    assert len({len(each) for each in names}) == 1 and len(set(names)) == 120


@pytest.mark.parametrize("name", sglang_engine.ARMS)
@pytest.mark.parametrize("drafts", [False, True])
def test_an_arm_has_rings_where_its_name_says(name: str, drafts: bool) -> None:
    arm = sglang_engine.ARMS[name]
    given, environment = arm.options(24, drafts), arm.environment(24, drafts)
    rings = {key for key in given if "replayssm" in key}
    assert given["mamba_ssm_dtype"] == name.partition("-")[2]
    assert bool(rings) == name.startswith("replay")
    assert bool(environment) == name.startswith("kvgen") == arm.ours
    if rings and drafts:
        assert rings == {"enable_linear_replayssm_spec"}
    if environment:
        assert ("buffer=24" in environment["KVGEN_SGLANG"]) != drafts


def test_a_book_has_what_was_said_where_it_was_said() -> None:
    logits = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    forced = torch.arange(12).reshape(3, 4)
    book = sglang_forced.Book(torch.zeros(3, 4, 8), forced, torch.tensor([5, 6, 7]), first=10)
    # the second row after its prompt, the third after two tokens more
    told = book.write(torch.tensor([11, 12]), torch.tensor([6, 9]), logits)
    assert told.tolist() == [4, 10]
    torch.testing.assert_close(book.logs[[1, 2], [0, 2]], logits.log_softmax(-1))
    assert int(book.logs.ne(0).any(-1).sum()) == 2


def test_a_soak_aborts_those_that_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sglang_engine, "aborted", lambda name: name)
    server = sglang_engine.Server(Scheduler())
    asked = [sglang_soak.Asked(f"{row}", {"prompt_token_ids": [1]}, 6, leaves)
             for row, leaves in enumerate([0, 2, 0])]  # fmt: skip
    soak = sglang_soak.Soak(server, asked, random.Random(0))
    soak.run(rows=2)
    assert {name: len(each) for name, each in soak.said().items()} == {"0": 6, "1": 2, "2": 6}
    assert soak.told()["aborted"] == 1 and soak.told()["left"] == 0


def test_half_of_a_soaks_prompts_begin_alike() -> None:
    found = sglang_soak.requests(200, 0, 4096, tiny=False)
    begins = [tuple(each.prompt["prompt_token_ids"][:16]) for each in found]
    shared = sum(begins.count(each) > 1 for each in begins)
    assert 60 < shared < 140
    assert 5 < sum(each.leaves > 0 for each in found) < 35
    longest = max(len(each.prompt["prompt_token_ids"]) + each.tokens for each in found)
    assert longest < 2 * sglang_soak.LONGEST + sglang_soak.NEW < sglang_soak.TOKENS


def run(arm: str, drafts: int, states: int, said: list[int]) -> dict[str, Any]:
    return {"arm": arm, "drafts": drafts, "outputs": {"0": said}, "tokens_a_step": 1.0,
            "gaps": None if drafts else [[0.5, 0.25, 0.125]], "key_bytes": 1024,
            "memory": {"state_bytes": {"temporal": states}}, "gpu": "some GPU",
            "sglang": "0.5.17"}  # fmt: skip


def test_requests_that_fit_are_those_that_their_tensors_leave_room_for() -> None:
    runs = [run("stock-float32", 4, 15 << 20, [1, 2, 3]), run("stock-float32", 0, 3 << 20, [1, 5])]
    runs[1]["outputs"] = {"0": [1, 5, 3]}
    found = sglang_drafts.told(runs, 4, 1, "python")
    assert [each["requests"] for each in found["fit"]] == [1024, 4096]
    assert found["same"]["stock-float32"]["parted"] == 1
    assert found["same"]["stock-float32"]["places"] == [{"row": 0, "step": 1, "gap": 0.25}]


def test_a_cycle_stays_in_its_rows_block() -> None:
    found = models.cycle(9, 100, 512)
    assert set(found) == set(range(models.CYCLE, 2 * models.CYCLE))
    assert all(b in (a + 1, models.CYCLE) for a, b in pairwise(found))
