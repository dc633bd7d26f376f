"""What `kvgen check` puts a module through: each case runs a cache beside exact states.

Errors are ‖x − x*‖₂ / ‖x*‖₂ over a row's [HV, V] for outputs and over a row's state; a case reports
its worst row and token.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch

from kvgen.algebra.graph import reachable
from kvgen.checking import extremes
from kvgen.checking.checker import SAME, Checker, rounded_apart
from kvgen.checking.errors import worst
from kvgen.checking.samples import Sampler, packed, padded
from kvgen.checking.twin import Tensors, Twin
from kvgen.checking.windows import Extend, Server, Verify
from kvgen.kernels.decode import DECODE
from kvgen.kernels.recurrent import RECURRENT
from kvgen.kernels.short import SHORT

# cases ------------------------------------------------------------------------------------------


def decode(checker: Checker, case: str) -> None:
    """3 L + 1 tokens from fresh and from given states; rows come one after the other, so that they
    fold at different steps."""
    twin = checker.twin(checker.sizes(), seed=1)
    _decode(twin)
    checker.report(case, twin)


def _decode(twin: Twin) -> None:
    tokens = 3 * twin.cache.buffer + 1
    admitted = {5: 0, 2: 1, 6: 3}
    for token in range(tokens):
        for slot, first in admitted.items():
            if token == first:
                (twin.reset if slot == 5 else twin.admit)([slot])
        live = [slot if token >= admitted[slot] else -1 for slot in (5, 2, 6)]
        twin.step([live[0], -1, *live[1:]])
        if token % 4 == 2 or token == tokens - 1:
            twin.compare()


def rounded_inputs(checker: Checker, case: str) -> None:
    twin = checker.twin(checker.one_group(), seed=2, layers=1, dtype=torch.bfloat16)
    _decode(twin)
    checker.report(case, twin)


def slots(checker: Checker, case: str) -> None:
    """A row is folded by force, another copied with records in its buffer, a third recycled."""
    twin = checker.twin(checker.one_group(), seed=3)
    twin.admit([7, 0, 3])
    twin.step([7, 0, 3], force=[False, True, False])
    twin.step([0, 3, 7])
    twin.copy([7, 0], [4, 1])
    twin.step([4, 7, 3], force=[False, False, True])
    twin.flush()
    twin.compare()
    twin.step([4, 7, 1])
    twin.admit([7])
    twin.step([7, 4, -1])
    twin.flush([4])
    twin.compare()
    twin.step([7, 4, 3])
    twin.step([-1, 1, 0])
    twin.compare()
    checker.report(case, twin)


def replays(checker: Checker, case: str) -> None:
    """A step whose outputs are thrown away, and layers that run twice, leave no trace."""
    twin = checker.twin(checker.one_group(), seed=4, buffer=3)
    twin.admit([6, 1])
    for token in range(5):
        twin.step([6, 1, -1], dropped=token % 2 == 1, twice=[0] if token % 3 else [0, 1])
        twin.compare()
    checker.report(case, twin)


def recurrent(checker: Checker, case: str) -> None:
    """The plain kernel alone, and after decodes whose records are not folded."""
    twin = checker.twin(checker.one_group(), seed=5, layers=1)
    twin.admit([2, 5])
    plain, buffered = RECURRENT.name, DECODE.name
    kernels = (plain, plain, buffered, buffered, plain, buffered, buffered)
    with checker.parted(twin):
        for kernel in kernels:
            twin.step([5, -1, 2], kernel=kernel)
            twin.compare()
    checker.report(case, twin)


def one_place(checker: Checker, case: str) -> None:
    """With a buffer of one token, decode is the plain kernel in two launches."""
    buffered, plain = (
        checker.twin(checker.one_group(), seed=6, layers=1, buffer=1) for _ in range(2)
    )
    storage, found = checker.analysis.spec.storage, dict[str, float]()
    for twin in (buffered, plain):
        twin.admit([4, 1])
    for _ in range(6):
        pairs = zip(buffered.step([1, 4]), plain.step([1, 4], kernel="recurrent"), strict=True)
        error = max(worst(got, wanted) for got, wanted in pairs)
        # the plain kernel reads all of the state
        if not storage.state.partial:
            found["output"] = max(found.get("output", 0.0), error)
    for layer in range(buffered.layers):
        states = plain.read(layer, [1, 4])
        for name, got in buffered.read(layer, [1, 4]).items():
            found[name] = max(found.get(name, 0.0), worst(got, states[name]))
    same = max(SAME, storage.records.bound, rounded_apart(checker.analysis.spec))
    for quantity, error in found.items():
        # an output may be a small difference, which shows what is rounded at more than its size
        bound = max(same, 3 * buffered.rounding) if quantity == "output" else same
        checker.add(case, f"{quantity}, from recurrent's", error, bound)
    for twin in (buffered, plain):
        twin.compare()
    checker.report(case, buffered)


def odd_sizes(checker: Checker, case: str) -> None:
    channels = {"K": 40, "V": 24} if checker.quick else {"K": 96, "V": 192}
    _short(checker, case, checker.one_group(**channels), seed=7)


def equal_heads(checker: Checker, case: str) -> None:
    heads = 2 if checker.quick else min(checker.analysis.spec.size("HV"), 8)
    _short(checker, case, checker.sizes(H=heads, HV=heads), seed=8)


def grouped_heads(checker: Checker, case: str) -> None:
    heads = 1 if checker.quick else min(checker.analysis.spec.size("H"), 4)
    _short(checker, case, checker.sizes(H=heads, HV=3 * heads), seed=9)


def packed_inputs(checker: Checker, case: str) -> None:
    """Inputs and output in memory with other strides: slices of one tensor, padded last axes."""
    twin = checker.twin(checker.one_group(), seed=10, layers=1, buffer=2)
    twin.admit([3, 6])
    for token in range(5):
        twin.layout = padded if token % 2 else packed
        twin.step([6, -1, 3], kernel="recurrent" if token == 2 else "decode")
    twin.compare()
    checker.report(case, twin)


def _short(checker: Checker, case: str, sizes: dict[str, int], seed: int) -> None:
    twin = checker.twin(sizes, seed=seed, buffer=3, layers=1)
    twin.admit([6, 1])
    for token in range(twin.cache.buffer + 2):
        twin.step([1, 6, -1], kernel="recurrent" if token == 2 else "decode")
    twin.compare()
    checker.report(case, twin)


def zero_and_one(checker: Checker, case: str) -> None:
    """Decays of exactly 0 and exactly 1 between ordinary ones, element by element."""
    _extreme(checker, case, ("zero", "one"), seed=11)


def strong(checker: Checker, case: str) -> None:
    """Log decays that sum to less than -1000 within a buffer, then ordinary ones again."""
    _extreme(checker, case, ("strong",), seed=12)


def _extreme(checker: Checker, case: str, kinds: tuple[str, ...], seed: int) -> None:
    made = checker.made(checker.many_groups())
    if not made.analysis.form.decays:
        return
    drawing = Sampler(made.analysis.spec, checker.device, seed)
    # many rows stand for all values an input may take
    sample = {**drawing.inputs(64, torch.float32), **drawing.params()}
    found = [extremes.find(made.analysis.form, sample, kind) for kind in kinds]
    for kind, each in zip(kinds, found, strict=True):
        said = "not reached by any one input or parameter: left out"
        if each is not None:
            said = f"{each.driver} = {each.value:g}"
        checker.notes[f"{kind} decay"] = said
    reached = [each for each in found if each is not None]
    if not reached:
        return

    def change(sampler: Sampler, tensors: Tensors, token: int | None) -> Tensors:
        changed = dict(tensors)
        for place, each in enumerate(reached):
            if each.driver in changed and each.is_input == (token is not None):
                drawn = changed[each.driver]
                chance = sampler.uniform(drawn)
                # a third of the elements each, or half of them
                chosen = (chance * 3 >= place) & (chance * 3 < place + 1)
                if each.kind == "strong":
                    chosen = chance < 0.5
                changed[each.driver] = drawn.masked_fill(chosen, each.value)
        return changed

    twin = checker.twin(checker.many_groups(), seed=seed, buffer=8, layers=1, change=change)
    twin.admit([5])
    for token in range(twin.cache.buffer + 3):
        twin.step([-1, 5])
        if token % 3 == 0:
            twin.compare()
    twin.compare()
    checker.report(case, twin, least=_carried_rounding(twin))


def _carried_rounding(twin: Twin) -> float:
    """What an exponent that is carried, such as a running log-sum-exp, is off by in its last bits
    is the relative error of what it is the exponent of."""
    nodes = reachable([decay.log for decay in twin.form.decays])
    carried = [twin.states[0][str(node.value)] for node in nodes if node.op == "carried"]
    sizes = [x[x.isfinite()].abs().max().item() for x in carried if x.isfinite().any()]
    return max(sizes, default=0.0) * 2.0**-22


def one_key(checker: Checker, case: str) -> None:
    """Text that repeats itself: every token has the same key, nothing decays, and every write
    erases as much as it can."""
    _repeating(checker, case, noise=0.0, decays=False)


def alike_keys(checker: Checker, case: str) -> None:
    """Keys that are nearly the same, with decays as they are drawn."""
    _repeating(checker, case, noise=0.1, decays=True)


def _repeating(checker: Checker, case: str, noise: float, decays: bool) -> None:
    if not _windows(checker):
        return
    form = checker.made(checker.one_group()).analysis.form
    drawing = Sampler(form.spec, checker.device, seed=16)
    sample = {**drawing.inputs(64, torch.float32), **drawing.params()}
    held = [] if decays else [extremes.find(form, sample, "one")]
    for still in held:
        if still is not None:
            sample[still.driver] = torch.full_like(sample[still.driver], still.value)
    strongest = extremes.strongest(form, sample)
    if form.writes_read:
        checker.notes["strong write"] = "not reached by any one input: left out"
        if strongest is not None:
            checker.notes["strong write"] = f"{strongest.driver} = {strongest.value:g}"
    change = Repeating(noise, [each for each in (*held, strongest) if each is not None])
    sizes, longest = checker.one_group(), 48 if checker.quick else 200
    twin = checker.twin(sizes, seed=17, buffer=16, layers=1, window=16, change=change)
    twin.reset([5])
    twin.together(Extend(twin, [5], [longest], longest))
    twin.compare()
    for tokens in (16, 8):
        twin.together(Verify(twin, [5], tokens, counts=[tokens]))
    twin.step([5])
    twin.compare()
    checker.report(case, twin, least=_carried_rounding(twin))


class Repeating:
    """A change to inputs: those over K are the same for all tokens, but for some noise; others
    take the values that are given."""

    def __init__(self, noise: float, held: Sequence[extremes.Extreme]) -> None:
        self.noise, self.held = noise, held
        self.first: Tensors = {}

    def __call__(self, sampler: Sampler, tensors: Tensors, token: int | None) -> Tensors:
        changed = dict(tensors)
        for each in self.held:
            if each.is_input == (token is not None):
                changed[each.driver] = torch.full_like(tensors[each.driver], each.value)
        keys = [t.name for t in sampler.spec.inputs if "K" in t.axes] if token is not None else []
        for name in keys:
            if changed[name] is tensors[name]:
                first = self.first.setdefault(name, tensors[name][:1].clone())
                changed[name] = first + self.noise * tensors[name]
        return changed


def chains(checker: Checker, case: str) -> None:
    """Drafts one after the other: some rows accept none, some all, some fold."""
    _drafts(checker, case, ("chain", "chain", "decode"), (1, 4, 13), seed=13)


def trees(checker: Checker, case: str) -> None:
    """Drafts that branch, of which one path is accepted, and single tokens between them."""
    _drafts(checker, case, ("tree", "tree", "decode"), (7, 16), seed=14)


def _drafts(
    checker: Checker, case: str, kinds: tuple[str, ...], windows: tuple[int, ...], seed: int
) -> None:
    """windows: on a GPU, which compiles a kernel for each."""
    if not _windows(checker):
        return
    if checker.quick:
        windows = tuple(range(1, 7))
    twin = checker.twin(checker.one_group(), seed=seed, buffer=15, window=max(windows))
    server = Server(twin, random.Random(seed), kinds, windows)
    steps = 12 if checker.quick else 40
    twin.admit([5, 2])
    for step in range(steps):
        if step == 2:
            twin.reset([6])
        server.step([5, 2] if step < 2 else [5, 2, 6])
        if step == steps // 2:
            twin.copy([5], [1])
            twin.flush([5, 2])
        if step % 4 == 3:
            twin.compare()
    twin.step([1, 5, -1, 6])
    twin.compare()
    checker.report(case, twin)


def prompts(checker: Checker, case: str) -> None:
    """Prompts on fresh rows and on rows with records, of no token, of one and of odd numbers."""
    if not _windows(checker):
        return
    long = 19 if checker.quick else 147
    twin = checker.twin(checker.one_group(), seed=15, buffer=9, window=3)
    twin.admit([7, 1])
    twin.reset([0, 4])
    twin.step([7, 1])
    twin.together(Extend(twin, [0, 7, -1, 1, 4], [long, 0, 3, 1, 5], long + 1))
    twin.compare()
    for slots in ([0, 7, 1, 4], [4, 1, -1, 0]):
        twin.step(slots)
    twin.compare()
    # of these drafts some are passed over
    trees, paths = [[-1, -1, 1], [-1, 0, 0]], [[1, 2], [0, 2]]
    twin.together(Verify(twin, [4, 0], 3, parents=trees, paths=paths))
    twin.together(Extend(twin, [4, 0, 1], [2, 7, 0], 7, force=[False, False, True]))
    twin.compare()
    server = Server(twin, random.Random(15), ("prompt", "tree", "decode"), (3,), longest=6)
    for _ in range(4):
        server.step([7, 0, 1, 4])
    twin.flush([7])
    twin.compare()
    checker.report(case, twin)


def short_contexts(checker: Checker, case: str) -> None:
    """Rows without a state, whose records lie in pages: prompts, drafts and single tokens before
    they are long enough for one, across that line and beyond it."""
    form = checker.made(checker.one_group()).analysis.form
    if not _windows(checker):
        return
    if not SHORT.exists(form):
        checker.notes["short contexts"] = "the module has none: left out"
        return
    window, context = (2, 12) if checker.quick else (4, 40)
    sizes = checker.one_group()
    twin = checker.twin(sizes, seed=16, buffer=6, layers=1, window=window, context=context)
    with checker.parted(twin):
        twin.reset([5, 2])
        # as many tokens as a row has places for carried states, and more
        twin.together(Extend(twin, [5, -1, 2], [window + 1, 0, window + 2], window + 3))
        twin.compare()
        server = Server(twin, random.Random(16), ("decode", "chain", "tree"), (1, window))
        server.step([5, 2])
        server.step([5, 2])
        twin.copy([2], [7])
        twin.together(Extend(twin, [7, 5], [context - window, window + 1]))
        twin.compare()
        server.step([2, 7, 5])
        twin.flush([7])
        twin.compare()
    checker.report(case, twin)


def _windows(checker: Checker) -> bool:
    """Whether the module takes several tokens at once."""
    found = hasattr(checker.made(checker.one_group()).module, "verify")
    if not found:
        checker.notes["drafts and prompts"] = "the module has no `verify` and no `extend`: left out"
    return found


CASES: dict[str, Callable[[Checker, str], None]] = {
    "decode, rows out of phase": decode,
    "bfloat16 inputs": rounded_inputs,
    "flush, copy, recycled slots": slots,
    "dropped steps, repeated layers": replays,
    "recurrent, after decodes": recurrent,
    "buffer of 1": one_place,
    "odd sizes": odd_sizes,
    "H = HV": equal_heads,
    "HV = 3 H": grouped_heads,
    "packed and padded inputs": packed_inputs,
    "decay of 0 and 1": zero_and_one,
    "strong decay": strong,
    "one key again and again": one_key,
    "keys that are alike": alike_keys,
    "drafts, chains": chains,
    "drafts, trees": trees,
    "prompts": prompts,
    "short contexts": short_contexts,
}
