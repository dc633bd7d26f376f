"""Which peers there are for a spec, whether they run here, and how far off their outputs are."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

import torch

from kvgen import compiler, shipped
from kvgen.benching.peers.peer import Peer, Problem, Started
from kvgen.benching.report import Absent, Against
from kvgen.compiler import Analysis
from kvgen.diagnostics import SpecError
from kvgen.explaining.explain import form_text
from kvgen.timing import clock, steps
from kvgen.timing.errors import Exact

# beyond any rounding to 16 bits: another recurrence
DIFFERENT = 0.1


@dataclass(frozen=True)
class Entrant:
    """A peer that runs on this spec here; error: of its outputs, against float64."""

    peer: Peer
    error: float


@dataclass(frozen=True)
class Lineup:
    entrants: tuple[Entrant, ...]
    absent: tuple[Absent, ...]

    @property
    def against(self) -> tuple[Against, ...]:
        return tuple(
            Against(peer.library, peer.kernel, installed(peer.library), peer.note)
            for peer in (entrant.peer for entrant in self.entrants)
        )


def adapter(library: str) -> ModuleType:
    return importlib.import_module(f"kvgen.benching.peers.{library}")


def installed(library: str) -> str:
    """The version of the library's package."""
    try:
        return version(adapter(library).PACKAGE)
    except PackageNotFoundError:
        return "of no known version"


def family_of(analysis: Analysis, names: Sequence[str]) -> str:
    """The one of these shipped specs that has the same recurrence, by the same names; or nothing.
    Titles, comments and sizes may differ."""
    spec = analysis.spec
    overrides = {f"sizes.{name}": str(size) for name, size in spec.sizes}
    overrides |= {f"storage.{key}": value for key, value in spec.storage.said.items()}
    text = form_text(analysis)
    for name in sorted(names, key=lambda name: name != spec.name):
        try:
            known = compiler.analyse(shipped.resolve(name), overrides)
        except SpecError:
            continue
        same = (known.spec.inputs, known.spec.params) == (spec.inputs, spec.params)
        if same and form_text(known) == text:
            return name
    return ""


def state_of(analysis: Analysis) -> str:
    """The dtype of the states of the peers that are compared: one that keeps as much."""
    return analysis.spec.storage.state.alike.name


def lineup(
    analysis: Analysis, exact: Exact, against: Sequence[str], say: Callable[[str], None]
) -> Lineup:
    """Every peer of these libraries that computes this recurrence, run once and compared."""
    entrants: list[Entrant] = []
    absent: list[Absent] = []
    known = {library: adapter(library).PEERS for library in against}
    families = dict.fromkeys(peer.family for peers in known.values() for peer in peers)
    family = family_of(analysis, list(families))
    state = state_of(analysis)
    for library, peers in known.items():
        chosen = [peer for peer in peers if peer.family == family]
        if not chosen:
            absent.append(Absent(library, "no decode kernel of this recurrence is known here"))
        for peer in chosen:
            say(peer.name)
            found = tried(peer, analysis, exact, state)
            if isinstance(found, Entrant):
                entrants.append(found)
            elif found.peer == library:
                # of a library that is not there one line is enough
                absent.append(found)
                break
            else:
                absent.append(found)
    return Lineup(tuple(entrants), tuple(absent))


def tried(peer: Peer, analysis: Analysis, exact: Exact, state: str) -> Entrant | Absent:
    """The peer's error over the tokens of `exact`, or why there is none."""
    sizes = dict(analysis.spec.sizes)
    if state not in peer.states:
        return Absent(peer.name, f"keeps no {state} state")
    if reason := peer.unfit(sizes):
        return Absent(peer.name, reason)
    rows = exact.outputs[0].shape[0]
    slots = torch.arange(rows, device=steps.DEVICE, dtype=torch.int32).flip(0)
    count = len(exact.inputs)
    problem = Problem(sizes, state, slots, exact.inputs, [exact.params] * count, chained=True)
    try:
        one = peer.start(problem)
        error = exact.worst(lambda token: stepped(one, token))
        with clock.captured(lambda: stepped(one, 0)):
            pass
    except ImportError as found:
        return Absent(peer.library, f"cannot be imported: {first_line(found)}")
    except Exception as found:
        return Absent(peer.name, f"{type(found).__name__}: {first_line(found)}")
    if not error <= DIFFERENT:
        return Absent(peer.name, f"computes something else here: error {error:.2g}")
    return Entrant(peer, error)


def stepped(started: Started, layer: int) -> torch.Tensor:
    """A whole step of one layer; the output [B, HV, V]."""
    o = started.call(layer)
    started.end()
    return o.squeeze(1) if o.dim() == 4 else o


def first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:160]
