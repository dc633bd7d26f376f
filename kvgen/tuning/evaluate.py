"""What becomes of a configuration: compiled, pruned, checked, timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kvgen.conversation import ChildError
from kvgen.kernels.knobs import GRID
from kvgen.kernels.registry import named
from kvgen.probing.compilers import Compiled, Compilers
from kvgen.probing.launches import Case
from kvgen.tuning.gpu import REGISTERS, Gpu
from kvgen.tuning.space import Config, program_of
from kvgen.tuning.trials import Outcome, Trials
from kvgen.tuning.workers import Halted, Job, Refused, Worker, unless_killed

# characters that are kept of what was said about a failure: the last ones
DETAIL = 500
# seconds between two looks at whether an answer is still wanted
POLL = 0.2
# rows and slots of what is compiled: a multiple of 16, as where it is timed; layers: none
ROWS, LAYERS = 16, 36


class RowsError(Exception):
    """What a study's configurations are timed on cannot be made."""


@dataclass
class Programs:
    """What is known of a spec's programs whatever the batch: what they use, and whether they are
    right. Programs are compiled side by side, for all studies, and these may run in threads."""

    job: Job
    gpu: Gpu
    compilers: Compilers
    stopped: Callable[[], bool] = lambda: False
    # (kernel, buffer, program) -> the error of its outputs, or what is wrong
    checked: dict[tuple[str, int, str], float | Outcome] = field(default_factory=dict)
    # kernels and buffers of which a program without spills has been seen
    roomy: set[tuple[str, int]] = field(default_factory=set)

    def case(self, kernel: str, config: Config, buffer: int) -> Case:
        of, form = named(kernel), self.job.analysis.form
        length, tokens = of.places(form, buffer), of.tokens(form)
        return Case(kernel, program_of(config), ROWS, ROWS, LAYERS, length, tokens)

    def begin(
        self, kernel: str, configs: Sequence[Config], buffer: int, later: bool = False
    ) -> None:
        """later: when nothing else is to be compiled."""
        for config in configs:
            self.compilers.begin(self.job.module, self.case(kernel, config, buffer), later)

    def ready(self, kernel: str, config: Config, buffer: int) -> bool:
        return self.compilers.ready(self.job.module, self.case(kernel, config, buffer))

    def compiled(self, kernel: str, config: Config, buffer: int) -> Compiled:
        """Raises Halted where nobody wants it any more, and ChildError."""
        case = self.case(kernel, config, buffer)
        found = self.compilers.wait(self.job.module, case, POLL)
        while found is None:
            if self.stopped():
                raise Halted
            found = self.compilers.wait(self.job.module, case, POLL)
        if found.error is None and not found.spills:
            self.roomy.add((kernel, buffer))
        return found

    def unfit(self, kernel: str, config: Config, buffer: int) -> Outcome | None:
        """Why it does not compile into something that the GPU should run, if it does not."""
        return self.pruned(kernel, config, buffer, self.compiled(kernel, config, buffer))

    def check(self, worker: Worker, kernel: str, config: Config, buffer: int) -> float | Outcome:
        """The error of its outputs, or why it is never chosen; asked once for each program, which
        is right or wrong at every batch. Raises WorkerError, and Refused where nothing is known."""
        found = self.compiled(kernel, config, buffer)
        known = (kernel, buffer, found.program)
        if known not in self.checked:
            what = {"kernel": kernel, "config": config, "buffer": buffer}
            try:
                answer = unless_killed(lambda: worker.ask(self.job, "check", **what))
                self.checked[known] = answer["output"]
            except (Refused, ChildError) as error:
                self.checked[known] = failed(config, found, error)
        return self.checked[known]

    def pruned(self, kernel: str, config: Config, buffer: int, found: Compiled) -> Outcome | None:
        """Why it is not worth a launch, if it is not."""
        if found.error is not None:
            return Outcome(config, "compile", detail=found.error[:500])
        usage = usage_of(found)
        if found.shared > self.gpu.shared:
            text = f"{found.shared} bytes of shared memory, {self.gpu.name} has {self.gpu.shared}"
            return Outcome(config, "shared", detail=text, program=found.program, usage=usage)
        if found.registers * found.threads > REGISTERS:
            text = f"{found.registers} registers of {found.threads} threads"
            return Outcome(config, "shared", detail=text, program=found.program, usage=usage)
        if found.spills >= named(kernel).spills and (kernel, buffer) in self.roomy:
            text = f"{found.spills} bytes spilled"
            return Outcome(config, "spills", detail=text, program=found.program, usage=usage)
        return None


@dataclass
class Evaluator:
    """One study's configurations, on one worker. A study is over where this raises, as RowsError
    where nothing can be timed."""

    programs: Programs
    worker: Worker
    kernel: str
    batch: int
    buffer: int
    trials: Trials
    outcomes: list[Outcome] = field(default_factory=list)

    def __call__(self, config: Config) -> Outcome | None:
        outcome = self._found(config)
        if outcome is not None:
            self.outcomes.append(outcome)
            self.trials.add(outcome)
        return outcome

    def prepare(self, configs: Sequence[Config]) -> None:
        self.programs.begin(self.kernel, configs, self.buffer)

    def ready(self, config: Config) -> bool:
        return self.programs.ready(self.kernel, config, self.buffer)

    def _found(self, config: Config) -> Outcome | None:
        found = self.programs.compiled(self.kernel, config, self.buffer)
        pruned = self.programs.pruned(self.kernel, config, self.buffer, found)
        if pruned is not None:
            return pruned
        about = {"program": found.program, "usage": usage_of(found)}
        twin = self._twin(config, found.program)
        if twin is not None:
            return Outcome(config, "twin", twin.us, twin.detail, twin.error, **about)
        try:
            error = self.programs.check(self.worker, self.kernel, config, self.buffer)
            if isinstance(error, Outcome):
                return replace(error, config=config)
            answer = unless_killed(lambda: self._timed(config))
        except (Refused, ChildError) as caught:
            if isinstance(caught, Refused) and caught.kind == "internal":
                # nothing is known of it; a worker that goes on like this is given up
                return None
            outcome = failed(config, found, caught)
        else:
            verdict = "slow" if answer["slow"] else "timed"
            return Outcome(config, verdict, tuple(answer["us"]), error=error, **about)
        # not to be tried at another batch
        self.programs.checked[self.kernel, self.buffer, found.program] = outcome
        return outcome

    def _timed(self, config: Config) -> dict[str, Any]:
        with self.worker.turn():
            # other studies may have needed the memory: what fails while the rows are made again is
            # not this configuration's fault
            self._hold()
            return self._ask("time", batch=self.batch, config=config, best=self._best())

    def _hold(self) -> None:
        """Have the rows made that all configurations are timed on. Raises RowsError."""
        try:
            try:
                self._ask("hold", batch=self.batch)
            except ChildError as error:
                if error.kind == "late":
                    raise
                # what ran before in that process may have broken it: not so in another one
                self._ask("hold", batch=self.batch)
        except (Refused, ChildError) as error:
            raise RowsError(str(error)[-DETAIL:]) from None

    def _twin(self, config: Config, program: str) -> Outcome | None:
        """A program that was timed already, launched on the same grid."""
        grid = [config.get(knob) for knob in GRID]
        for other in self.outcomes:
            same = other.program == program and other.measured
            if same and [other.config.get(knob) for knob in GRID] == grid:
                return other if other.us else None
        return None

    def _best(self) -> float | None:
        return min((o.us[1] for o in self.outcomes if o.us), default=None)

    def _ask(self, do: str, **what: Any) -> dict[str, Any]:
        given = {"kernel": self.kernel, "buffer": self.buffer, **what}
        return self.worker.ask(self.programs.job, do, **given)


def failed(config: Config, found: Compiled, error: Refused | ChildError) -> Outcome:
    """What an answer that is none says of a configuration. Raises the error again where it is not
    the configuration's."""
    if isinstance(error, ChildError):
        verdict = "hang" if error.kind == "late" else "crash"
    elif error.kind == "internal":
        raise error
    else:
        verdict = error.kind
    detail = str(error)[-DETAIL:]
    return Outcome(config, verdict, detail=detail, program=found.program, usage=usage_of(found))


def usage_of(found: Compiled) -> dict[str, int]:
    return {"registers": found.registers, "spills": found.spills, "shared": found.shared}
