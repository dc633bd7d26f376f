"""Streams of tokens whose keys are alike, as text that repeats itself makes them, with decays and
writes of a given strength."""

from __future__ import annotations

import math

import torch

from kvgen.algebra.form import Form
from kvgen.algebra.graph import reachable
from kvgen.algebra.solving import solve
from kvgen.checking import extremes
from kvgen.checking.cases import Repeating
from kvgen.checking.checker import EXACT
from kvgen.checking.samples import Sampler
from kvgen.checking.twin import Made, Tensors, Twin
from kvgen.checking.windows import Extend, Verify
from kvgen.compiler import analyse
from kvgen.shipped import resolve, shipped


def triangles() -> list[str]:
    """The shipped recurrences in which what a window writes is solved for by a triangle, and keys
    are those that came."""
    forms = {spec.name: analyse(resolve(spec.name)).form for spec in shipped()}
    windows = {n: form for n, form in forms.items() if form.windows and not form.remembered}
    return [n for n, form in windows.items() if solve(form).method == "triangle"]


def gates_at_rest(sampler: Sampler, tensors: Tensors) -> Tensors:
    """Parameters of gates at 0, so that one value of an input gives all heads the same decay."""
    kinds = sampler.kinds
    return {
        name: x * 0 if kinds.get(name) in ("log_uniform", "gate") else x
        for name, x in tensors.items()
    }


class Stream(Repeating):
    def __call__(self, sampler: Sampler, tensors: Tensors, token: int | None) -> Tensors:
        if token is None:
            return super().__call__(sampler, gates_at_rest(sampler, tensors), None)
        return super().__call__(sampler, tensors, token)


def held(form: Form, decay: float, device: str) -> list[extremes.Extreme]:
    """The inputs' values for decays close to this one and for the strongest writes."""
    sampler = Sampler(form.spec, device, seed=3)
    drawn = sampler.inputs(64, torch.float32)
    drawn |= gates_at_rest(sampler, sampler.params())
    found = []
    logs = [each.log for each in form.decays]
    names = [str(node.value) for node in reachable(logs) if node.op == "input"]
    wanted = math.log(decay)
    for driver in names[:1]:

        def off(value: float, driver: str = driver) -> float:
            given = {**drawn, driver: torch.full_like(drawn[driver], value)}
            values = extremes.evaluate(form, logs, given)
            return max((values[log] - wanted).abs().max().item() for log in logs)

        value = min((*range(-30, 31), *(x / 4 for x in range(-12, 13))), key=off)
        found.append(extremes.Extreme("decay", driver, True, float(value)))
        drawn[driver] = torch.full_like(drawn[driver], value)
    strongest = extremes.strongest(form, drawn)
    return found if strongest is None else [*found, strongest]


def most(made: Made, tokens: int, noise: float, decay: float) -> float:
    """How far off the state may be after tokens that are taken together, by what it is off after
    the same number one by one. Where nothing decays, the last bit of a key's norm adds up, which
    may happen to be right, and processors draw other last bits: there it is the mean of a few."""
    seeds = (11, 12, 13, 14) if noise == 0.0 and decay == 1.0 else (11,)
    found = [run(made, tokens, noise, decay, 1, seed=seed)["S"] for seed in seeds]
    alone = sum(found) / len(found)
    return min(10 * max(alone, 1e-6), max(EXACT, 5 * alone))


def run(
    made: Made,
    tokens: int,
    noise: float,
    decay: float,
    window: int,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 11,
) -> dict[str, float]:
    """The errors of outputs and of states after so many tokens: those of a prompt (window 0), of
    drafts that are all accepted, or one by one (window 1)."""
    change = Stream(noise, held(made.analysis.form, decay, device))
    options = {"buffer": 16, "layers": 1, "window": 16, "change": change, "seed": seed}
    twin = Twin(made, device, dtype=dtype, **options)
    twin.reset([3])
    if window == 0:
        twin.together(Extend(twin, [3], [tokens], tokens))
    elif window == 1:
        for _ in range(tokens):
            twin.step([3])
    else:
        for _ in range(tokens // window):
            twin.together(Verify(twin, [3], window, counts=[window]))
    twin.compare()
    return twin.found
