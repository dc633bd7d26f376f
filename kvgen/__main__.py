"""`kvgen` and `python -m kvgen`: find the command line, cli.py, and run it."""

from __future__ import annotations

from kvgen import ending

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    # before anything that takes time: whatever was started ends with this process, whenever that is
    ending.prepare()
    from kvgen import streams

    streams.open_missing()
    ending.run(_command_line())


def _command_line() -> Callable[[], None]:
    import sys
    from importlib.util import module_from_spec, spec_from_file_location
    from pathlib import Path

    # a wheel has cli.py inside the package, a checkout has it beside the package
    package = Path(__file__).resolve().parent
    path = next(p for p in (package / "cli.py", package.parent / "cli.py") if p.is_file())
    spec = spec_from_file_location("kvgen.cli", path)
    assert spec is not None and spec.loader is not None
    cli = module_from_spec(spec)
    sys.modules["kvgen.cli"] = cli
    spec.loader.exec_module(cli)
    return cli.main


if __name__ == "__main__":
    main()
