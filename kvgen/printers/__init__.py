"""Kernels as text, a module for each language."""
