"""Cycles of a sequence of folds on the weight-stationary array, split so that they sum exactly.

The schedules are those that the register-transfer model of the array confirms: `serial` to the
cycle, `double_buffered` by the rule of ONNXim (Ham et al. 2024, `src/SystolicWS.cc`).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from hwmodels.architecture import ProcessingArray, Schedule
from hwmodels.dataflow import fold_count


@dataclass(frozen=True)
class Split:
    """Array cycles by what the array does.

    With R rows, C columns and M activation rows, one fold of the serial schedule takes
    `weight_load` R (weights shift down one row per cycle), `fill` R - 1 (the first activation row
    reaches the bottom of the array, nothing leaves yet), `compute` M (one result row leaves the
    first column per cycle) and `drain` C - 1 (the skewed rest leaves the other columns).

    Worked example, R = C = 2, M = 3: 2 + 1 + 3 + 1 = 7 = 2R + C + M - 2.
    """

    compute: int = 0
    fill: int = 0
    drain: int = 0
    weight_load: int = 0

    @property
    def total(self) -> int:
        """Cycles of all four."""
        return self.compute + self.fill + self.drain + self.weight_load

    def __add__(self, other: "Split") -> "Split":
        return Split(
            self.compute + other.compute,
            self.fill + other.fill,
            self.drain + other.drain,
            self.weight_load + other.weight_load,
        )


def stream(
    array: ProcessingArray, *, m: int, folds: int, is_first: bool = True, is_last: bool = True
) -> Split:
    """Return the cycles of `folds` folds that each stream `m` activation rows.

    `serial`: every fold takes 2R + C + M - 2 and nothing overlaps.

    `double_buffered`: the weights of the next fold shift in while this one streams, so fold after
    fold starts max(M, R) cycles apart: 2R + C + M - 2 + (F - 1) max(M, R) for F folds in all. Load
    and fill show once, at the first fold of a product (`is_first`), drain once, at its last
    (`is_last`), and M < R leaves R - M cycles of weight load per following fold uncovered. This is
    never slower than serial, because max(M, R) <= 2R + C + M - 2 for all R, C, M >= 1.

    Worked example, R = C = 2, M = 1, F = 3: load 2, fill 1, compute 3, uncovered load 2 x 1, drain
    1 = 9 = (4 + 2 + 1 - 2) + 2 x 2; serial takes 15.
    """
    rows, columns = array.rows, array.columns
    if array.schedule == "serial":
        return Split(folds * m, folds * (rows - 1), folds * (columns - 1), folds * rows)
    uncovered = (folds - 1 if is_last else folds) * max(0, rows - m)
    return Split(
        compute=folds * m,
        fill=rows - 1 if is_first else 0,
        drain=columns - 1 if is_last else 0,
        weight_load=uncovered + (rows if is_first else 0),
    )


def product(array: ProcessingArray, *, m_tiles: Iterable[int], n: int, k: int) -> Split:
    """Return the cycles of one product w[n, k] whose activation rows come in tiles `m_tiles`.

    With one tile this is the closed form of the schedule. More tiles load every weight once per
    tile: `double_buffered` hides that completely while each tile has at least R rows (the sum is
    then the closed form again), `serial` pays 2R + C - 2 per fold and further tile.
    """
    folds = fold_count(array.dataflow, n=n, k=k, rows=array.rows, columns=array.columns)
    sizes = list(m_tiles)
    total = Split()
    for index, m in enumerate(sizes):
        total += stream(
            array, m=m, folds=folds, is_first=index == 0, is_last=index == len(sizes) - 1
        )
    return total


def closed_form(schedule: Schedule, *, m: int, n: int, k: int, rows: int, columns: int) -> int:
    """Return the cycles of one untiled product by the formula of `schedule`, as published.

    `serial`: ceil(K/R) ceil(N/C) (2R + C + M - 2), equal to the register-transfer model; SCALE-Sim
    3 reports one cycle less. `double_buffered`: 2R + C + M - 2 + (F - 1) max(M, R).
    """
    folds = -(-k // rows) * -(-n // columns)
    one = 2 * rows + columns + m - 2
    return folds * one if schedule == "serial" else one + (folds - 1) * max(m, rows)
