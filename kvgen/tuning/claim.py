"""A GPU is for one tuner at a time: times that are taken beside another's are of no use."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable

from filelock import FileLock, Timeout

from kvgen.tuning.gpu import Gpu
from kvgen.wisdom.places import cache_folder

# seconds between two attempts, and between two messages that say that it waits
POLL, PAUSE = 0.5, 60.0


class Claim:
    """Whether this process has a GPU. It ends with the process, however that ends."""

    def __init__(self, gpu: Gpu) -> None:
        name = re.sub(r"\W+", "-", gpu.uuid or gpu.name)
        self.gpu = gpu
        self.path = cache_folder() / "gpus" / f"{name}.lock"
        self._lock = FileLock(self.path)
        # the lock's own file is emptied by whoever looks at it
        self._owner = self.path.with_suffix(".pid")

    def take(self) -> bool:
        """Whether it is ours now."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        self._owner.write_text(str(os.getpid()))
        return True

    def wait(self, note: Callable[[str], None]) -> None:
        """Until it is ours; says for whom it waits."""
        said = 0.0
        while not self.take():
            if time.monotonic() - said > PAUSE or not said:
                said = time.monotonic()
                note(f"{self.gpu.name} is being tuned on by {self.owner}; waiting for its end")
            time.sleep(POLL)

    @property
    def owner(self) -> str:
        try:
            return f"process {int(self._owner.read_text())}"
        except (OSError, ValueError):
            return "another process"

    def free(self) -> None:
        self._lock.release()
