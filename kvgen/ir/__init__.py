"""Kernels between the graph of a recurrence and their text."""
