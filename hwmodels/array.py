"""Cycles of a sequence of folds on the array, split so that they sum exactly.

Every dataflow, schedule and drain here is equal, to the cycle, to the register-transfer model in
tests/rtl; `hwmodels.rtl_checked` lists what was compared. With R rows, C columns and folds that
each pass L elements through the array, one fold takes

    weight or input stationary   R load + (R - 1) fill + L compute + (C - 1) drain
    output stationary            (R + C - 2) fill + L compute + R drain, or 0 without drain

`serial` folds follow one another; of `double_buffered` ones each starts max(L, R) after the one
before, as the next operand shifts in, or the results before shift out, beside the computing. An
array inside a processor core takes the cycles of its instructions, see `hwmodels.tightly_coupled`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hwmodels.architecture import Drain, ProcessingArray, Schedule
from hwmodels.dataflow import DATAFLOWS, fold_count, fold_length
from hwmodels.tightly_coupled import tile_phases


@dataclass(frozen=True)
class Split:
    """Array cycles by what the array does.

    `weight_load` is the time in which the operand that stays shifts in, one row per cycle (in
    `input_stationary` that operand is the activations), `fill` the time from the first element in
    to the first result, `compute` one cycle per element that passes, and `drain` the rest until
    the last result is out.

    Worked example, weight stationary, R = C = 2, M = 3: 2 + 1 + 3 + 1 = 7 = 2R + C + M - 2.
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

    def times(self, number: int) -> "Split":
        """Return the cycles of `number` such pieces one after the other."""
        return Split(
            self.compute * number,
            self.fill * number,
            self.drain * number,
            self.weight_load * number,
        )


def stream(
    array: ProcessingArray, *, m: int, folds: int, is_first: bool = True, is_last: bool = True
) -> Split:
    """Return the cycles of `folds` folds that each pass `m` elements through the array.

    `m` is the length in time of the array's dataflow: activation rows when weights stay, weight
    columns when activations stay, terms of the sum when results stay.

    `serial`: every fold takes what one fold takes and nothing overlaps.

    `double_buffered`: fold after fold starts max(L, R) cycles apart. Load and fill show once, at
    the first fold of a product (`is_first`), drain once, at its last (`is_last`); L < R leaves
    R - L cycles per following fold uncovered, of weight load, or of drain where results stay.
    Without drain nothing waits and folds start L apart. This is never slower than serial, because
    max(L, R) is at most what one fold takes for all R, C, L >= 1.

    Worked example, weight stationary, R = C = 2, M = 1, F = 3: load 2, fill 1, compute 3, uncovered
    load 2 x 1, drain 1 = 9 = (4 + 2 + 1 - 2) + 2 x 2; serial takes 15.
    """
    if folds == 0:
        return Split()
    one, way_out = _single(array, m)
    if array.schedule == "serial":
        return one.times(folds)
    waits, length = folds - 1 if is_last else folds, one.compute
    return Split(
        compute=folds * length,
        fill=one.fill if is_first else 0,
        drain=(one.drain if is_last else 0) + waits * max(0, way_out - length),
        weight_load=(one.weight_load if is_first else 0) + waits * max(0, one.weight_load - length),
    )


def _single(array: ProcessingArray, words: int) -> tuple[Split, int]:
    """Return the cycles of one fold alone, and for how long its results keep others from theirs.

    A word takes the beats of the array's pace to pass, a row of words that stay those of its load.
    """
    rows, columns, pace = array.rows, array.columns, array.pace
    if array.coupling is not None:
        core = tile_phases(rows, array.coupling, m=words)
        return Split(core.compute, core.fill, core.addition, core.weight_load), 0
    length = words * pace.beats
    if array.dataflow == "output_stationary":
        way_out = rows if array.drain == "shift_out" else 0
        return Split(compute=length, fill=rows + columns - 2, drain=way_out), way_out
    load = shift_in_cycles(array)
    return Split(compute=length, fill=rows - 1, drain=columns - 1, weight_load=load), 0


def shift_in_cycles(array: ProcessingArray) -> int:
    """Return the cycles in which the operand of one fold that stays shifts in.

    A row takes the load beats of the array's pace. All takes longer where indices are not decoded
    as fast: one per column that is kept, or (`nm`) one per cell.

    Example:
        >>> from hwmodels.architecture import SparseUnit
        >>> unit = SparseUnit(decoded_per_cycle=4, kept=2, run=4)
        >>> shift_in_cycles(ProcessingArray(8, 16, 1e9, sparsity="nm", sparse_unit=unit))
        32

    """
    cycles, unit = array.rows * array.pace.load_beats, array.sparse_unit
    if unit is None or unit.decoded_per_cycle is None:
        return cycles
    wide = -(-array.columns // unit.decoded_per_cycle)
    indices = {"nm": array.rows * wide, "column_compact": wide}
    return max(cycles, indices.get(array.sparsity, 0))


def fold(
    array: ProcessingArray,
    *,
    m: int,
    n: int,
    k: int,
    is_first: bool = True,
    is_last: bool = True,
    occupied: int | None = None,
) -> Split:
    """Return the cycles of one block result[m, n] over k, all its folds in a row.

    `occupied` is how many of its folds hold a weight that is not zero, where the array passes over
    the others (`skip_zero_fold`); by default all of them. A fold that is passed over takes no
    cycle. `k` counts words of packed operands, see `packed_depth`.

    Example:
        >>> chip = ProcessingArray(rows=2, columns=2, clock_hz=1e9, schedule="serial")
        >>> fold(chip, m=3, n=5, k=4).total, fold(chip, m=3, n=5, k=4, occupied=1).total
        (42, 7)

    """
    folds = fold_count(array.dataflow, m=m, n=n, k=k, rows=array.rows, columns=array.columns)
    *before, (last, _) = _passes(array, fold_length(array.dataflow, m=m, n=n, k=k))
    if occupied is not None and not before:
        folds = occupied
    total = stream(array, m=last, folds=folds, is_first=is_first and not before, is_last=is_last)
    for length, times in before:
        total += stream(array, m=length, folds=folds * times, is_first=is_first, is_last=False)
    return total


def product(
    array: ProcessingArray, *, m_tiles: Sequence[int], n_tiles: Sequence[int], chunks: Sequence[int]
) -> Split:
    """Return the cycles of one product w[n, k] cut into tiles of rows and of columns.

    `chunks` are the parts of the sum behind each of which results leave their cells, one of k terms
    where they do so only once.

    With one tile of each this is the closed form of the schedule. Where weights stay, more tiles of
    rows load every weight once per tile: `double_buffered` hides that completely while each tile
    has at least R rows (the sum is then the closed form again), `serial` pays 2R + C - 2 per fold
    and further tile; likewise tiles of columns where activations stay. Tiles of a whole number of
    folds cost nothing.
    """
    sizes, flow = {"m": m_tiles, "n": n_tiles, "k": chunks}, DATAFLOWS[array.dataflow]
    blocks = _blocks(sizes[flow.rows], array.rows) * _blocks(sizes[flow.columns], array.columns)
    folds: dict[int, int] = {}  # by the elements that pass
    last = 0
    for size in sizes[flow.time]:
        for last, times in _passes(array, size):
            folds[last] = folds.get(last, 0) + times * blocks
    total = stream(array, m=last, folds=folds.pop(last), is_first=False)
    for length, number in folds.items():
        total += stream(array, m=length, folds=number, is_first=False, is_last=False)
    if array.schedule == "double_buffered":
        one, _ = _single(array, 1)
        total += Split(fill=one.fill, weight_load=one.weight_load)
    return total


def _passes(array: ProcessingArray, size: int) -> tuple[tuple[int, int], ...]:
    """Return what passes through the array in a block: elements at a time, and how many times.

    Where results stay, they leave their cells after every scale group; the last may be shorter.
    """
    group = array.pace.group
    if array.dataflow == "output_stationary" and 0 < group < size:
        return (group, (size - 1) // group), (size % group or group, 1)
    return ((size, 1),)


def _blocks(sizes: Sequence[int], width: int) -> int:
    """Return into how many blocks of a `width` all parts of a dimension fall."""
    return sum([-(-size // width) for size in sizes])


def closed_form(
    schedule: Schedule,
    *,
    m: int,
    n: int,
    k: int,
    rows: int,
    columns: int,
    dataflow: str = "weight_stationary",
    drain: Drain = "shift_out",
    occupied: int | None = None,
) -> int:
    """Return the cycles of one untiled product by the formula of `schedule`, in one line each.

    `serial`: F folds of 2R + C + L - 2, F as the dataflow makes them and L its length in time;
    R + C + K - 2 where results stay and need no drain. `double_buffered`: one fold and F - 1 times
    max(L, R), or L without drain. Both equal the register-transfer model.

    Example:
        >>> shape = {"m": 499, "n": 768, "k": 768, "rows": 128, "columns": 128}
        >>> closed_form("serial", **shape), closed_form("double_buffered", **shape)
        (31716, 18346)

    """
    folds = fold_count(dataflow, m=m, n=n, k=k, rows=rows, columns=columns)
    length = fold_length(dataflow, m=m, n=n, k=k)
    is_drained = dataflow != "output_stationary" or drain == "shift_out"
    one = (2 * rows if is_drained else rows) + columns + length - 2
    apart = max(length, rows) if is_drained else length
    folds = folds if occupied is None else occupied
    if folds == 0:
        return 0
    return folds * one if schedule == "serial" else one + (folds - 1) * apart


def macs_per_cell(a_bits: int, w_bits: int) -> int:
    """Return how many products a cell built of sixteen 2 x 2 bit multipliers makes per cycle.

    64 / (a_bits x w_bits) for widths of 2, 4 and 8 (Sharma et al. 2018, Bit Fusion).
    Raises ValueError for other widths.

    Example:
        >>> macs_per_cell(8, 8), macs_per_cell(8, 4), macs_per_cell(4, 4), macs_per_cell(2, 2)
        (1, 2, 4, 16)

    """
    for name, bits in (("a_bits", a_bits), ("w_bits", w_bits)):
        if bits not in (2, 4, 8):
            raise ValueError(f"{name}: found {bits}, expected 2, 4 or 8")
    return 64 // (a_bits * w_bits)


def packed_depth(k: int, per_cell: int) -> int:
    """Return the words that hold k operands side by side, `per_cell` to a word.

    A cell that multiplies several pairs per cycle takes them along k and adds them, so that the
    array behaves as one of k / per_cell terms.

    Example:
        >>> packed_depth(499, 4)
        125

    """
    return -(-k // per_cell)
