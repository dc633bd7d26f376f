"""The host's side of a generated module, which holds these files as they stand.

A module is its kernels, a `Table` of what its recurrence needs, and this. Nothing here may import
anything but the standard library, torch and triton, and nothing is in two files by one name.
"""
