"""What a compiled kernel uses: registers, spills, shared memory; and its text."""

from __future__ import annotations

import hashlib
import re
import subprocess
import tempfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from triton.backends.compiler import GPUTarget

# of NVIDIA's assembly, what says where it came from but not what it does
ORIGIN = re.compile(r"//.*$|^\s*\.(?:loc|file)\b.*$", re.MULTILINE)
# sections of debugging information end the program
DEBUG = re.compile(r"^\s*\.section\s.*", re.MULTILINE | re.DOTALL)


def target_of(name: str) -> GPUTarget:
    """sm_90, gfx942 and so on, as Triton has it."""
    from triton.backends.compiler import GPUTarget

    if name.startswith("sm_"):
        return GPUTarget("cuda", int(name.removeprefix("sm_")), 32)
    return GPUTarget("hip", name, 64)


def used(kernel: Any, target: GPUTarget) -> dict[str, int]:
    """Registers and bytes of local memory for each thread, bytes of shared memory."""
    usage = _nvidia(kernel) if target.backend == "cuda" else _amd(kernel)
    return {**usage, "shared": kernel.metadata.shared}


def assembly_of(kernel: Any, target: GPUTarget) -> str:
    return kernel.asm["ptx" if target.backend == "cuda" else "amdgcn"]


def digest(assembly: str) -> str:
    """The same for programs that differ in nothing but comments and lines of source."""
    text = DEBUG.sub("", ORIGIN.sub("", assembly))
    lines = (line.strip() for line in text.splitlines())
    return hashlib.sha256("\n".join(filter(None, lines)).encode()).hexdigest()[:16]


def _nvidia(kernel: Any) -> dict[str, int]:
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        dump = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(rf"Function {re.escape(kernel.metadata.name)}:\s*(.*)", dump)
    assert found is not None, dump
    usage = {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", found[1])}
    return {"registers": usage["REG"], "spills": usage["STACK"] + usage["LOCAL"]}


def _amd(kernel: Any) -> dict[str, int]:
    usage = dict(re.findall(r"\.(\w+):\s+(\d+)\s*$", kernel.asm["amdgcn"], re.MULTILINE))
    return {
        "registers": int(usage["vgpr_count"]),
        "spills": int(usage["private_segment_fixed_size"]),
    }
