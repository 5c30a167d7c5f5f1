"""Measure again, on this machine, the speeds by which sparse forms are chosen."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

import cosim.guard  # noqa: F401 (the check is the import)
from cosim import results
from cosim.bench import linear, matrices
from cosim.dispatch import Dispatch, cpu_name, kernels_hash
from cosim.errors import CosimError
from cosim.evaluate import Progress
from kernels import harness, panels
from kernels.harness import Call
from kernels.registry import Matrix, lookup
from kernels.sparse_speeds import DEFAULT_BREAK_EVEN, Speed

F32 = NDArray[np.float32]
STEPS, OUTPUTS = 512, 2048
ROUNDS = 7
COLD_ROWS = 8
"""Up to so many rows, those of decoding, the layers of a network take turns."""
COLD_LAYERS = 24
DENSE = "f32"
_BLOCKS = {"16x1": (16, 1), "8x1": (8, 1), "4x4": (4, 4)}


def calibrate(
    progress: Progress,
    *,
    rounds: int = ROUNDS,
    wanted: Sequence[Speed] = DEFAULT_BREAK_EVEN,
    sizes: tuple[int, int] = (STEPS, OUTPUTS),
) -> Dispatch:
    """Measure every entry of `wanted` that this CPU has a kernel for; `sizes` are k and n.

    One entry of the dense form itself, 1.0 by definition, is kept. Takes one to two minutes with
    the defaults.
    """
    usable = [
        row
        for row in wanted
        if row.values != DENSE and lookup("linear", values=row.values, activation=row.activation)
    ]
    if not usable:
        raise CosimError("calibrate: this CPU has no kernel to choose instead of the dense one")
    counts = sorted({row.rows for row in usable})
    progress.stage("calibrating the choice of kernels", total=len(counts))
    found: dict[tuple[str, str, int], dict[float, float]] = {}
    weight = matrices.gaussian(sizes[1], sizes[0], linear.SEED)
    for count in counts:
        mine = [row for row in usable if row.rows == count]
        for row, density, speed in _at_rows(weight, count, mine, rounds):
            found.setdefault((row.values, row.activation, count), {})[density] = speed
        progress.advance()
    table = [row for row in wanted if row.values == DENSE]
    table += [
        Speed(*key, tuple(measured.values()), tuple(measured)) for key, measured in found.items()
    ]
    return Dispatch(cpu_name(), kernels_hash(), results.now(), tuple(table))


def _at_rows(
    weight: F32, rows: int, wanted: Sequence[Speed], rounds: int
) -> Iterator[tuple[Speed, float, float]]:
    """Yield entry, density and speed; all entries of one density share an alternation."""
    x = matrices.activations(rows, weight.shape[1], linear.SEED)
    dense = _call(DENSE, "f32", weight, x)
    for density in sorted({density for row in wanted for density in row.densities}):
        mine = {(row.values, row.activation): row for row in wanted if density in row.densities}
        calls = {
            f"{values} {activation}": _call(values, activation, _kept(weight, values, density), x)
            for values, activation in mine
        }
        samples = harness.alternate({DENSE: dense, **calls}, rounds=rounds, is_hot=rows > COLD_ROWS)
        for (values, activation), row in mine.items():
            speed = harness.ratio(samples[DENSE], samples[f"{values} {activation}"]).median
            yield row, density, round(speed, 3)


def _kept(weight: F32, values: str, density: float) -> F32:
    """Prune to a density in the pattern that a form is made for."""
    if density == 1:
        return weight
    return matrices.pruned(weight, 1 - density, _BLOCKS.get(values.partition("_")[2], (1, 1)))


def _call(values: str, activation: str, weight: F32, x: F32) -> Call:
    kind = values.partition("_")[0]
    quantize: Callable[[F32], Matrix] = (
        linear.plain
        if kind == "f32"
        else partial(matrices.codes_by_row, bits=int(kind.removeprefix("i")))
    )
    form = linear.Form(values, (values,), activation, "", quantize)
    panel, _ = linear.panel_of(form, weight)
    given = matrices.quantized(x, activation)
    copies = COLD_LAYERS if len(x) <= COLD_ROWS else 1
    layers = [panel, *map(linear.copied, repeat(panel, copies - 1))]
    out = np.empty((x.shape[0], weight.shape[0]), np.float32)
    scale = given.scale if given.scale.size else None
    return harness.rotation([panels.bind(layer, given.x, out, x_scale=scale) for layer in layers])
