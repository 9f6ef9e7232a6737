"""Numba kernels: arrays in, arrays out. They import numpy and numba only, and know no objects."""
