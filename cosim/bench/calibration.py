"""Measure where each sparse form starts to win over the dense one on this machine."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

import cosim.guard  # noqa: F401 (the check is the import)
from cosim import results
from cosim.bench import linear, matrices
from cosim.bench.cases import AbsentError
from cosim.bench.machine import cpu_name
from cosim.dispatch import Dispatch, Point, kernels_hash
from cosim.errors import CosimError
from cosim.evaluate import Progress
from kernels import harness, panels

F32 = NDArray[np.float32]
STEPS, OUTPUTS = 768, 1536
ROWS = (1, 8, 16, 100, 499)
DENSITIES = (0.05, 0.15, 0.3, 0.5, 0.7, 0.9)
ROUNDS = 9
COLD_ROWS = 8
"""Up to so many rows, those of decoding, weights come from memory."""
_DENSE = "dense"
_PATTERNS: Mapping[str, tuple[int, int]] = {
    "f32_csr": (1, 1),
    "f32_mask": (1, 1),
    "f32_16x1": (16, 1),
    "f32_8x1": (8, 1),
    "f32_4x4": (4, 4),
    "f32_32x32": (32, 32),
}
"""Stored forms and the blocks of weights that are zero together."""


def calibrate(progress: Progress, *, rounds: int = ROUNDS) -> Dispatch:
    """Return how much faster each sparse form is, over rows and densities, in about a minute."""
    weight = matrices.gaussian(OUTPUTS, STEPS, linear.SEED)
    progress.stage("calibrating the choice of kernels", total=len(ROWS))
    points: list[Point] = []
    for rows in ROWS:
        points += _at_rows(weight, rows, rounds)
        progress.advance()
    if not points:
        raise CosimError("calibrate: this CPU has no sparse kernel to choose")
    return Dispatch(cpu_name(), kernels_hash(), results.now(), tuple(points))


def _at_rows(weight: F32, rows: int, rounds: int) -> Iterator[Point]:
    """Yield the points of one number of rows; the forms of one density share an alternation."""
    x = matrices.activations(rows, STEPS, linear.SEED)
    out = np.empty((rows, OUTPUTS), np.float32)
    is_cold = rows <= COLD_ROWS
    dense = _run("f32", weight, x, out, is_cold=is_cold)
    for density in DENSITIES:
        calls = {_DENSE: dense}
        for values, block in _PATTERNS.items():
            kept = matrices.pruned(weight, 1 - density, block)
            try:
                calls[values] = _run(values, kept, x, out, is_cold=is_cold)
            except AbsentError:  # this CPU, or this version, has no such form
                continue
        samples = harness.alternate(calls, rounds=rounds, is_hot=not is_cold)
        for values in calls:
            if values != _DENSE:
                found = harness.ratio(samples[_DENSE], samples[values]).median
                yield Point(values, rows, density, round(found, 4))


def _run(values: str, weight: F32, x: F32, out: F32, *, is_cold: bool) -> Callable[[], object]:
    form = linear.Form(values, (values,), "f32", "fma", linear.plain)
    panel, _ = linear.panel_of(form, weight)
    copies = harness.cold_layers(panel.nbytes) if is_cold else 1
    layers = [panel, *(linear.copied(panel) for _ in range(copies - 1))]
    return harness.rotation([panels.bind(layer, x, out) for layer in layers])
