"""Figures of a GPU that is not there."""

from __future__ import annotations

# bytes a second that a copy moves where no_gpu makes the clock up
BANDWIDTH = 1e12
