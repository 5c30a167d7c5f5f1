"""What the figures were measured on: processor, caches, versions, load."""

import os
import platform

import cosim.guard  # noqa: F401 (the check is the import)
from cosim import results
from cosim.bench import peers
from cosim.dispatch import cpu_name
from kernels.jit import host_features
from kernels.peaks import cache_sizes

_FEATURES = ("avx2", "fma", "avxvnni", "avx512f", "avx512bw", "avx512vnni")


def load_average() -> list[float]:
    """Return the load of the last 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def describe() -> dict[str, object]:
    """Return the header of a benchmark."""
    return {
        "created": results.now(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "features": [name for name in _FEATURES if name in host_features()],
        "caches_bytes": dict(cache_sizes()),
        "load_average": load_average(),
        "versions": {**results.versions(), **peers.versions(), "python": platform.python_version()},
    }
