"""What the tests that compare with others' layers share."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from types import ModuleType

import pytest


def ready(device: str) -> None:
    """Make triton interpret on a CPU and compile on a GPU, or skip where it cannot any more."""
    if device == "cpu" and "triton" not in sys.modules:
        os.environ["TRITON_INTERPRET"] = "1"
    import torch
    import triton.language as tl
    from triton.runtime.interpreter import InterpretedFunction

    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    if isinstance(tl.sum, InterpretedFunction) == (device == "cpu"):
        return
    if device == "cuda":
        pytest.fail("triton was imported with TRITON_INTERPRET=1")
    if torch.cuda.is_available():
        pytest.skip("triton was imported for the GPU: run with TRITON_INTERPRET=1")
    pytest.fail("triton was imported before TRITON_INTERPRET=1 was set")


def modeling(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A model's module of Transformers, with its functions in plain torch.

    Transformers binds those of fla, causal_conv1d and mamba_ssm instead where they are installed.
    """
    module = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
    for key, function in list(vars(module).items()):
        plain = inspect.unwrap(function) if inspect.isfunction(function) else function
        if plain is not function and plain.__module__ == module.__name__:
            monkeypatch.setattr(module, key, plain)
    return module


def worst(got, wanted) -> float:
    """The largest error of a row: the norm of the difference over the norm."""
    difference = (got.double() - wanted.double()).flatten(1).norm(dim=1)
    rows = difference / wanted.double().flatten(1).norm(dim=1)
    # a nan must not look small
    return rows.nan_to_num(float("inf")).max().item()


def remember(A_log, dt_bias) -> None:
    """Fill gate parameters as training starts: memories from a token to hundreds of tokens long."""
    import torch

    with torch.no_grad():
        A_log.uniform_(1, 16).log_()
        dt = dt_bias.uniform_(-6.9, -2.3).exp()
        dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))
