"""Integer weight codes as floats on AVX2: written out for many rows, in registers for one row.

Panels are those of ``kernels.quads``: step s of a quad lies in byte s of a 32-bit lane. It is
masked where it is, not shifted down, so that a weight comes out as ``(code - zero) * 2^(8 s)``; the
other factor, an activation or the scale, is made 2^(8 s) times smaller. Both are exact while that
factor is above 2^-102. (Byte 3 of 8-bit codes would be the sign, so that one is shifted down.)

Whole zero points are taken off as integers. A group with another zero point takes off the offset
of the stored codes first and then the zero point as float, so that the difference is rounded once.
"""

from collections.abc import Sequence

import numpy as np
from numba import float32

from kernels.jit import compiled
from kernels.simd import F32, F32X8, I8, I32, I32X8, I64, Value, Writer, constant, row_at, tile

QUAD = 4
SEGMENT = 64
"""Quads whose products are added up one after the other: it bounds the rounding error."""


def _place(step: int, bits: int) -> int:
    """Bit of a 32-bit lane at which the field of a step is left."""
    return 0 if bits == 8 and step == 3 else 8 * step


def _run_bytes(bits: int) -> int:
    """Bytes of one run: a quad, or with 2 bits two of them."""
    return 64 if bits == 8 else 32


def _run_quads(bits: int) -> int:
    return 2 if bits == 2 else 1


def _words(w: Writer, at: Value, bits: int) -> list[list[Value]]:
    """Two vectors (outputs 0 to 7, 8 to 15) per quad of a run: a byte per step, its low bits."""
    first = w.load(I32X8, at)
    if bits == 8:
        return [[first, w.load(I32X8, at, 32)]]
    shifts = (0, 4) if bits == 4 else (0, 2, 4, 6)
    words = [w.b.lshr(first, constant(I32X8, shift)) if shift else first for shift in shifts]
    return [words[i : i + 2] for i in range(0, len(words), 2)]


def _field(w: Writer, word: Value, step: int, bits: int) -> Value:
    """Field of one step, at its place."""
    if bits == 8 and step == 3:
        return w.b.lshr(word, constant(I32X8, 24))
    return w.b.and_(word, constant(I32X8, ((1 << bits) - 1) << _place(step, bits)))


class _Zeros:
    """Zero points of 16 outputs: whether all are small and whole, and what to take off."""

    def __init__(self, w: Writer, zeros: Value, offset: Value, bits: int) -> None:
        b = w.b
        values = [w.load(F32X8, zeros, 32 * h) for h in range(2)]
        # a difference must fit 31 bits at the highest place
        limit = constant(F32X8, 1024.0 if bits == 8 else 64.0)
        fits = [
            b.and_(
                b.fcmp_ordered("==", w.call("llvm.floor.v8f32", F32X8, [z]), z),
                b.fcmp_ordered("<=", w.call("llvm.fabs.v8f32", F32X8, [z]), limit),
            )
            for z in values
        ]
        lanes = b.bitcast(b.and_(*fits), I8)
        self.is_whole = b.icmp_unsigned("==", lanes, I8(255))
        stored = w.splat(offset, I32X8)
        whole = [b.add(stored, b.fptosi(z, I32X8)) for z in values]
        self._w, self.bits = w, bits
        self._places = [_place(s, bits) for s in range(QUAD)]
        self._whole = [self._shifted(z) for z in whole]
        self._offset = self._shifted(stored)
        self._parts = [
            [b.fmul(z, constant(F32X8, 2.0**place)) for place in self._places] for z in values
        ]

    def _shifted(self, value: Value) -> list[Value]:
        return [self._w.b.shl(value, constant(I32X8, place)) for place in self._places]

    def weight(self, word: Value, half: int, step: int, *, is_whole: bool) -> Value:
        """Return ``(code - zero) * 2^place`` of one step as float."""
        b = self._w.b
        field = _field(self._w, word, step, self.bits)
        if is_whole:
            return self._w.to_f32(b.sub(field, self._whole[half][step]))
        code = self._w.to_f32(b.sub(field, self._offset[step]))
        return b.fsub(code, self._parts[half][step])


def _widen(bits: int):
    """Make the tile target[k][0:16] = (code[k] - zero) * scale of some runs of one group.

    ``scale`` and ``zero`` are 16 float32 each.
    """
    size = _run_quads(bits) * QUAD * 64

    def generate(w: Writer, panel, runs, offset, scale, zero, target) -> None:
        b = w.b
        zeros = _Zeros(w, zero, b.trunc(offset, I32), bits)
        factors = [
            [
                b.fmul(w.load(F32X8, scale, 32 * h), constant(F32X8, 2.0 ** -_place(s, bits)))
                for s in range(QUAD)
            ]
            for h in range(2)
        ]

        def widen(i: Value, *, is_whole: bool) -> Sequence[Value]:
            at = b.add(target, b.mul(i, I64(size)))
            found = _words(w, b.add(panel, b.mul(i, I64(_run_bytes(bits)))), bits)
            for q, words in enumerate(found):
                for h in range(2):
                    for s in range(QUAD):
                        weight = zeros.weight(words[h], h, s, is_whole=is_whole)
                        value = b.fmul(weight, factors[h][s])
                        w.store(value, at, (QUAD * q + s) * 64 + 32 * h)
            return []

        none = I64(0)
        w.loop(b.select(zeros.is_whole, runs, none), [], lambda i: widen(i, is_whole=True))
        w.loop(b.select(zeros.is_whole, none, runs), [], lambda i: widen(i, is_whole=False))

    return tile(6)(generate)


_widen_8, _widen_4, _widen_2 = (_widen(bits) for bits in (8, 4, 2))


@compiled
def widen_steps(panel, bits, quads, offset, scale, zero, target):
    """Write weights ``[4 quads][16]`` of one group from the quad at ``panel`` on.

    With 2 bits ``panel`` is the first of a pair of quads, and a last half pair is written in full.
    """
    if bits == 8:
        _widen_8(panel, quads, offset, scale, zero, target)
    elif bits == 2:
        _widen_2(panel, (quads + 1) // 2, offset, scale, zero, target)
    else:
        _widen_4(panel, quads, offset, scale, zero, target)


# --- one row ------------------------------------------------------------------------------------


@compiled
def spread_row(x, k, group, padded, bits, target):
    """Copy a row as ``code_row`` reads it: made smaller by the place of the step in a quad.

    Every group is padded with zeros to ``padded`` steps.
    """
    source = row_at(x, k, np.float32)
    groups = (k + group - 1) // group
    to = row_at(target, groups * padded, np.float32)
    last = float32(1.0) if bits == 8 else float32(2.0**-24)
    for g in range(groups):
        count, t, s = min(group, k - g * group), g * padded, g * group
        for q in range(0, count // 4 * 4, 4):
            to[t + q] = source[s + q]
            to[t + q + 1] = source[s + q + 1] * float32(2.0**-8)
            to[t + q + 2] = source[s + q + 2] * float32(2.0**-16)
            to[t + q + 3] = source[s + q + 3] * last
        for i in range(count // 4 * 4, padded):
            factor = float32(2.0 ** (-8 * (i % 4)))  # (the last step of a quad is not here)
            to[t + i] = source[s + i] * factor if i < count else float32(0.0)


def _smaller(w: Writer, a: Value, c: Value) -> Value:
    return w.b.select(w.b.icmp_signed("<", a, c), a, c)


def _add_run(
    w: Writer, zero: _Zeros, x, panel, quad, carried: Sequence[Value], *, is_whole: bool
) -> list[Value]:
    """Add the products of the run of bytes at ``quad`` to sums by half and step of a quad."""
    b, bits, acc = w.b, zero.bits, list(carried)
    at = b.add(x, b.mul(quad, I64(QUAD * 4)))
    run_at = b.add(panel, b.mul(quad, I64(_run_bytes(bits) // _run_quads(bits))))
    for q, words in enumerate(_words(w, run_at, bits)):
        for step in range(QUAD):
            value = w.splat(w.load(F32, at, 4 * (QUAD * q + step)), F32X8)
            for h in range(2):
                weight = zero.weight(words[h], h, step, is_whole=is_whole)
                acc[QUAD * h + step] = w.fma(weight, value, acc[QUAD * h + step])
    return acc


def _row_tile(bits: int):
    """Make the tile sums[0:16] = sum over groups of scale (sum over k of (code - zero) x[k]).

    ``run`` quads make a group, the last one ends at ``quads``. Scales are 16 float32 per group;
    zero points too, ``zeros_step`` bytes from group to group. Products of each step of a quad are
    added up apart, over SEGMENT quads.
    """

    def generate(
        w: Writer, x, panel, quads, run, scales, zeros, zeros_step, offset, sums
    ) -> None:  # fmt: skip
        b = w.b
        stored = b.trunc(offset, I32)

        def smaller(a: Value, c: Value) -> Value:
            return b.select(b.icmp_signed("<", a, c), a, c)

        def group(g, *total: Value):
            first = b.mul(g, run)
            count = _smaller(w, run, b.sub(quads, first))
            zero = _Zeros(w, b.add(zeros, b.mul(g, zeros_step)), stored, bits)

            def segment(s, *part: Value):
                start = b.add(first, b.mul(s, I64(SEGMENT)))
                left = b.sub(count, b.mul(s, I64(SEGMENT)))

                runs = b.sdiv(_smaller(w, left, I64(SEGMENT)), I64(_run_quads(bits)))
                acc = [constant(F32X8, 0.0)] * (2 * QUAD)
                for is_whole in (True, False):

                    def multiply(i, *carried: Value, is_whole=is_whole):
                        quad = b.add(start, b.mul(i, I64(_run_quads(bits))))
                        return _add_run(w, zero, x, panel, quad, carried, is_whole=is_whole)

                    mine = (runs, I64(0)) if is_whole else (I64(0), runs)
                    acc = w.loop(b.select(zero.is_whole, *mine), acc, multiply)
                found = [
                    b.fadd(b.fadd(acc[j], acc[j + 1]), b.fadd(acc[j + 2], acc[j + 3]))
                    for j in (0, QUAD)
                ]
                return [b.fadd(one, more) for one, more in zip(part, found, strict=True)]

            segments = b.sdiv(b.add(count, I64(SEGMENT - 1)), I64(SEGMENT))
            part = w.loop(segments, [constant(F32X8, 0.0)] * 2, segment)
            at = b.add(scales, b.mul(g, I64(64)))
            factors = [w.load(F32X8, at, 32 * h) for h in range(2)]
            return [w.fma(*three) for three in zip(part, factors, total, strict=True)]

        groups = b.sdiv(b.add(quads, b.sub(run, I64(1))), run)
        for h, total in enumerate(w.loop(groups, [constant(F32X8, 0.0)] * 2, group)):
            w.store(total, sums, 32 * h)

    return tile(9)(generate)


_row_8, _row_4, _row_2 = (_row_tile(bits) for bits in (8, 4, 2))


@compiled
def code_row(x, panel, bits, quads, run, scales, zeros, zeros_step, offset, sums):
    """Write the 16 sums of one panel and one spread row, as the tiles say."""
    if bits == 8:
        _row_8(x, panel, quads, run, scales, zeros, zeros_step, offset, sums)
    elif bits == 2:
        _row_2(x, panel, quads, run, scales, zeros, zeros_step, offset, sums)
    else:
        _row_4(x, panel, quads, run, scales, zeros, zeros_step, offset, sums)
