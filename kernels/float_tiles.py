"""Register tiles of float matrix products on AVX2: 6 rows by 16 outputs, and 1 row by 64.

Every tile adds up the products of one output in the order of k, one fused multiply-add each from
zero, and adds the sum to what was there. So the result does not depend on which tile computes it:
not on the number of rows, and not on how rows and panels are shared among threads.
"""

from llvmlite import ir

from kernels.jit import compiled
from kernels.row_ops import copy_row
from kernels.simd import F32, F32X8, I32, I64, Value, Writer, constant, tile

WIDTH = 16
STREAMS = 4
"""Panels that one row reads side by side: a single stream leaves memory bandwidth unused."""
STEP_BLOCK = 256
"""Steps of k per block: a panel's 16 KiB stay in L1 with the activations of one tile."""
LONGEST_BLOCK = 384
"""A last block takes up to this many steps, so that none is very short."""
UNROLL = 4


def prefetch(w: Writer, address: Value) -> None:
    """Ask for the cache line at ``address`` in L2; an address outside of memory does no harm."""
    pointer = w.b.inttoptr(address, ir.IntType(8).as_pointer())
    w.call("llvm.prefetch.p0", ir.VoidType(), [pointer, I32(0), I32(2), I32(1)])


def _tile(rows: int, panels: int):
    """Make the tile out[r][0:16 panels] = start[r] + (sum over k of x[r][k] w[k]).

    ``start`` holds 16 numbers per panel and row: a bias with ``start_step`` 0, or the sums so far.
    Panels are ``panel_step`` bytes apart. At every fourth step the line at ``ahead`` is fetched,
    which then moves by ``ahead_step`` bytes.
    """
    vectors = 2 * panels

    def generate(
        w: Writer, x, x_step, panel, panel_step, steps, start, start_step, out, out_step,
        ahead, ahead_step,
    ) -> None:  # fmt: skip
        b = w.b
        row = [b.add(x, b.mul(x_step, I64(r))) for r in range(rows)]
        side = [b.add(panel, b.mul(panel_step, I64(p))) for p in range(panels)]
        whole = b.sdiv(steps, I64(UNROLL))

        def step(acc: list[Value], at_x: Value, at_w: Value, u: int) -> None:
            weights = [
                w.load(F32X8, b.add(one, at_w), 64 * u + 32 * j) for one in side for j in range(2)
            ]
            for r in range(rows):
                value = w.splat(w.load(F32, b.add(row[r], at_x), 4 * u), F32X8)
                for j in range(vectors):
                    acc[vectors * r + j] = w.fma(value, weights[j], acc[vectors * r + j])

        def body(i, *carried: Value):
            acc = list(carried)
            prefetch(w, b.add(ahead, b.mul(i, ahead_step)))
            for u in range(UNROLL):
                step(acc, b.mul(i, I64(4 * UNROLL)), b.mul(i, I64(64 * UNROLL)), u)
            return acc

        def rest(i, *carried: Value):
            acc = list(carried)
            k = b.add(i, b.mul(whole, I64(UNROLL)))
            step(acc, b.mul(k, I64(4)), b.mul(k, I64(64)), 0)
            return acc

        acc = w.loop(whole, [constant(F32X8, 0.0)] * (vectors * rows), body)
        acc = w.loop(b.srem(steps, I64(UNROLL)), acc, rest)
        for i, total in enumerate(acc):
            r, j = divmod(i, vectors)
            before = w.load(F32X8, b.add(start, b.mul(start_step, I64(r))), 32 * j)
            w.store(b.fadd(before, total), b.add(out, b.mul(out_step, I64(r))), 32 * j)

    return tile(11)(generate)


_tile_6, _tile_4, _tile_2, _tile_1 = (_tile(rows, 1) for rows in (6, 4, 2, 1))
_wide_1 = _tile(1, STREAMS)


@compiled
def block_steps(left):
    """Return the steps of the next block along k when ``left`` steps remain."""
    return left if left <= LONGEST_BLOCK else STEP_BLOCK


@compiled
def panel_rows(x, x_step, rows, panel, steps, start, start_step, out, out_step, ahead, ahead_bytes):
    """Run the tiles of one panel and one block along k over ``rows`` activation rows.

    Addresses and bytes from row to row, as in the tiles. Meanwhile ``ahead_bytes`` bytes from
    ``ahead`` are fetched into cache, spread evenly over the tiles.
    """
    share = ahead_bytes * 6 // (rows + 5)
    ahead_step = share * UNROLL // max(steps, UNROLL)
    t = 0
    while t < rows:
        a, s, y = x + t * x_step, start + t * start_step, out + t * out_step
        left = rows - t
        if left >= 6:
            _tile_6(a, x_step, panel, 0, steps, s, start_step, y, out_step, ahead, ahead_step)
            t += 6
        elif left >= 4:
            _tile_4(a, x_step, panel, 0, steps, s, start_step, y, out_step, ahead, ahead_step)
            t += 4
        elif left >= 2:
            _tile_2(a, x_step, panel, 0, steps, s, start_step, y, out_step, ahead, ahead_step)
            t += 2
        else:
            _tile_1(a, x_step, panel, 0, steps, s, start_step, y, out_step, ahead, ahead_step)
            t += 1
        ahead += share


@compiled
def panels_row(x, panel, panel_step, steps, start, out):
    """Run one activation row over ``STREAMS`` whole panels that lie ``panel_step`` bytes apart."""
    _wide_1(x, 0, panel, panel_step, steps, start, 0, out, 0, panel, 0)


@compiled
def copy_step(steps):
    """Return the bytes between copied rows: no power of two, so that they spread over L1's sets."""
    return (steps + 15) // 16 * 64 + 64


@compiled
def copy_block(x, x_step, rows, steps, copy):
    """Copy ``steps`` columns of all rows to ``copy``, ``copy_step(steps)`` bytes apart."""
    for r in range(rows):
        copy_row(x + r * x_step, copy + r * copy_step(steps), steps)
