"""`kvgen` and `python -m kvgen`: find the command line, cli.py, and run it."""

from __future__ import annotations

import signal
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

# of a process that a signal has ended, as shells have it
ASKED_TO_END = 128 + signal.SIGTERM


def main() -> None:
    # whatever was started ends with this process, and temporary files go
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ASKED_TO_END))
    # a wheel has cli.py inside the package, a checkout has it beside the package
    package = Path(__file__).resolve().parent
    path = next(p for p in (package / "cli.py", package.parent / "cli.py") if p.is_file())
    spec = spec_from_file_location("kvgen.cli", path)
    assert spec is not None and spec.loader is not None
    cli = module_from_spec(spec)
    sys.modules["kvgen.cli"] = cli
    spec.loader.exec_module(cli)
    cli.main()


if __name__ == "__main__":
    main()
