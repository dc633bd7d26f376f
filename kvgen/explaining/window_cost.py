"""Operations of several tokens that share a pass, beside those of the plain recurrence.

They follow what `schedules/windows/` lays out: T tokens' columns through the state, the products of
every token's columns with every token's writes, how the writes are found, and a prompt's update of
the state. Drafts are those of a tree: where a decay by channel never grows, a chain's take less,
as a prompt's do. A multiply-add is two, an exponential one; gates, norms and what has no channels
are left out. Of a tile of values the key side is computed once more for each of a head's tiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kvgen.algebra.form import Form
from kvgen.algebra.graph import reachable
from kvgen.algebra.records import Records
from kvgen.algebra.solving import Solve, solve
from kvgen.codegen.cost import buffer_length, operations
from kvgen.kernels.extend import EXTEND
from kvgen.kernels.kernel import Kernel
from kvgen.kernels.load import load_of
from kvgen.kernels.verify import VERIFY

# times the plain recurrence's operations from which on a window is worth a warning: 1024 tokens of
# kimi_delta_attention, at 3.8, take fourteen times as long on an H200 as those of gated_deltanet,
# at 1.2, and those of mlstm, at 2.5, three times as long
STEEP = 2.5
# tokens of a block whose decays by channel are taken from its middle
BLOCK = 8
# rows whose rule of thumb for a verify is looked at
BATCH = 64


@dataclass(frozen=True)
class Work:
    """Operations of one token, in one layer and one row, where so many are taken together.

    passes: its columns through the state, and against the buffer. pairs: with the writes of the
    tokens beside it. solving: what writes that depend on reads take, turn after turn or by a
    triangle. carried: what carried states of channels take. update: of the state, its share. plain:
    the plain recurrence's. programs: for the values of a head.
    """

    tokens: int
    passes: float
    pairs: float
    solving: float
    carried: float
    update: float
    plain: int
    programs: int

    @property
    def total(self) -> float:
        return self.passes + self.pairs + self.solving + self.carried + self.update

    @property
    def ratio(self) -> float:
        """How many times the plain recurrence's."""
        return self.total / max(self.plain, 1)

    @property
    def steep(self) -> bool:
        return self.ratio >= STEEP


def extend_work(form: Form, records: Records) -> Work:
    """A token of a prompt, in a whole block of those that rules of thumb take at a time."""
    chosen = _chosen(form, records, EXTEND)
    return _Count(form, records, chosen, chosen["TOKENS"], prompt=True).work()


def verify_work(form: Form, records: Records, tokens: int) -> Work:
    """A draft among so many that a verify takes together, a tree's or a chain's that is not written
    out token by token; over all places of the buffer."""
    chosen = _chosen(form, records, VERIFY)
    return _Count(form, records, chosen, tokens, prompt=False).work()


def _chosen(form: Form, records: Records, kernel: Kernel) -> Mapping[str, int]:
    table = kernel.untuned(load_of(form, records))
    return table.get(BATCH) or next(iter(table.values()))


class _Count:
    """Operations of one head and one block of T tokens, part by part."""

    def __init__(
        self, form: Form, records: Records, chosen: Mapping[str, int], tokens: int, prompt: bool
    ) -> None:
        self.form, self.records, self.prompt = form, records, prompt
        self.tokens = tokens
        self.sizes = dict(form.spec.sizes)
        self.solved: Solve = solve(form)
        self.decayed = {decay.channel for decay in form.summed_decays}
        self.scaled = {decay.channel for decay in form.scaled_decays} if prompt else set[str]()
        # products of a prompt's tokens with such a decay: within blocks, and between two
        self.products = 2.0 if tokens > BLOCK else 1.0
        tile = min(chosen["TILE"], form.spec.size("V"))
        # a verify goes over several tiles in one program
        each = tile * (1 if prompt else chosen["TILES"])
        self.programs = -(-form.spec.size("V") // each)
        self.buffer = 0 if prompt or form.emptied else buffer_length(form, records)

    def work(self) -> Work:
        heads, tokens = self.sizes["HV"], self.tokens
        scale = heads / tokens
        pairs, solving = self._pairs()
        return Work(
            tokens,
            passes=scale * self._passes(),
            pairs=scale * pairs,
            solving=scale * solving,
            carried=scale * self._carried(),
            update=scale * self._update() if self.prompt else 0.0,
            plain=operations(self.form, self.records, 1).recurrent,
            programs=self.programs,
        )

    def _channels(self, channel: str) -> int:
        """Elements of a vector that all programs of a head compute."""
        return self.sizes["V"] if channel == "V" else self.sizes["K"] * self.programs

    def _passes(self) -> float:
        form, tokens = self.form, self.tokens
        matrix = self.sizes["K"] * self.sizes["V"]
        total = 2.0 * tokens * len(form.columns) * matrix
        for read in form.reads:
            both = self._channels(read.args[0].axes.channels) + self._channels(read.axes.channels)
            total += 2.0 * tokens * self.buffer * len(form.writes) * both
        return total

    def _pair(self, channel: str) -> float:
        """Products of all tokens with all, over a channel's elements: where these decay, both sides
        are scaled, or each pair has a sum of logs and an exponential for every one of them."""
        tokens, width = self.tokens, self._channels(channel)
        if channel in self.scaled:
            return self.products * (2.0 * tokens**2 + 2.0 * tokens) * width
        if channel not in self.decayed:
            return 2.0 * tokens**2 * width
        return 2.0 * tokens**3 * width + 5.0 * tokens**2 * width

    def _pairs(self) -> tuple[float, float]:
        """What pairs of tokens take once, and what solving for writes takes."""
        form, late = self.form, self.form.late
        once = solving = 0.0
        reads = form.reads
        needed = [*self.solved.unknown, *(carry.after for carry in self.solved.carries)]
        feeding = set(reachable(needed)) if needed else set()
        # what is left to be read where the writes are known
        known = set(self.solved.unknown)
        left = {node for node in reachable(form.roots, known) if node.op == "read"}
        turns = self.tokens if self.solved.method == "substitution" else 1
        for read in reads:
            near, far = read.args[0].axes.channels, read.axes.channels
            times = (turns if read in feeding else 0, 1 if read in left else 0)
            for key, write in zip(form.keys, form.writes, strict=True):
                side = key if near == "K" else write.d
                if side in late:
                    # of a side that is being solved for, scores are computed at every turn
                    solving += times[0] * self._pair(near)
                    once += times[1] * self._pair(near)
                else:
                    once += self._pair(near)
                solving += times[0] * self._pair(far)
                once += times[1] * self._pair(far)
        if self.solved.method == "triangle":
            squares = max(0, (self.tokens - 1).bit_length() - 1)
            solving += self.programs * 4.0 * squares * self.tokens**3
            solving += 2.0 * self.tokens**2 * self.sizes["V"]
        # sums of logs along the tokens: what scales either side within blocks and between them
        times = {c: 4.0 if c in self.scaled else 1.0 for c in self.decayed if c}
        once += sum(2.0 * n * self.tokens**2 * self._channels(c) for c, n in times.items())
        return once, solving

    def _carried(self) -> float:
        """Carried states of channels, from parent to child, a turn for every token."""
        turns = {carry: self.tokens for carry in self.solved.carries}
        return sum(
            float(turns.get(carry, self.tokens - 1))
            * self.tokens**2
            * self._channels(carry.axes.channels)
            for carry in self.form.carries
            if carry.axes.channels
        )

    def _update(self) -> float:
        form, tokens = self.form, self.tokens
        matrix = self.sizes["K"] * self.sizes["V"]
        total = len(form.decays) * matrix + 2.0 * tokens * len(form.writes) * matrix
        by_pairs = (d.channel for d in form.decays if d.channel and d.channel not in self.scaled)
        later = sum(map(self._channels, by_pairs))
        return total + 2.0 * tokens**2 * later
