"""How a cache keeps states and records: a format is one object, in a file of its own."""

from __future__ import annotations
