"""The plug-in of vLLM: gated delta-rule layers decode with generated modules, records in the pages.

vLLM loads `register` by the entry point `kvgen` of `vllm.general_plugins`, in all its processes.
Nothing changes unless `additional_config={"kvgen": {…}}` asks for it.
"""

from __future__ import annotations


def register() -> None:
    """What vLLM calls once a process, before it reads a configuration."""
    from kvgen.integrations.vllm import plugin

    plugin.install()
