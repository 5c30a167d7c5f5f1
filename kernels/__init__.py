"""Numba kernels for compressed networks: encodings and arrays in, arrays out.

Importing the package loads nothing heavy; import the submodule that is needed.
"""

__cosim_kernels__ = 1
