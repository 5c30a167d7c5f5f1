"""Vector loops of the norms: sums, deviations, and the affine maps that use them.

All arguments are addresses of float32, bytes between rows (``step``) and numbers of elements.
"""

from typing import Any

from kernels.mathematics import FUSE
from kernels.row_tiles import WIDE, splat, sum_fold, sweep
from kernels.simd import F32, I64, Value, Writer, tile


@tile(3)
def row_sum(w: Writer, source, total, count) -> None:
    """Tile: write the sum of ``count`` numbers to ``total``."""

    def step(kind, offset, so_far):
        return [w.b.fadd(so_far, w.load(kind, w.b.add(source, offset)))]

    (found,) = sweep(w, count, [sum_fold(w)], step, widths=WIDE)
    w.store(found, total)


@tile(4)
def row_deviations(w: Writer, source, centre, total, count) -> None:
    """Tile: write the sums of x - centre and of its square, two numbers, to ``total``."""
    b = w.b
    middle = w.load(F32, centre)

    def step(kind, offset, near, far):
        part = b.fsub(w.load(kind, b.add(source, offset)), splat(w, middle, kind))
        return [b.fadd(near, part), _fused(w, part, part, far)]

    near, far = sweep(w, count, [sum_fold(w), sum_fold(w)], step, widths=WIDE)
    w.store(near, total)
    w.store(far, total, 4)


def _column_sums(rows: int) -> Any:
    """Make the tile (source, step, sums, count): add each column of ``rows`` rows to its sum."""

    def generate(w: Writer, source, step, sums, count) -> None:
        b = w.b

        def one(kind, offset):
            total = w.load(kind, b.add(sums, offset))
            for r in range(rows):
                at = b.add(b.add(source, offset), b.mul(step, I64(r)))
                total = b.fadd(total, w.load(kind, at))
            w.store(total, b.add(sums, offset))
            return []

        sweep(w, count, [], one)

    return tile(4)(generate)


def _column_deviations(rows: int) -> Any:
    """Make the tile (source, step, centre, near, far, count).

    It adds x - centre of each column of ``rows`` rows to ``near`` and its square to ``far``.
    """

    def generate(w: Writer, source, step, centre, near, far, count) -> None:
        b = w.b

        def one(kind, offset):
            middle = w.load(kind, b.add(centre, offset))
            first, second = w.load(kind, b.add(near, offset)), w.load(kind, b.add(far, offset))
            for r in range(rows):
                at = b.add(b.add(source, offset), b.mul(step, I64(r)))
                part = b.fsub(w.load(kind, at), middle)
                first, second = b.fadd(first, part), _fused(w, part, part, second)
            w.store(first, b.add(near, offset))
            w.store(second, b.add(far, offset))
            return []

        sweep(w, count, [], one)

    return tile(6)(generate)


column_sums_4, column_sums_1 = _column_sums(4), _column_sums(1)
column_deviations_4, column_deviations_1 = _column_deviations(4), _column_deviations(1)


@tile(6)
def normal_row(w: Writer, source, moments, gamma, beta, target, count) -> None:
    """Tile: (x - mean) * factor * gamma + beta; ``moments`` holds mean and factor."""
    b = w.b
    mean, factor = w.load(F32, moments), w.load(F32, moments, 4)

    def step(kind, offset):
        value = b.fsub(w.load(kind, b.add(source, offset)), splat(w, mean, kind))
        value = b.fmul(value, splat(w, factor, kind))
        value = _fused(
            w, value, w.load(kind, b.add(gamma, offset)), w.load(kind, b.add(beta, offset))
        )
        w.store(value, b.add(target, offset))
        return []

    sweep(w, count, [], step)


@tile(4)
def affine_row(w: Writer, source, numbers, target, count) -> None:
    """Tile: (x - a) * b + c for a whole row; ``numbers`` holds a, b and c."""
    b = w.b
    centre, factor, shift = (w.load(F32, numbers, 4 * i) for i in range(3))

    def step(kind, offset):
        value = b.fsub(w.load(kind, b.add(source, offset)), splat(w, centre, kind))
        value = _fused(w, value, splat(w, factor, kind), splat(w, shift, kind))
        w.store(value, b.add(target, offset))
        return []

    sweep(w, count, [], step)


@tile(6)
def affine_columns(w: Writer, source, centre, factor, shift, target, count) -> None:
    """Tile: (x - centre) * factor + shift, each of the three a row as long as the source."""
    b = w.b

    def step(kind, offset):
        value, middle, times, plus = (
            w.load(kind, b.add(at, offset)) for at in (source, centre, factor, shift)
        )
        w.store(_fused(w, b.fsub(value, middle), times, plus), b.add(target, offset))
        return []

    sweep(w, count, [], step)


def _fused(w: Writer, a: Value, factor: Value, addend: Value) -> Value:
    return w.b.fadd(w.b.fmul(a, factor, flags=FUSE), addend, flags=FUSE)
