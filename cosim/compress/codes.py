"""Uniform quantisation of a weight: where its range ends, the steps between, the nearest codes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
from annotated_types import Gt, Le
from numpy.typing import NDArray

from cosim.compress.network import F32, I8, Weight

Scheme = Literal["symmetric", "asymmetric"]
FACTORS = tuple(np.linspace(1, 0.05, 20, dtype=np.float32))
"""Parts of the whole range that the search for the least squared error tries."""
BLOCK = 1 << 16
"""Weights whose error is computed together, to stay in cache."""
_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class Group:
    """A scale for each run of so many weights along the flattened row of an output channel."""

    group: Literal[32, 64, 128]


@dataclass(frozen=True)
class Percentile:
    """A range that holds this share of the magnitudes; what is beyond saturates."""

    percentile: Annotated[float, Gt(50), Le(100)]


Granularity = Literal["channel", "tensor"] | Group
Range = Literal["minmax", "mse"] | Percentile


class Grid(NamedTuple):
    """Steps of runs (r, length): scale float32 (r, 1), zero point int8 (r, 1) or None."""

    scale: F32
    zero: I8 | None


def quantized(
    values: F32,
    *,
    bits: int,
    granularity: Granularity = "channel",
    scheme: Scheme = "symmetric",
    reach: Range = "minmax",
) -> Weight:
    """Return codes of `values` and their scales: Oujabour et al. 2025, equation 1.

    Output channels are the first axis. Symmetric: scale = h / (2^(bits-1) - 1) with h the largest
    magnitude of a channel, tensor or group, code = rint(w / scale). Asymmetric: with l <= 0 <= h
    the ends of its values and 0, scale = (h - l) / (2^bits - 1), zero point = rint(-2^(bits-1) -
    l / scale), code = rint(w / scale) + zero point. The zero point is an integer, so 0 is exact
    (Jacob et al. 2018, section 2.1), and |w - value| <= scale / 2 for all weights in the range, up
    to float32 rounding. Rounds half to even. A range that is empty, or so small that its scale
    would not be a normal float32, has scale 1.

    `reach` narrows the range: a percentile of the magnitudes (symmetric) or of both tails
    (asymmetric), or what has the least squared error of `FACTORS` parts of the whole range. That
    search also tries the grid of the next coarser granularity, so that its error is never larger
    with finer granularity. `minmax` promises no more than that a step is never larger.

    Example:
        >>> weight = quantized(np.array([[1.2, -2.0]], np.float32), bits=4, granularity="tensor")
        >>> weight.table.tolist()
        [[4, -7]]
        >>> weight = quantized(np.array([[0.0, 3.0]], np.float32), bits=2, scheme="asymmetric")
        >>> weight.table.tolist(), weight.zero_point.tolist()
        ([[-2, 1]], [[-2]])

    """
    rows = values.reshape(len(values), -1)
    length = granularity.group if isinstance(granularity, Group) else max(1, rows.shape[1])
    coarser = None
    if reach == "mse" and granularity != "tensor":
        coarser = _grid(rows.reshape(1, -1), bits, scheme, reach)
        if isinstance(granularity, Group):
            coarser = _grid(rows, bits, scheme, reach, coarser)
    tables, scales, zeros = [], [], []
    for first, last in _columns(rows.shape[1], length):
        part = rows[:, first:last]
        count = max(1, (last - first) // length)
        runs = part.reshape((1, -1) if granularity == "tensor" else (len(rows) * count, -1))
        grid = _grid(runs, bits, scheme, reach, coarser)
        tables.append(_codes(runs, grid, bits).reshape(part.shape))
        scales.append(grid.scale.reshape(-1, count))
        zeros.append(None if grid.zero is None else grid.zero.reshape(-1, count))
    return Weight(
        np.concatenate(tables, axis=1).astype(np.int8).reshape(values.shape),
        bits,
        np.concatenate(scales, axis=1),
        length if isinstance(granularity, Group) and length < rows.shape[1] else 0,
        _joined(zeros),
    )


def _columns(count: int, length: int) -> Sequence[tuple[int, int]]:
    """Return the columns of whole runs, and those of the shorter run at the end."""
    whole = count - count % length
    return [span for span in ((0, whole), (whole, count)) if span[0] < span[1]] or [(0, count)]


def _joined(zeros: Sequence[I8 | None]) -> I8 | None:
    found = [zero for zero in zeros if zero is not None]
    return np.concatenate(found, axis=1) if found else None


def _grid(runs: F32, bits: int, scheme: Scheme, reach: Range, coarser: Grid | None = None) -> Grid:
    """Return the steps of each run."""
    low, high = _ends(runs, scheme, reach)
    best = _steps(low, high, bits, scheme)
    if reach != "mse":
        return best
    least = _squared_error(runs, best, bits)
    tried = [_steps(low * part, high * part, bits, scheme) for part in FACTORS[1:]]
    if coarser is not None:
        tried.append(_spread(coarser, len(runs)))
    for grid in tried:
        error = _squared_error(runs, grid, bits)
        better = (error < least)[:, np.newaxis]
        least = np.minimum(error, least)
        zero = None
        if best.zero is not None and grid.zero is not None:
            zero = np.where(better, grid.zero, best.zero)
        best = Grid(np.where(better, grid.scale, best.scale), zero)
    return best


def _spread(grid: Grid, runs: int) -> Grid:
    """Return the grid of a coarser granularity for each of its runs, which lie together."""
    times = runs // len(grid.scale)
    zero = None if grid.zero is None else np.repeat(grid.zero, times, axis=0)
    return Grid(np.repeat(grid.scale, times, axis=0), zero)


def _ends(runs: F32, scheme: Scheme, reach: Range) -> tuple[F32, F32]:
    """Return the ends (r, 1) of the range of each run; 0 is within."""
    percent = reach.percentile if isinstance(reach, Percentile) else 100.0
    if scheme == "symmetric":
        high = _percentile(np.abs(runs), percent)
        low = -high
    else:
        low = np.minimum(-_percentile(-runs, percent), 0)
        high = np.maximum(_percentile(runs, percent), 0)
    is_empty = high == low
    if percent < 100 and is_empty.any():  # most of it is zero: the rest is all there is
        whole = _ends(runs, scheme, "minmax")
        low, high = np.where(is_empty, whole[0], low), np.where(is_empty, whole[1], high)
    return low, high


def _percentile(runs: F32, percent: float) -> F32:
    """Return a percentile (r, 1) of the values of each run."""
    if runs.shape[1] == 0:
        return np.zeros((len(runs), 1), np.float32)
    if percent == 100:
        largest: F32 = runs.max(axis=1, keepdims=True)
        return largest
    found: F32 = np.percentile(runs, percent, axis=1, keepdims=True).astype(np.float32)
    return found


def _steps(low: F32, high: F32, bits: int, scheme: Scheme) -> Grid:
    """Return the scale, and the zero point, of ranges with these ends (r, 1)."""
    if scheme == "symmetric":
        scale = (high / np.float32(2 ** (bits - 1) - 1)).astype(np.float32)
        scale[scale < _TINY] = 1
        return Grid(scale, None)
    scale = ((high - low) / np.float32(2**bits - 1)).astype(np.float32)
    scale[scale < _TINY] = 1
    least = -(2 ** (bits - 1))
    zero = np.clip(np.rint(least - low / scale), least, -least - 1).astype(np.int8)
    return Grid(scale, zero)


def _codes(runs: F32, grid: Grid, bits: int) -> F32:
    """Return the nearest code of every weight as a float."""
    limit = 2 ** (bits - 1) - 1
    steps: F32 = np.rint(runs / grid.scale)
    lowest = -limit
    if grid.zero is not None:
        steps += grid.zero
        lowest -= 1
    np.clip(steps, lowest, limit, out=steps)
    return steps


def _squared_error(runs: F32, grid: Grid, bits: int) -> NDArray[np.float64]:
    """Return the summed squared error of each run, in float64."""
    errors = np.zeros(len(runs))
    rows = max(1, BLOCK // max(1, runs.shape[1]))
    for first in range(0, len(runs), rows):
        some = slice(first, first + rows)
        own = Grid(grid.scale[some], None if grid.zero is None else grid.zero[some])
        for column in range(0, runs.shape[1], BLOCK):
            part = runs[some, column : column + BLOCK]
            values = _codes(part, own, bits)
            if own.zero is not None:
                values -= own.zero
            values *= own.scale
            values -= part
            errors[some] += np.einsum("ij,ij->i", values, values, dtype=np.float64)
    return errors
