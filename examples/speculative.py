"""A serving loop with prompts in chunks, drafts that are verified, and slots that are recycled.

The model is a toy: two layers of Gated DeltaNet between an embedding and a head, all random. Its
drafter is a table of what has followed each token so far, so it is wrong at first and often later.
Requests come and go, each in a slot of one cache, and a step of the loop is one pass of the model:

- rows in their prompt take a chunk of it with `extend`;
- the others verify drafts with `verify`: a chain of guesses, or a tree of them;
- one `accept` ends the step for all rows, and keeps of every row what greedy sampling would have
  said.

Every request must get the tokens that plain decoding gives it, one by one with `decode` and
`advance`. Without a GPU the kernels run in Triton's interpreter.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import ModuleType
from typing import Any

import torch

if not torch.cuda.is_available():
    # triton reads this when it is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

from rich.console import Console
from rich.table import Table
from torch.nn.functional import rms_norm

import kvgen
from kvgen.shipped import resolve

WORDS = 24
LAYERS = 2
SLOTS = 3
CHUNK = 4
# which node each one follows: 0 is the last sampled token, the others are drafts
SHAPES = {
    "chain": (-1, 0, 1, 2),
    "tree": (-1, 0, 0, 1, 1, 2, 3, 5),
}
SIZES = {"H": 1, "HV": 1, "K": 16, "V": 16}

# one layer's kernel: layer, then its inputs and parameters by name
Kernel = Callable[..., torch.Tensor]


class Model:
    """Random weights; every projection is [hidden, …]."""

    def __init__(self, device: str, hidden: int = 32) -> None:
        generator = torch.Generator().manual_seed(3)

        def draw(*shape: int, scale: float = 1.0) -> torch.Tensor:
            return (torch.randn(*shape, generator=generator) * scale).to(device)

        heads, keys, values = SIZES["HV"], SIZES["K"], SIZES["V"]
        shapes = {
            "q": (SIZES["H"], keys),
            "k": (SIZES["H"], keys),
            "v": (heads, values),
            "a": (heads,),
            "b": (heads,),
        }
        self.embedding = draw(WORDS, hidden)
        self.head = draw(hidden, WORDS)
        self.inputs = [
            {name: draw(hidden, *shape, scale=hidden**-0.5) for name, shape in shapes.items()}
            for _ in range(LAYERS)
        ]
        self.params = [
            {"A_log": draw(heads, scale=0.1) - 2, "dt_bias": draw(heads)} for _ in range(LAYERS)
        ]
        self.outputs = [draw(heads * values, hidden) for _ in range(LAYERS)]

    def __call__(self, tokens: torch.Tensor, kernel: Kernel) -> torch.Tensor:
        """The logits after every token; tokens: [B] or [B, T]."""
        x = self.embedding[tokens]
        for layer in range(LAYERS):
            normed = rms_norm(x, x.shape[-1:])
            inputs = {
                name: torch.tensordot(normed, weight, 1)
                for name, weight in self.inputs[layer].items()
            }
            o = kernel(layer, **inputs, **self.params[layer])
            x = x + rms_norm(o.flatten(-2), [o.shape[-2] * o.shape[-1]]) @ self.outputs[layer]
        return rms_norm(x, x.shape[-1:]) @ self.head


class Drafter:
    """Guesses that a token is followed by what has followed it most often so far."""

    def __init__(self) -> None:
        self.followers: dict[int, Counter[int]] = defaultdict(Counter)

    def learn(self, text: Sequence[int]) -> None:
        for token, follower in pairwise(text):
            self.followers[token][follower] += 1

    def drafts(self, last: int, parents: Sequence[int]) -> list[int]:
        """A token for every node; children of one node are different tokens."""
        tokens = [last]
        for node, parent in enumerate(parents[1:], 1):
            before = tokens[parent]
            guesses = [token for token, _ in self.followers[before].most_common(4)]
            guesses += [(before + step) % WORDS for step in range(1, 8)]
            siblings = {tokens[each] for each in range(1, node) if parents[each] == parent}
            tokens.append(next(guess for guess in guesses if guess not in siblings))
        return tokens


def greedy_path(tokens: torch.Tensor, parents: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
    """The nodes that are what the model itself says, [B, T] int32, -1 after the last of them.

    tokens: [B, T]. parents: [B, T]. said: [B, T], what the model samples after each node. Nothing
    here waits for the device, so that it could be part of a CUDA graph.
    """
    node = torch.zeros_like(tokens[:, :1])
    alive = torch.ones_like(node, dtype=torch.bool)
    nodes = [node]
    for _ in range(1, tokens.shape[1]):
        right = (parents == node) & (tokens == said.gather(1, node)) & alive
        alive = right.any(1, keepdim=True)
        node = torch.where(alive, right.int().argmax(1, keepdim=True), node)
        nodes.append(torch.where(alive, node, -1))
    return torch.cat(nodes, 1).int()


@dataclass
class Request:
    """A prompt [≥ 1 token], and the tokens that are generated after it."""

    prompt: list[int]
    wanted: int
    slot: int = -1
    # tokens of the prompt that the cache has seen
    seen: int = 0
    tokens: list[int] = field(default_factory=list)

    @property
    def done(self) -> bool:
        return len(self.tokens) >= self.wanted


@dataclass
class Ended:
    """What `accept` is told of some rows: how many tokens they keep [B], or which nodes [B, T]."""

    slots: torch.Tensor
    counts: torch.Tensor
    path: torch.Tensor


@dataclass
class Served:
    """What came out of a run. kept: how often a row kept so many tokens of a `verify`."""

    texts: list[list[int]]
    steps: int = 0
    kept: Counter[int] = field(default_factory=Counter)

    @property
    def mean(self) -> float:
        """Tokens that a row gets from one `verify`."""
        return sum(count * rows for count, rows in self.kept.items()) / self.kept.total()


def plain(
    gdn: ModuleType, model: Model, requests: Sequence[Request], device: str
) -> list[list[int]]:
    """Every request token by token, prompts too, all of them side by side."""
    cache = gdn.Cache.empty(len(requests), LAYERS, device=device, dtype=torch.float32, buffer=8)
    texts = [list(request.prompt) for request in requests]
    lengths = [len(request.prompt) + request.wanted for request in requests]
    steps = 0
    while steps + 1 < max(lengths):
        # padding rows: those that have all their tokens
        rows = [i if steps + 1 < length else -1 for i, length in enumerate(lengths)]
        slots = torch.tensor(rows, dtype=torch.int32, device=device)
        fed = torch.tensor([text[min(steps, len(text) - 1)] for text in texts], device=device)
        logits = model(fed, kernel(gdn.decode, cache, slots))
        gdn.advance(cache, slots)
        steps += 1
        for text, row, word in zip(texts, rows, logits.argmax(-1).tolist(), strict=True):
            if row >= 0 and steps == len(text):
                text.append(word)
    return [text[len(r.prompt) :] for text, r in zip(texts, requests, strict=True)]


class Server:
    """Serves requests with drafts of one shape, in fewer slots than there are requests."""

    def __init__(self, gdn: ModuleType, model: Model, shape: Sequence[int], device: str) -> None:
        self.gdn, self.model, self.shape, self.device = gdn, model, shape, device
        self.chain = all(parent == node - 1 for node, parent in enumerate(shape))
        self.drafter = Drafter()
        self.cache = gdn.Cache.empty(
            SLOTS, LAYERS, device=device, dtype=torch.float32, buffer=12, window=len(shape)
        )

    def serve(self, requests: Sequence[Request]) -> Served:
        waiting, running = deque(requests), []
        free = list(range(SLOTS))
        served = Served([])
        while waiting or running:
            fresh = []
            while waiting and free:
                request = waiting.popleft()
                request.slot = free.pop()
                fresh.append(request)
            # a recycled slot forgets whom it served
            self.cache.reset(self.ints(request.slot for request in fresh))
            running += fresh
            self.step(running, served)
            free += [request.slot for request in running if request.done]
            running = [request for request in running if not request.done]
        served.texts = [request.tokens[: request.wanted] for request in requests]
        return served

    def step(self, running: Sequence[Request], served: Served) -> None:
        """One pass of the model: rows of two kinds, in slots of their own, and one `accept`."""
        prompts = [request for request in running if request.seen < len(request.prompt)]
        others = [request for request in running if request.seen == len(request.prompt)]
        ended = [self.extend(prompts)] if prompts else []
        ended += [self.verify(others, served)] if others else []
        slots = torch.cat([each.slots for each in ended])
        if self.chain:
            counts = torch.cat([each.counts for each in ended])
            self.gdn.accept(self.cache, slots, counts=counts)
        else:
            path = torch.cat([each.path for each in ended])
            self.gdn.accept(self.cache, slots, path=path)
        served.steps += 1

    def extend(self, requests: Sequence[Request]) -> Ended:
        """The next chunk of every prompt; at its end the first token of the answer."""
        chunks = [request.prompt[request.seen :][:CHUNK] for request in requests]
        longest = max(map(len, chunks))
        tokens = self.ints([*chunk, *[0] * (longest - len(chunk))] for chunk in chunks)
        slots, lengths = self.ints(r.slot for r in requests), self.ints(map(len, chunks))
        logits = self.model(tokens, kernel(self.gdn.extend, self.cache, slots, lengths=lengths))
        for request, chunk, said in zip(requests, chunks, logits.argmax(-1).tolist(), strict=True):
            request.seen += len(chunk)
            if request.seen == len(request.prompt):
                request.tokens.append(said[len(chunk) - 1])
                self.drafter.learn([*request.prompt, *request.tokens])
        # a chunk is kept whole: a path beside those of trees need only not be empty
        path = self.ints([[0, *[-1] * (len(self.shape) - 1)]] * len(requests))
        return Ended(slots, lengths, path)

    def verify(self, requests: Sequence[Request], served: Served) -> Ended:
        """The last token of every row and drafts of what follows it."""
        drafts = [self.drafter.drafts(request.tokens[-1], self.shape) for request in requests]
        tokens, slots = self.ints(drafts).long(), self.ints(r.slot for r in requests)
        parents = self.ints([self.shape] * len(requests))
        given = {} if self.chain else {"parents": parents}
        logits = self.model(tokens, kernel(self.gdn.verify, self.cache, slots, **given))
        said = logits.argmax(-1)
        path = greedy_path(tokens, parents, said)
        for request, nodes, words in zip(requests, path.tolist(), said.tolist(), strict=True):
            # what the model says after each node it has confirmed: the drafts, and one more
            found = [words[node] for node in nodes if node >= 0]
            self.drafter.learn([request.tokens[-1], *found])
            request.tokens += found
            served.kept[len(found)] += 1
        return Ended(slots, (path >= 0).sum(1).int(), path)

    def ints(self, values: Any) -> torch.Tensor:
        return torch.tensor(list(values), dtype=torch.int32, device=self.device)


def kernel(function: Callable[..., Any], cache: Any, slots: torch.Tensor, **given: Any) -> Kernel:
    """A module's function as one layer of the model calls it."""
    return lambda layer, **inputs: function(cache, layer, slots, **inputs, **given)


def drawn(count: int, wanted: int) -> list[Request]:
    """Requests with prompts of 1 to 11 tokens."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 12, (count,), generator=generator).tolist()
    prompts = [torch.randint(WORDS, (n,), generator=generator).tolist() for n in lengths]
    return [Request(prompt, wanted) for prompt in prompts]


def compiled() -> ModuleType:
    sizes: dict[str, Any] = {f"sizes.{axis}": size for axis, size in SIZES.items()}
    return kvgen.compile(resolve("gated_deltanet"), None, **sizes)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=16, help="to generate for each")
    options = parser.parse_args(arguments)
    console = Console()
    device = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
    gdn, model = compiled(), Model(device)

    def requests() -> list[Request]:
        return drawn(options.requests, options.tokens)

    console.print(f"{options.requests} requests, {options.tokens} tokens for each, on {device} ...")
    wanted = plain(gdn, model, requests(), device)
    heads = ("drafts", "tokens a verify", "kept", "1", "2", "3", "more", "beside plain decoding")
    table = Table(*heads, box=None)
    good = True
    for name, shape in SHAPES.items():
        served = Server(gdn, model, shape, device).serve(requests())
        same = served.texts == wanted
        good = good and same
        more = sum(rows for count, rows in served.kept.items() if count > 3)
        times = [*(served.kept[count] for count in (1, 2, 3)), more]
        said = "the same tokens" if same else "[red]other tokens[/]"
        table.add_row(name, str(len(shape)), f"{served.mean:.2f}", *map(str, times), said)
    console.print(table)
    if good:
        console.print("[bold green]OK[/]: drafts change no token")
    else:
        console.print("[bold red]FAILED[/]: drafts change what is generated")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
