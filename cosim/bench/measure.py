"""From a case to its row: ratios with intervals, rates, the share of the limit, and errors."""

import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

import cosim.guard  # noqa: F401 (the check is the import)
from cosim.bench.cases import NUMPY, OURS, QUANTIZING, TORCH, Case, Plan, Side
from kernels import harness
from kernels.harness import Sample
from kernels.peaks import Peak, cache_sizes

Row = dict[str, object]
_OWN = (OURS, QUANTIZING)
ROUNDS = 15


def row_of(plan: Plan, case: Case, peaks: Mapping[str, Peak], *, rounds: int = ROUNDS) -> Row:
    """Return the row of a case: all sides in alternation.

    One thread is timed in CPU time of the thread, more in wall time. ``gops`` comes from the
    median, ``share_of_limit`` from the best round, as the limit does.
    """
    clock = time.thread_time if plan.threads == 1 else time.perf_counter
    calls = {name: side.run for name, side in case.sides.items()}
    samples = harness.alternate(calls, rounds=rounds, clock=clock, is_hot=not plan.is_cold)
    ours = samples[OURS]
    limit, bound = _limit(plan, case, peaks)
    errors = _errors(case)
    row: Row = {
        "kernel": plan.kernel,
        "shape": plan.shape,
        "threads": plan.threads,
        "ratio_torch": _ratio(samples, TORCH, OURS),
        "ratio_numpy": _ratio(samples, NUMPY, OURS),
        "share_of_limit": case.work / ours.best_s / bound if bound else None,
        "gops": case.operations / ours.median_s / 1e9,
        "case": plan.id,
        "weights": "cold" if plan.is_cold else "hot",
        "seconds": ours.median_s,
        "ratio_torch_interval": _interval(samples, TORCH, OURS),
        "ratio_torch_quantizing": _ratio(samples, TORCH, QUANTIZING),
        "limit": limit,
        "limit_gops": bound / 1e9 if bound else None,
        "work": case.work,
        "operations": case.operations,
        "bytes": case.size_bytes,
        "operations_per_byte": case.work / case.size_bytes,
        "error": errors.get(OURS),
        "kernel_used": case.kernel_used,
        "peers": {
            name: {
                "ratio_torch": _ratio(samples, TORCH, name),
                "ratio_ours": _ratio(samples, name, OURS),
                "ratio_ours_quantizing": _ratio(samples, name, QUANTIZING),
                "error": errors.get(name),
            }
            for name in samples
            if name not in _OWN
        },
        "notes": list(case.notes),
    }
    return row | dict(case.extra) | (case.summary(samples) if case.summary else {})


def _ratio(samples: Mapping[str, Sample], slow: str, fast: str) -> float | None:
    if slow not in samples or fast not in samples:
        return None
    return harness.ratio(samples[slow], samples[fast]).median


def _interval(samples: Mapping[str, Sample], slow: str, fast: str) -> list[float] | None:
    """Return low, high and the probability that they hold the median."""
    if slow not in samples or fast not in samples:
        return None
    found = harness.ratio(samples[slow], samples[fast])
    return [found.low, found.high, found.coverage]


def _limit(plan: Plan, case: Case, peaks: Mapping[str, Peak]) -> tuple[str, float]:
    """Name and operations a second of the roof over a case; several threads have several roofs.

    The roof is the lower of its instruction mix and of what the memory that holds its data can
    feed: DRAM for cold weights, else the first cache that all of it fits, and DRAM beyond.
    """
    roofs = {}
    if case.limit:
        roofs[case.limit] = plan.threads * peaks[case.limit].rate
    sizes = cache_sizes()
    levels = [name for name in ("L2", "L3") if case.size_bytes <= sizes.get(name, 0)]
    level = "DRAM" if plan.is_cold or not levels else levels[0]
    if plan.threads == 1:  # how threads share a cache or a memory is not measured
        roofs[level] = peaks[level].rate * case.work / case.size_bytes
    name = min(roofs, key=lambda key: roofs[key])
    return name, roofs[name]


def _errors(case: Case) -> dict[str, float]:
    """Relative Frobenius error of every side's result against float64."""
    if case.exact is None:
        return {}
    exact = case.exact()
    size = float(np.linalg.norm(exact))
    return {
        name: _distance(side, exact) / size
        for name, side in case.sides.items()
        if side.output is not None
    }


def _distance(side: Side, exact: NDArray[np.float64]) -> float:
    if side.output is None:
        raise ValueError("_distance: found a side without output")
    found = np.asarray(side.output(), np.float64)
    if found.shape != exact.shape:
        raise ValueError(f"_distance: found a result {found.shape}, expected {exact.shape}")
    return float(np.linalg.norm(found - exact))
