"""The plug-in of SGLang: gated delta-rule layers decode with generated modules, over its own rings.

SGLang loads `register` by the entry point `kvgen` of `sglang.srt.plugins`, in all its processes.
Nothing changes unless `KVGEN_SGLANG="state=float32"` in the environment asks for it.
"""

from __future__ import annotations


def register() -> None:
    """What SGLang calls once a process, before it reads its arguments."""
    from kvgen.integrations.sglang import plugin

    plugin.install()
