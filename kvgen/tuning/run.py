"""One spec on one kind of GPU: studies, whole steps, and what is compiled ahead of them."""

from __future__ import annotations

import datetime
import hashlib
import math
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any

from kvgen.codegen.cost import buffer_length
from kvgen.conversation import ChildError
from kvgen.kernels.buffer import BUFFER
from kvgen.kernels.decode import DECODE
from kvgen.kernels.fold import FOLD
from kvgen.kernels.registry import named
from kvgen.tuning import space
from kvgen.tuning.choices import REFUSED, Report, conclude
from kvgen.tuning.evaluate import Evaluator, Programs, RowsError
from kvgen.tuning.floors import alone_us
from kvgen.tuning.gpu import Gpu
from kvgen.tuning.ordering import covering, ordered
from kvgen.tuning.plan import SINGLE, Goal, Options, key, others
from kvgen.tuning.progress import Progress
from kvgen.tuning.report import summary
from kvgen.tuning.space import Config
from kvgen.tuning.study import WINDOW, Study
from kvgen.tuning.trials import Outcome, Trials
from kvgen.tuning.whole import Whole
from kvgen.tuning.workers import Halted, Job, Refused, Worker, unless_killed
from kvgen.wisdom.folder import slug
from kvgen.wisdom.places import cache_folder
from kvgen.wisdom.store import Store

if TYPE_CHECKING:
    from kvgen.tuning.shared import Shared

# of the time for a spec: when studies of single tokens end, when whole steps and the buffer have
# been timed; what is left is for other kernels
SHARES = {"studies": 0.55, "whole steps": 0.75, "finals": 0.85, "windows": 1.0}
# tasks that a worker has at once: while some are compiled for, others are timed
STUDIES, STEPS = 16, 2
# of another batch's best so many are tried
SEEDS = 2
# seconds between two looks at what the workers do
POLL = 0.2

Task = Callable[[Worker], None]


class Run:
    def __init__(
        self,
        workers: Sequence[Worker],
        compilers: Any,
        note: Callable[[str], None],
        job: Job,
        options: Options,
        store: Store,
        gpu: Gpu,
        storage: Any = None,
    ) -> None:
        """storage: where other hosts' tuners have their trials, too."""
        self.storage = storage
        self.workers, self.job, self.options, self.store = workers, job, options, store
        self.gpu, self.analysis = gpu, job.analysis
        self.default_buffer = buffer_length(self.analysis.form, self.analysis.records)
        self.likely_buffer = self._likely_buffer()
        self.report = Report(self.analysis, gpu, self.default_buffer)
        self.progress = Progress(note, options.budget)
        self.stop = threading.Event()
        self.programs = Programs(job, gpu, compilers, self.stop.is_set)
        self.stage = "studies"
        # whether a stage had something left to do when its share of the time was up
        self.late = False
        # studies that had nothing to time their configurations on
        self.rowless: list[str] = []
        self.turns: dict[tuple[int, int], threading.Lock] = {}
        self.studies: dict[tuple[str, int], Study] = {}
        self.whole = Whole(
            self.analysis, self.programs, options.batches, self.default_buffer, self._best_configs
        )

    def all(self) -> None:
        buffer = self.report.buffer = self.likely_buffer if self.options.only else self._single()
        tasks = [self._study_task(goal.kernel, goal.batch, buffer) for goal in self._others()]
        begin = [self._begin] if self.options.only else []
        self._stage("windows", [*begin, *tasks], STUDIES)
        if self.rowless:
            self.report.why = f"rows could not be made for {'; '.join(self.rowless)}"
        else:
            self.report.late = self.late
            self.report.why = "the time was up" if self.late else "everything was tried"

    def _single(self) -> int:
        """Kernels of single tokens, and the buffer that whole steps of them are fastest with."""
        batches, buffer = self.options.batches, self.default_buffer
        single = [(kernel, batch) for kernel in SINGLE for batch in batches]
        for kernel, batch in single:
            self.programs.begin(kernel, [space.default(self.analysis, kernel, batch)], buffer)
        tasks = [self._study_task(kernel, batch, buffer) for kernel, batch in single]
        self._stage("studies", [self._begin, *tasks], STUDIES)
        self._stage("whole steps", [self._step_task(b, self.whole.first) for b in batches], STEPS)
        buffer = self.whole.buffer()
        if buffer != self.default_buffer:
            again = lambda worker, batch: self.whole.again(worker, batch, buffer)  # noqa: E731
            self._stage("finals", [self._step_task(b, again) for b in batches], STEPS)
        return buffer

    def interrupted(self) -> None:
        self.report.interrupted = True
        self.ended("interrupted", failed=False)

    def ended(self, why: str, failed: bool = True) -> None:
        self.report.why, self.report.failed = why, failed
        self.stop.set()

    def concluded(self) -> Report:
        report = self.report
        report.seconds = self.progress.spent
        report.compiled = sum(worker.compiled for worker in self.workers)
        for worker in self.workers:
            for do, seconds in worker.spent.items():
                report.spent[do] = report.spent.get(do, 0.0) + seconds
        spent = ", ".join(f"{what} {seconds:.1f}" for what, seconds in report.spent.items())
        self.progress.line(f"seconds: {spent}")
        date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
        conclude(report, self.options, self.studies, self.whole, date)
        return report

    # stages

    def _stage(self, name: str, tasks: Sequence[Task], at_once: int) -> None:
        """Deal tasks over the workers. Raises what a task raises, when the others have stopped."""
        self.stage, began = name, self.progress.spent
        queue: Queue[Task] = Queue()
        for task in tasks:
            queue.put(task)

        def serve(worker: Worker) -> None:
            while not self.stop.is_set():
                try:
                    queue.get_nowait()(worker)
                except (Empty, Halted):
                    return

        threads = [worker for _ in range(at_once) for worker in self.workers][: len(tasks)]
        with ThreadPoolExecutor(max(1, len(threads))) as pool:
            futures: list[Future[None]] = [pool.submit(serve, worker) for worker in threads]
            try:
                # an interrupt is noticed between two looks
                while wait(futures, POLL, FIRST_EXCEPTION).not_done:
                    if any(f.done() and f.exception() for f in futures):
                        break
            finally:
                # where a task failed, or the user interrupts, the others have to end too
                if any(not f.done() or f.exception() for f in futures):
                    self.stop.set()
                    for worker in self.workers:
                        worker.halt()
        for future in futures:
            future.result()
        self.report.spent[name] = self.progress.spent - began

    def _over(self) -> bool:
        late = self.progress.spent > SHARES[self.stage] * self.options.budget
        self.late |= late
        return late or self.stop.is_set()

    def _guarded(self, worker: Worker, what: str, do: Callable[[], str | None]) -> None:
        """Do without what fails, and say so; the tuner goes on with what it has."""
        try:
            said = do()
        except (Refused, ChildError) as error:
            if worker.halted:
                raise Halted from None
            said = f"failed: {error}"
        if said:
            self.progress.line(f"{what}: {said}")

    def _begin(self, worker: Worker) -> None:
        """Make what is compared with, while the first programs are compiled."""

        def do() -> None:
            about = {"kernel": DECODE.name, "buffer": self.default_buffer}
            unless_killed(lambda: worker.ask(self.job, "begin", **about))

        self._guarded(worker, "the first check", do)

    def _step_task(self, batch: int, do: Callable[[Worker, int], str]) -> Task:
        def task(worker: Worker) -> None:
            if not self._over():
                self._guarded(worker, f"whole steps, batch {batch}", lambda: do(worker, batch))

        return task

    def _others(self) -> list[Goal]:
        return others(self.analysis, self.options)

    # studies of one kernel

    def _study_task(self, kernel: str, batch: int, buffer: int) -> Task:
        def task(worker: Worker) -> None:
            if not self._over():
                self._study(worker, kernel, batch, buffer)
                self._ahead(kernel, batch)

        return task

    def _study(self, worker: Worker, kernel: str, batch: int, buffer: int) -> None:
        configs = self._ordered(kernel, batch)
        trials = self._trials(kernel, batch, buffer)
        known = [] if self.options.force else trials.read()
        shared = self._shared(trials, configs, known)
        if shared is not None:
            known = [*known, *shared.known().values()]
        study = Study(
            configs, self._first(kernel, batch, configs), self.options.timings(kernel),
            self.options.seed + batch, known, hints=lambda: self._others_best(kernel, batch),
        )  # fmt: skip
        self.studies[kernel, batch] = study
        evaluator = Evaluator(
            self.programs, worker, kernel, batch, buffer, trials, list(study.outcomes.values())
        )
        name = f"{kernel}, batch {batch}"
        floor = alone_us(self.analysis, kernel, batch, buffer, self.gpu.bandwidth)

        def evaluate(config: Config) -> Outcome | None:
            if shared is None:
                outcome = evaluator(config)
            else:
                outcome = shared.tried(config, evaluator, self._over)
                study.learn(shared.known())
            if outcome is not None and outcome.verdict in REFUSED:
                what = f"{space.text(config)}: {outcome.verdict}, never chosen"
                self.progress.line(f"{name}: {what}: {outcome.detail}")
            best = study.best()
            shown = f"best {best[0].us[1]:.2f} us" if best and best[0].us else "none yet"
            if best and best[0].us:
                shown += f", {floor / best[0].us[1]:.0%} of the floor"
            done = f"{len(study.outcomes)} of {len(configs)}"
            self.progress.status(f"{name}: {done}, {shown}")
            return outcome

        def ready(config: Config) -> bool:
            return evaluator.ready(config) and not (shared and shared.taken(config))

        self.programs.begin(kernel, study.opening[:WINDOW], buffer, later=True)
        try:
            with self._turn(worker, kernel, batch):
                study.run(evaluate, evaluator.prepare, self._over, ready)
        except RowsError as error:
            study.why = "stopped"
            self.rowless.append(name)
            self.progress.line(f"{name}: its rows cannot be made: {error}")
        self.progress.line(f"{name}: {summary(study, floor)}")

    def _turn(self, worker: Worker, kernel: str, batch: int) -> AbstractContextManager[object]:
        """Studies of single tokens share a batch's rows. Each of the others has rows of its own:
        those of several large batches would again and again push each other out of the memory."""
        if named(kernel).in_steps:
            return nullcontext()
        return self.turns.setdefault((id(worker), batch), threading.Lock())

    def _ahead(self, kernel: str, batch: int) -> None:
        """Compile what the next stages will run, when nothing else is to be compiled."""
        done = {other for other, study in list(self.studies.items()) if study.why}
        if named(kernel).in_steps and {(DECODE.name, batch), (FOLD.name, batch)} <= done:
            self.whole.prepare(batch, later=True)
            for goal in self._others():
                if goal.batch == batch or named(goal.kernel).prompt:
                    configs = self._ordered(goal.kernel, goal.batch)
                    first = self._first(goal.kernel, goal.batch, configs)
                    self.programs.begin(goal.kernel, first, self.likely_buffer, later=True)

    def _likely_buffer(self) -> int:
        """What was best before, here or on another GPU; else what studies begin with."""
        known = self.store.find(key(self.analysis, Goal(BUFFER.name, 0), self.gpu.name)).record
        length = known.config["buffer"] if known is not None else self.default_buffer
        return length if length in space.buffers(self.analysis) else self.default_buffer

    def _ordered(self, kernel: str, batch: int) -> list[Config]:
        """All that is legal, the most promising first."""
        configs = space.legal(self.analysis, kernel, self.gpu.target)
        return ordered(self.analysis, kernel, configs, batch, self.gpu, self.default_buffer)

    def _first(self, kernel: str, batch: int, configs: Sequence[Config]) -> list[Config]:
        """What an untuned module takes here, what the store knows, what untuned modules take for
        other batches, and what the model thinks of each knob."""
        found = [space.default(self.analysis, kernel, batch)]
        tokens = space.tokens_of(self.analysis, kernel)
        answer = self.store.find(key(self.analysis, Goal(kernel, batch, tokens), self.gpu.name))
        if answer.record is not None:
            found.append(answer.record.config)
        found += space.defaults(self.analysis, kernel).values()
        return [config for config in (*found, *covering(configs)) if config in configs]

    def _others_best(self, kernel: str, batch: int) -> list[Config]:
        """What is best for other batches by now, nearest first."""
        near = sorted(
            (other for name, other in list(self.studies) if name == kernel and other != batch),
            key=lambda other: abs(math.log(other / batch)),
        )
        best = [self.studies[kernel, other].best(SEEDS) for other in near]
        return [outcome.config for found in best for outcome in found]

    def _best_configs(self, kernel: str, batch: int, count: int) -> list[Config]:
        """The fastest of a study, the untuned one where none was timed."""
        study = self.studies.get((kernel, batch))
        found = [outcome.config for outcome in study.best(count)] if study else []
        return found or [space.default(self.analysis, kernel, batch)]

    def _shared(
        self, trials: Trials, configs: Sequence[Config], known: Sequence[Outcome]
    ) -> Shared | None:
        """The study as other hosts see it, with what is known here."""
        if self.storage is None:
            return None
        from kvgen.tuning.shared import Shared

        found = Shared(self.storage, f"kvgen {trials.path.stem}", configs, trials.about)
        found.publish(known)
        return found

    def _trials(self, kernel: str, batch: int, buffer: int) -> Trials:
        about = {
            "spec": self.analysis.spec.name, "kernel": kernel, "batch": batch, "buffer": buffer,
            "module": self.job.digest, "gpu": self.gpu.name, **self.gpu.env,
        }  # fmt: skip
        digest = hashlib.sha256(repr(sorted(about.items())).encode()).hexdigest()[:12]
        spec = re.sub(r"\W", "_", self.analysis.spec.name)
        folder = cache_folder() / "trials" / slug(self.gpu.name)
        return Trials(folder / f"{spec}-{kernel}-B{batch}-{digest}.jsonl", about)
