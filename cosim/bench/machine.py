"""What the figures were measured on: processor, caches, versions, load."""

import os
import platform
from pathlib import Path

import cosim.guard  # noqa: F401 (the check is the import)
from cosim import results
from cosim.bench import peers
from kernels.jit import host_features
from kernels.peaks import cache_sizes

_FEATURES = ("avx2", "fma", "avxvnni", "avx512f", "avx512bw", "avx512vnni")
_CPUINFO = Path("/proc/cpuinfo")


def cpu_name() -> str:
    """Return the name of the processor as the system tells it, with family and model.

    Family and model tell apart what a virtual machine calls by one name.
    """
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    told: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        told.setdefault(key.strip(), value.strip())
    name = told.get("model name", platform.machine())
    numbers = [f"{key} {told[key]}" for key in ("cpu family", "model") if key in told]
    return f"{name} ({', '.join(numbers)})" if numbers else name


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
