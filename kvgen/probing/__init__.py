"""What a module's kernels use on a GPU, compiled without one."""
