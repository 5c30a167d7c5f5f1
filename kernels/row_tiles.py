"""Loops over rows of float32 as explicit vectors, written once for vectors and for what is left.

A step is written for any number of lanes: a vector of several registers for the bulk of a row, and
one plain number for its end. Reading and writing the same memory is fine, as every step loads what
it needs before it stores; lanes keep their order, so results are the same on every run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from kernels.simd import F32, I8, I32, I64, Value, Writer, constant, tile

Step = Callable[..., Sequence[Value]]
LANES = 8
"""float32 in a vector register of AVX2."""
WIDE = (32, LANES, 1)
"""Widths of a sweep that folds (four registers of sums hide the latency of an addition) or that
stores bytes (32 fill a register)."""


@dataclass(frozen=True)
class Fold:
    """A value carried through a row: what it is for no elements, and how two of them combine."""

    nothing: float
    combine: Callable[[Value, Value], Value]


def sum_fold(w: Writer) -> Fold:
    """Fold lanes into their sum, added pairwise at the end."""
    return Fold(0.0, w.b.fadd)


def vector(lanes: int) -> ir.Type:
    """Type of ``lanes`` float32: a plain float32 for 1."""
    return F32 if lanes == 1 else ir.VectorType(F32, lanes)


def splat(w: Writer, scalar: Value, kind: ir.Type) -> Value:
    """Value of ``kind`` with ``scalar`` in every lane."""
    if not isinstance(kind, ir.VectorType):
        return scalar
    empty = ir.Constant(kind, ir.Undefined)
    first = w.b.insert_element(empty, scalar, I32(0))
    zeros = ir.Constant(ir.VectorType(I32, kind.count), [0] * kind.count)
    return w.b.shuffle_vector(first, empty, zeros)


def sweep(
    w: Writer,
    count: Value,
    folds: Sequence[Fold],
    step: Step,
    *,
    widths: Sequence[int] = (LANES, 1),
) -> list[Value]:
    """Run ``step(kind, offset, *carried)`` over ``count`` float32; return what was folded.

    ``kind`` is the type of the lanes of this step and ``offset`` their place in bytes. The step
    returns the carried values; each width of ``widths`` (the last is 1) takes what is left by the
    one before.
    """
    b = w.b
    totals = [F32(fold.nothing) for fold in folds]
    done: Value = I64(0)
    for lanes in widths:
        kind = vector(lanes)
        blocks = b.sdiv(b.sub(count, done), I64(lanes))
        start = [constant(kind, fold.nothing) for fold in folds]

        def body(i, *carried: Value, kind=kind, lanes=lanes, done=done) -> Sequence[Value]:
            return step(kind, b.mul(b.add(done, b.mul(i, I64(lanes))), I64(4)), *carried)

        found = w.loop(blocks, start, body)
        if lanes > 1:
            found = [
                w.reduce(value, fold.combine) for value, fold in zip(found, folds, strict=True)
            ]
        totals = [
            fold.combine(total, value)
            for fold, total, value in zip(folds, totals, found, strict=True)
        ]
        done = b.add(done, b.mul(blocks, I64(lanes)))
    return totals


def map_tile(function: Callable[[Writer, Value], Value]) -> Any:
    """Make the tile (source, target, count): target[i] = function(source[i])."""

    def generate(w: Writer, source, target, count) -> None:
        def step(kind, offset) -> Sequence[Value]:
            value = function(w, w.load(kind, w.b.add(source, offset)))
            w.store(value, w.b.add(target, offset))
            return []

        sweep(w, count, [], step)

    return tile(3)(generate)


def zip_tile(function: Callable[[Writer, Value, Value], Value]) -> Any:
    """Make the tile (first, second, target, count): target[i] = function(first[i], second[i])."""

    def generate(w: Writer, first, second, target, count) -> None:
        def step(kind, offset) -> Sequence[Value]:
            a, c = w.load(kind, w.b.add(first, offset)), w.load(kind, w.b.add(second, offset))
            w.store(function(w, a, c), w.b.add(target, offset))
            return []

        sweep(w, count, [], step)

    return tile(4)(generate)


def codes_tile(function: Callable[[Writer, Value, Value], Value]) -> Any:
    """Make the tile (source, factor, codes, count): codes[i] = function(source[i], factor).

    ``factor`` is the address of one float32 and the function returns int32 lanes, of which the low
    byte is stored.
    """

    def generate(w: Writer, source, factor, codes, count) -> None:
        b = w.b
        number = w.load(F32, factor)

        def step(kind, offset) -> Sequence[Value]:
            value = function(w, w.load(kind, b.add(source, offset)), splat(w, number, kind))
            lanes = isinstance(kind, ir.VectorType)
            bytes_ = b.trunc(value, ir.VectorType(I8, kind.count) if lanes else I8)
            w.store(bytes_, b.add(codes, b.sdiv(offset, I64(4))))
            return []

        sweep(w, count, [], step, widths=WIDE)

    return tile(4)(generate)
