"""Compiling in several processes what a benchmark will call, before it is timed."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Job = TypeVar("Job")


def warm(
    processes: int,
    compiled: Callable[[Job], str],
    jobs: Iterable[Job],
    say: Callable[[str], None],
) -> None:
    """Fill Triton's cache on disk. compiled: calls a job once; what went wrong, or nothing."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        for complaint in filter(None, pool.map(compiled, jobs)):
            say(f"not compiled: {complaint}")
    say("compiled")
