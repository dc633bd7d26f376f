"""Time every legal configuration of a kernel on a GPU, and write them as one table.

    python benchmarks/exhaustive.py gated_deltanet --batch 1,16,256 --out tests/data/decode.json.gz

The table is what the tuner's search is replayed on. One that is there already is completed, and
what was measured is written when it is interrupted or out of time.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event
from typing import Any

from kvgen import compiler
from kvgen.codegen.cost import buffer_length
from kvgen.kernels.registry import KERNELS
from kvgen.shipped import resolve
from kvgen.terminal import note
from kvgen.tuning import space
from kvgen.tuning.evaluate import Evaluator, Programs
from kvgen.tuning.ordering import ordered
from kvgen.tuning.plan import distinct
from kvgen.tuning.progress import Progress
from kvgen.tuning.study import Study
from kvgen.tuning.table import Table
from kvgen.tuning.trials import Trials
from kvgen.tuning.tune import Tuner, make_job
from kvgen.tuning.workers import Halted, Job
from kvgen.wisdom.places import cache_folder

POLL = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("spec")
    parser.add_argument(
        "--kernel", default="decode", choices=sorted(kernel.name for kernel in KERNELS)
    )
    parser.add_argument("--batch", default="1,4,16,64,256")
    parser.add_argument("--set", action="append", default=[], metavar="K=V")
    parser.add_argument("--seconds", type=float, default=480.0, help="the most time it takes")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    # being asked to end is an interrupt: what was measured is written
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    overrides = dict(each.split("=", 1) for each in given.set)
    batches = distinct([int(batch) for batch in given.batch.split(",")])
    run(given.spec, given.kernel, batches, overrides, given.seconds, given.out, Tuner(note))


def run(
    spec: str,
    kernel: str,
    batches: Sequence[int],
    overrides: dict[str, str],
    seconds: float,
    out: Path,
    tuner: Tuner,
) -> Table:
    """All batches at once: while programs are compiled for one, others are timed."""
    analysis = compiler.analyse(resolve(spec), overrides)
    job = make_job(analysis, overrides)
    buffer = buffer_length(analysis.form, analysis.records)
    with tuner:
        gpu = tuner.begin()
        about: dict[str, Any] = {
            "spec": spec, "overrides": overrides, "kernel": kernel, "buffer": buffer,
            "module": job.digest, "gpu": gpu.name, "env": gpu.env,
        }  # fmt: skip
        table = Table.read(out, about)
        stop = Event()
        progress = Progress(tuner.note, seconds)
        programs = Programs(job, gpu, tuner.compilers, stop.is_set)
        configs = space.legal(analysis, kernel, gpu.target)
        programs.begin(kernel, configs, buffer, later=True)
        # beside the table, for a process that is killed
        trials = {
            batch: Trials(trials_of(job, kernel, batch), about | {"batch": batch})
            for batch in batches
        }
        studies = {
            batch: Study(
                ordered(analysis, kernel, configs, batch, gpu, buffer), [], len(configs),
                known=[*table.outcomes(batch), *trials[batch].read()],
            )
            for batch in batches
        }  # fmt: skip

        def serve(at: int, batch: int) -> None:
            study, worker = studies[batch], tuner.workers[at % len(tuner.workers)]
            known = list(study.outcomes.values())
            evaluate = Evaluator(programs, worker, kernel, batch, buffer, trials[batch], known)

            def tried(config: space.Config) -> Any:
                outcome = evaluate(config)
                done = sum(len(each.outcomes) for each in studies.values())
                progress.status(f"{kernel}: {done} of {len(configs) * len(batches)}")
                return outcome

            def over() -> bool:
                return stop.is_set() or progress.left <= 0

            study.run(tried, evaluate.prepare, over, evaluate.ready)
            progress.line(f"{kernel}, batch {batch}: {study.why}; {study.best()}")

        with ThreadPoolExecutor(len(batches)) as pool:
            futures = [pool.submit(serve, at, batch) for at, batch in enumerate(batches)]
            try:
                while wait(futures, POLL).not_done:
                    pass
            except KeyboardInterrupt:
                tuner.note("interrupted")
            finally:
                stop.set()
                for worker in tuner.workers:
                    if any(not future.done() for future in futures):
                        worker.halt()
        progress.end()
        for batch, study in studies.items():
            table.add(batch, list(study.outcomes.values()))
        table.write(out)
        spent = {
            what: round(took, 1) for worker in tuner.workers for what, took in worker.spent.items()
        }
        tuner.note(f"{out}: {table.summary()}, after {progress.spent:.0f} s; {spent}")
        for future in futures:
            error = future.exception()
            if error is not None and not isinstance(error, Halted):
                raise error
    return table


def trials_of(job: Job, kernel: str, batch: int) -> Path:
    name = f"{job.analysis.spec.name}-{kernel}-B{batch}-{job.digest}.jsonl"
    return cache_folder() / "exhaustive" / name


if __name__ == "__main__":
    main()
