"""What SGLang's model says at every step: log-probabilities are recorded, tokens forced.

Between SGLang's model and its sampler, in the same process. A request belongs to a row of the book
by its name, a number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.servers import sglang_engine


@dataclass
class Book:
    """logs: log-probabilities [rows, steps, vocabulary] in float32; tokens: what is to be said
    [rows, steps]; None: a model chooses. lengths: tokens of the prompts, by row."""

    logs: torch.Tensor
    tokens: torch.Tensor | None
    lengths: torch.Tensor

    def write(self, rows: torch.Tensor, seen: torch.Tensor, logits: torch.Tensor) -> Any:
        """seen: [n], tokens that each row's logits [n, vocabulary] come after. The tokens that
        follow; None where a model chooses them."""
        steps = seen - self.lengths[rows]
        said = logits[:, : self.logs.shape[2]].float()
        self.logs[rows, steps] = said.log_softmax(-1)
        return None if self.tokens is None else self.tokens[rows, steps]


class Listener:
    """In front of a server's sampler."""

    book: Book | None = None

    def __init__(self, server: sglang_engine.Server) -> None:
        self.runner = sglang_engine.runner(server)
        self.sample = self.runner.sample
        self.runner.sample = self.sampled

    def open(
        self, lengths: list[int], steps: int, vocabulary: int, tokens: torch.Tensor | None
    ) -> Book:
        """A new book for what the server does next."""
        where = next(self.runner.model.parameters()).device
        logs = torch.zeros(len(lengths), steps, vocabulary, device=where)
        forced = None if tokens is None else tokens.to(where)
        self.book = Book(logs, forced, torch.tensor(lengths, device=where))
        return self.book

    def sampled(self, output: Any, batch: Any) -> torch.Tensor:
        if self.book is None:
            return self.sample(output, batch)
        where = output.next_token_logits.device
        rows = torch.tensor([int(name) for name in batch.rids], device=where)
        logits = output.next_token_logits[: len(rows)]
        forced = self.book.write(rows, batch.seq_lens[: len(rows)].long(), logits)
        chosen = self.sample(output, batch)
        return chosen if forced is None else forced.to(chosen.dtype)
