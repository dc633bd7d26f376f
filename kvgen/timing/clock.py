"""The one clock: launches on a GPU, captured as graphs, replayed, and how long that takes.

What measures asks this module by its name, so that tests put another clock in its place.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

# copies that are timed
COPIES = 7


class LaunchError(Exception):
    """A configuration that the GPU refuses, and the process survives."""


class Graph:
    """The launches of `run`, which has run before; without the collection of garbage and the
    emptying of caches that `torch.cuda.graph` adds to every capture."""

    def __init__(self, run: Callable[[], object], stream: torch.cuda.Stream | None = None) -> None:
        self.graph = torch.cuda.CUDAGraph()
        stream = stream or torch.cuda.Stream()
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            self.graph.capture_begin()
            try:
                run()
            finally:
                self.graph.capture_end()
        torch.cuda.current_stream().wait_stream(stream)

    def replay(self) -> None:
        self.graph.replay()

    def replays(self, count: int) -> None:
        for _ in range(count):
            self.graph.replay()

    def end(self) -> None:
        torch.cuda.synchronize()
        self.graph.reset()

    def __enter__(self) -> Graph:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


@contextmanager
def captured(run: Callable[[], object]) -> Iterator[Graph]:
    """The launches of `run` as a graph, with all the memory there is; it runs once before, to
    compile."""
    stream = torch.cuda.Stream()
    # the data is still being drawn on the stream that asked for it
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
        stream.synchronize()
    gc.collect()
    torch.cuda.empty_cache()
    yield Graph(run, stream)


def launched(run: Callable[[], object]) -> None:
    """Run once and wait. Raises LaunchError where Triton or the driver refuses a launch, and the
    GPU can still be used."""
    from triton.errors import TritonError

    try:
        run()
        torch.cuda.synchronize()
    except TritonError as error:
        raise LaunchError(f"{type(error).__name__}: {error}") from error
    except RuntimeError as error:
        if "out of memory" in str(error) or not usable():
            raise
        raise LaunchError(str(error)) from error


def usable() -> bool:
    """Whether the GPU still does what this process asks: an illegal address ends that."""
    try:
        torch.cuda.synchronize()
        torch.zeros(1, device="cuda").item()
    except Exception:
        return False
    return True


def time_of(run: Callable[[], object]) -> float:
    """Seconds of device time that `run` takes."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def copy_bandwidth() -> float:
    """Bytes a second that a large device-to-device copy moves, read and written."""
    source = torch.randint(0, 255, (1 << 30,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    times = [time_of(lambda: target.copy_(source)) for _ in range(COPIES)]
    # the fastest: a floor is what the memory can do
    return 2 * source.numel() / min(times)
