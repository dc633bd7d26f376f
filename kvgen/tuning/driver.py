"""What the driver's own tool says of the GPUs, without torch."""

from __future__ import annotations

import subprocess


def queried(*fields: str) -> list[list[str]]:
    """These fields of every GPU; none where the tool is not to be had."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.split(", ", len(fields) - 1) for line in found.stdout.splitlines()]
    return [row for row in rows if len(row) == len(fields)]
