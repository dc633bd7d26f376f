"""What a server's model says at every step: log-probabilities are recorded, tokens forced.

vLLM's own interface for this, one for each of its runners: a class that LLM takes by name.
A request belongs to a row of the book by `extra_args={"row": n}`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor
from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcessor

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm import SamplingParams
    from vllm.config import VllmConfig
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcRequestState


@dataclass
class Book:
    """logs: log-probabilities [rows + 1, steps + 1, vocabulary] in float32; tokens: what was said
    or is to be said [rows + 1, steps + 1], -1 where a model chooses. What belongs to no row or no
    step goes to the last one."""

    logs: torch.Tensor
    tokens: torch.Tensor


# of this process's engine: vLLM makes its processors itself
BOOKS: list[Book] = []


def open_book(rows: int, steps: int, vocabulary: int, tokens: torch.Tensor | None) -> Book:
    """A new book for what the engine does next. tokens: [rows, steps], forced; None: none is."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    logs = torch.zeros(rows + 1, steps + 1, vocabulary, device=device)
    forced = torch.full((rows + 1, steps + 1), -1, dtype=torch.int64, device=device)
    if tokens is not None:
        forced[:rows, :steps] = tokens.to(device)
    BOOKS[:] = [Book(logs, forced)]
    return BOOKS[0]


class Keeper:
    """What vLLM's worker can be asked for over all processes of an engine: its
    `worker_extension_cls`."""

    rank: int

    def open_book(
        self, rows: int, steps: int, vocabulary: int, tokens: torch.Tensor | None
    ) -> None:
        """A new book, in this process."""
        open_book(rows, steps, vocabulary, tokens)

    def keep_book(self, path: str) -> None:
        """Save what was written down, [rows, steps, vocabulary]; all ranks have the same."""
        if self.rank == 0:
            torch.save(BOOKS[0].logs[:-1, :-1].cpu(), path)


def written(logits: torch.Tensor, row: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """Write down what logits [n, vocabulary] say; the logits that stand for the forced tokens."""
    if not BOOKS:
        return logits
    book = BOOKS[0]
    rows, steps = (size - 1 for size in book.tokens.shape)
    here = (row >= 0) & (row < rows) & (step >= 0) & (step < steps)
    row, step = torch.where(here, row, rows), torch.where(here, step, steps)
    book.logs[row, step] = logits.float().log_softmax(-1)[:, : book.logs.shape[2]]
    forced = book.tokens[row, step]
    only = torch.full_like(logits, -torch.inf).scatter(1, forced.clamp(min=0)[:, None], 0.0)
    return torch.where((forced >= 0)[:, None], only, logits)


def named(params: SamplingParams) -> int:
    return int((params.extra_args or {}).get("row", -1))


class Rows(LogitsProcessor):
    """For the newer runner, which gives all rows of a step at once."""

    def __init__(self, vllm_config: VllmConfig, req_states: LogitsProcRequestState):
        self.state = req_states
        self.chosen = torch.full((req_states.max_num_reqs,), -1, dtype=torch.int64)
        self.rows = self.chosen.to(req_states.device)
        self.stale = False

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        self.chosen[req_idx] = named(sampling_params)
        self.stale = True
        return True

    def apply_staged_writes(self) -> None:
        if self.stale:
            self.rows.copy_(self.chosen)
            self.stale = False

    def apply(self, logits: torch.Tensor, ctx: LogitsContext) -> torch.Tensor:
        request = ctx.expanded_idx_mapping.long()
        step = ctx.pos.long() + 1 - self.state.prompt_len.gpu[request].long()
        return written(logits, self.rows[request], step)


class Single(AdapterLogitsProcessor):
    """For the older runner, one request at a time."""

    def is_argmax_invariant(self) -> bool:
        return False

    def new_req_logits_processor(
        self, params: SamplingParams
    ) -> Callable[[list[int], torch.Tensor], torch.Tensor]:
        row = torch.tensor([named(params)])

        def one(said: list[int], logits: torch.Tensor) -> torch.Tensor:
            where = row.to(logits.device), torch.tensor([len(said)], device=logits.device)
            return written(logits[None], *where)[0]

        return one


def options() -> dict[str, Any]:
    """What LLM is given so that it records."""
    name = "Single" if not torch.cuda.is_available() else "Rows"
    return {
        "logits_processors": [f"{__name__}:{name}"],
        "worker_extension_cls": f"{__name__}.Keeper",
    }
