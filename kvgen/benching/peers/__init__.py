"""Other libraries' decode kernels of the recurrences that they serve; a module for each library."""

from __future__ import annotations

LIBRARIES = ("fla", "sglang", "flashinfer")
