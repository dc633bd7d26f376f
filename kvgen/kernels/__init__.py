"""The kernels of a generated module, one object and one file each; `registry` has them all."""
