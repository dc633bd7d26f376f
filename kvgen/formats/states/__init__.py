"""A file for each format of a matrix state; its name in a spec is that of the object in it."""

from __future__ import annotations
