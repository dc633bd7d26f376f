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
    [rows, steps]; None: a model chooses. lengths: tokens of the prompts, by row. first: the name of
    the first row."""

    logs: torch.Tensor
    tokens: torch.Tensor | None
    lengths: torch.Tensor
    first: int = 0

    def write(self, names: torch.Tensor, seen: torch.Tensor, logits: torch.Tensor) -> Any:
        """names: [n]. seen: [n], tokens that each one's logits [n, vocabulary] come after. The
        tokens that follow; None where a model chooses them."""
        rows = names - self.first
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
        self,
        lengths: list[int],
        steps: int,
        vocabulary: int,
        tokens: torch.Tensor | None,
        first: int = 0,
    ) -> Book:
        """A new book for what the server does next."""
        where = next(self.runner.model.parameters()).device
        logs = torch.zeros(len(lengths), steps, vocabulary, device=where)
        forced = None if tokens is None else tokens.to(where)
        self.book = Book(logs, forced, torch.tensor(lengths, device=where), first)
        return self.book

    def sampled(self, output: Any, batch: Any) -> torch.Tensor:
        if self.book is None:
            return self.sample(output, batch)
        where = output.next_token_logits.device
        names = torch.tensor([int(name) for name in batch.rids], device=where)
        logits = output.next_token_logits[: len(names)]
        forced = self.book.write(names, batch.seq_lens[: len(names)].long(), logits)
        chosen = self.sample(output, batch)
        return chosen if forced is None else forced.to(chosen.dtype)
