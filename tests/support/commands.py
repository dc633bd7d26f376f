"""`kvgen` as a command, called in this process."""

from __future__ import annotations

from click.testing import CliRunner, Result

import cli


def run(*args: str, input: str | None = None) -> Result:
    return CliRunner().invoke(cli.cli, args, prog_name="kvgen", terminal_width=80, input=input)
