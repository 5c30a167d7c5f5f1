"""Numba kernels for compressed networks: encodings and arrays in, arrays out.

Importing the package loads nothing heavy; import the submodule that is needed.
"""

from collections.abc import Callable

__cosim_kernels__ = 1

COMPILE_LISTENERS: list[Callable[[str], None]] = []
"""Told the name of each function that no cache holds, before it is compiled: that takes seconds."""
