"""Benchmarks beside other libraries, and their reports."""
