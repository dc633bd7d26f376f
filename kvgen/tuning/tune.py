"""Tune specs on the GPUs that are here: workers and compilers, for one spec after another."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from kvgen import compiler
from kvgen.compiler import Analysis
from kvgen.conversation import ChildError
from kvgen.probing.compilers import Compilers
from kvgen.tuning.choices import Report
from kvgen.tuning.claim import Claim
from kvgen.tuning.gpu import Gpu
from kvgen.tuning.plan import Options
from kvgen.tuning.run import Run
from kvgen.tuning.workers import Job, Worker, WorkerError, devices
from kvgen.wisdom.store import Store

# what it needs sooner or later
NEEDED = ("torch", "triton", "optuna")
# seconds between two looks at workers that are starting
POLL = 0.2


class Tuner:
    """A context manager that ends all processes."""

    def __init__(
        self,
        note: Callable[[str], None],
        start: Callable[[str | None], Worker] = Worker,
        compilers: Callable[[], Any] = Compilers,
    ) -> None:
        self.note = note
        self._start, self._compilers = start, compilers
        self.workers: list[Worker] = []
        self.compilers: Any = None
        self.claims: list[Claim] = []
        self.gpu: Gpu | None = None

    def __enter__(self) -> Tuner:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.end()
        if self.compilers is not None:
            self.compilers.close()
        for claim in self.claims:
            claim.free()

    def begin(self) -> Gpu:
        """Start a worker on every GPU that is like the first and that no other tuner has; where
        others have them all, wait for the first. Raises WorkerError, and ModuleNotFoundError
        before any time is spent."""
        if self.gpu is not None:
            return self.gpu
        require(*NEEDED)
        # compilers take their time to start, too
        self.compilers = self._compilers()
        first = self._start(None)
        self.workers.append(first)
        gpu = first.gpu()
        names = devices(int(first.hello.get("count", 1)))
        others = [self._start(name) for name in names[1:]]
        self.workers += others
        for worker, other in zip(others, side_by_side(others), strict=True):
            if other.name != gpu.name:
                self._leave(worker, f"{other.name}, as the first GPU is {gpu.name}")
        if self._claimed():
            # whoever had it until now was in the way when its bandwidth was measured
            gpu = first.gpu()
        self.compilers.target = gpu.target
        self.gpu = gpu
        return gpu

    def _claimed(self) -> bool:
        """Keep the workers whose GPUs are free; whether that took waiting for the first."""
        claims = {worker: Claim(Gpu.of(worker.hello)) for worker in self.workers}
        ours = [worker for worker, claim in claims.items() if claim.take()]
        waits = not ours
        if waits:
            ours = self.workers[:1]
            claims[ours[0]].wait(self.note)
        for worker, claim in claims.items():
            if worker in ours:
                self.claims.append(claim)
            else:
                self._leave(worker, f"{claim.gpu.name}, which {claim.owner} is tuning on")
        return waits

    def _leave(self, worker: Worker, what: str) -> None:
        self.workers.remove(worker)
        worker.end()
        self.note(f"left out: {what}")

    def tune(self, job: Job, options: Options, store: Store) -> Report:
        """One spec. What was measured is in the report however it ends, a full disk included; see
        its `why` and `failed`. Raises WorkerError where it cannot begin."""
        gpu = self.begin()
        storage = None
        if options.storage is not None:
            from kvgen.tuning import shared

            storage = shared.opened(options.storage)
        for worker in self.workers:
            worker.begin()
        run = Run(self.workers, self.compilers, self.note, job, options, store, gpu, storage)
        try:
            run.all()
        except KeyboardInterrupt:
            run.interrupted()
        except ChildError as error:
            run.ended(f"the compilers ended: {error}")
        except WorkerError as error:
            run.ended(str(error))
        except Exception as error:
            run.ended(f"{type(error).__name__}: {error}")
        finally:
            run.progress.end()
        return run.concluded()


def side_by_side(workers: Sequence[Worker]) -> list[Gpu]:
    """Start them all at once: each imports torch and measures its GPU. Raises WorkerError."""
    with ThreadPoolExecutor(max(1, len(workers))) as pool:
        starting = [pool.submit(worker.gpu) for worker in workers]
        try:
            # an interrupt is noticed between two looks
            while wait(starting, POLL).not_done:
                pass
            return [each.result() for each in starting]
        except BaseException:
            for worker in workers:
                worker.halt()
            raise


def require(*packages: str) -> None:
    """Raises ModuleNotFoundError for the first that is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)


def make_job(analysis: Analysis, overrides: dict[str, str]) -> Job:
    """The module without anything tuned in it, with all that can be, in a file that is there until
    this process ends."""
    text = compiler.emit(analysis, {}, untimed=True)
    path = compiler.temporary_module(analysis.spec.name, text)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return Job(analysis, analysis.spec.original, overrides, path, digest)
