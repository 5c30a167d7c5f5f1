"""Softmax attention over the keys that a pattern keeps: block-sparse, the pattern as data.

A pattern lists, for each block of queries, the blocks of keys that it sees, and for blocks seen in
part which query sees which key, one bit each; equal parts are stored once. Products with keys, the
softmax and the sums of values are computed for kept panels of 16 keys only. A query that keeps no
key gets zeros.

>>> pattern = local(100, 100, window=8, block=16)
>>> int(kept(pattern)[50].sum()), [int(s) for s in np.flatnonzero(kept(pattern)[0])][-1]
(17, 8)
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels import attention_plain
from kernels.arguments import CODES, FLOATS
from kernels.attention import COUNTS, F32, I8, NO_BIAS, by_row, check, complaint, of_threads
from kernels.jit import host_features
from kernels.registry import SIMD

Bools = NDArray[np.bool_]
Rule = Callable[[NDArray[np.int64], NDArray[np.int64]], Bools]
"""Which keys (a row of positions) queries (a column of positions) see, broadcast together."""
WORD = 16


@dataclass(frozen=True, eq=False)
class BlockPattern:
    """Which of ``keys`` keys each of ``rows`` queries sees, in blocks of ``block`` by ``block``.

    ``block`` is a multiple of 16. Query block i sees the key blocks ``columns[pointers[i] :
    pointers[i + 1]]``, ascending. ``which`` says for each of them: -1, all of it is seen, else the
    index of its part in ``masks (parts, block, block / 16)``, where bit j of word i of a row stands
    for key 16 i + j of the block. Blocks at the ends may reach past the last query and key.
    """

    rows: int
    keys: int
    block: int
    pointers: NDArray[np.int64]
    columns: NDArray[np.int32]
    which: NDArray[np.int32]
    masks: NDArray[np.uint16]


def from_rule(rows: int, keys: int, rule: Rule, *, block: int = 64) -> BlockPattern:
    """Pattern of the (query, key) pairs for which ``rule`` is true.

    Needs memory for ``block`` queries times ``keys``. ValueError for lengths below 1 and blocks
    that are no multiple of 16.

    >>> from_rule(32, 32, lambda t, s: t // 16 == s // 16, block=16).columns.tolist()
    [0, 1]
    """
    if rows < 1 or keys < 1 or block < WORD or block % WORD:
        raise ValueError(
            f"pattern: found {rows} queries, {keys} keys, blocks of {block}; expected lengths of "
            f"1 or more and a multiple of {WORD}"
        )
    across = -(-keys // block)
    positions = np.arange(keys, dtype=np.int64)[None, :]
    pointers, columns, which = [0], [], []
    parts: dict[bytes, int] = {}
    for t in range(0, rows, block):
        seen = np.zeros((block, across * block), bool)
        count = min(block, rows - t)
        seen[:count, :keys] = rule(np.arange(t, t + count, dtype=np.int64)[:, None], positions)
        for column in range(across):
            part = seen[:, column * block : (column + 1) * block]
            if not part.any():
                continue
            columns.append(column)
            if part[:count, : min(block, keys - column * block)].all():
                which.append(-1)
                continue
            words = np.packbits(part, axis=1, bitorder="little").tobytes()
            which.append(parts.setdefault(words, len(parts)))
        pointers.append(len(columns))
    masks = np.frombuffer(b"".join(parts), "<u2").astype(np.uint16)
    return BlockPattern(
        rows,
        keys,
        block,
        np.array(pointers, np.int64),
        np.array(columns, np.int32),
        np.array(which, np.int32),
        masks.reshape(len(parts), block, block // WORD),
    )


def local(
    rows: int, keys: int, *, window: int, causal: bool = False, block: int = 64
) -> BlockPattern:
    """Each query sees the keys at most ``window`` before or (not causal) behind its own place.

    Query t stands at key t + keys - rows, so the last query stands at the last key.
    """
    _at_least(0, "window", window)

    def rule(t: NDArray[np.int64], s: NDArray[np.int64]) -> Bools:
        apart = t + (keys - rows) - s
        return (apart <= window) & (apart >= (0 if causal else -window))

    return from_rule(rows, keys, rule, block=block)


def global_tokens(
    rows: int, keys: int, *, count: int, window: int, causal: bool = False, block: int = 64
) -> BlockPattern:
    """Like ``local``; besides, all see the first ``count`` keys and the first queries see all.

    Beltagy, Peters and Cohan 2020 (Longformer), section 3.1. Causal queries see no later keys.
    """
    _at_least(0, "count", count)
    _at_least(0, "window", window)

    def rule(t: NDArray[np.int64], s: NDArray[np.int64]) -> Bools:
        apart = t + (keys - rows) - s
        seen = (np.abs(apart) <= window) | (s < count) | (t < count)
        return seen & (apart >= 0) if causal else seen

    return from_rule(rows, keys, rule, block=block)


def strided(
    rows: int, keys: int, *, near: int, stride: int, causal: bool = False, block: int = 64
) -> BlockPattern:
    """Blocks at most ``near`` blocks away, and every block a multiple of ``stride`` blocks away.

    Child, Gray, Radford and Sutskever 2019 (Sparse Transformer), section 4.3, strided attention on
    blocks; not causal ones look both ways.
    """
    _at_least(0, "near", near)
    _at_least(1, "stride", stride)

    def rule(t: NDArray[np.int64], s: NDArray[np.int64]) -> Bools:
        place = t + (keys - rows)
        apart = place // block - s // block
        seen = (np.abs(apart) <= near) | (apart % stride == 0)
        return seen & (s <= place) if causal else seen

    return from_rule(rows, keys, rule, block=block)


def fixed(
    rows: int, keys: int, *, span: int, summary: int = 1, causal: bool = False, block: int = 64
) -> BlockPattern:
    """Blocks of the same span of ``span`` blocks, and the last ``summary`` blocks of every span.

    Child et al. 2019, section 4.3, fixed attention on blocks.
    """
    _at_least(0, "summary", summary)
    _at_least(max(1, summary), "span", span)

    def rule(t: NDArray[np.int64], s: NDArray[np.int64]) -> Bools:
        place = t + (keys - rows)
        query, key = place // block, s // block
        seen = (query // span == key // span) | (key % span >= span - summary)
        return seen & (s <= place) if causal else seen

    return from_rule(rows, keys, rule, block=block)


def custom(mask: Bools, *, block: int = 64) -> BlockPattern:
    """Pattern of a matrix (queries, keys) of what is seen; ValueError for other arrays."""
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(
            f"pattern: found a mask {mask.dtype} {mask.shape}, expected bool (queries, keys)"
        )
    rows, keys = mask.shape
    return from_rule(rows, keys, lambda t, s: mask[t, s], block=block)


def _at_least(least: int, name: str, value: int) -> None:
    if value < least:
        raise ValueError(f"pattern: found {name} {value}, expected at least {least}")


def kept(pattern: BlockPattern) -> Bools:
    """Matrix (queries, keys) of what is seen."""
    block, across = pattern.block, -(-pattern.keys // pattern.block)
    down = len(pattern.pointers) - 1
    seen = np.zeros((down * block, across * block), bool)
    for i in range(down):
        for j in range(pattern.pointers[i], pattern.pointers[i + 1]):
            at = pattern.columns[j] * block
            part = np.ones((block, block), bool)
            if pattern.which[j] >= 0:
                words = pattern.masks[pattern.which[j]].astype("<u2")
                part = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little").astype(bool)
            seen[i * block : (i + 1) * block, at : at + block] = part
    return seen[: pattern.rows, : pattern.keys]


def attention_blocks_f32(
    q: F32,
    k: F32,
    v: F32,
    scale: float,
    pattern: BlockPattern,
    out: F32,
    *,
    bias: F32 | None = None,
    threads: int = 1,
) -> None:
    """Write softmax(scale q k^T + bias) v over the kept keys into ``out (T, H * D)``.

    Arrays as in ``attention.attention_f32``; all heads share the pattern. For patterns of their
    own, call it with slices of heads and of columns of ``out``. ValueError says which shapes or
    strides do not fit, or that the pattern is broken or made for other lengths.
    """
    _refuse_lengths("attention_blocks_f32", pattern, q, k)
    check("attention_blocks_f32", FLOATS, q, k, v, out)
    more = NO_BIAS if bias is None else bias
    check("attention_blocks_f32", FLOATS, more)
    run = of_threads(_run_f32, threads)
    status = run(q, k, v, scale, more, *_data(pattern), out, threads)
    if status:
        raise ValueError(complaint("attention_blocks_f32", status, q, k, v, out, {"bias": more}))


def attention_blocks_i8(
    q: I8,
    q_scale: F32,
    k: I8,
    k_scale: F32,
    v: I8,
    v_scale: F32,
    scale: float,
    pattern: BlockPattern,
    out: F32,
    *,
    threads: int = 1,
) -> None:
    """Write attention on codes over the kept keys into ``out (T, H * D)``.

    Codes and scales as in ``attention.attention_i8``. What rounding a probability leaves goes to
    the key 32 places on among the keys of the panels that the query's group keeps.
    """
    _refuse_lengths("attention_blocks_i8", pattern, q, k)
    check("attention_blocks_i8", CODES, q, k, v)
    check("attention_blocks_i8", FLOATS, q_scale, k_scale, v_scale, out)
    q_scales, k_scales = by_row(q_scale), by_row(k_scale)
    run, data = of_threads(_run_i8, threads), _data(pattern)
    status = run(q, q_scales, k, k_scales, v, v_scale, scale, *data, out, threads)
    if status:
        others = {"scales": q_scale, "and": k_scale, "and ": v_scale}
        raise ValueError(complaint("attention_blocks_i8", status, q, k, v, out, others))


def _data(
    pattern: BlockPattern,
) -> tuple[int, NDArray[np.int64], NDArray[np.int32], NDArray[np.int32], NDArray[np.uint16]]:
    check("pattern", COUNTS, pattern.pointers)
    check("pattern", np.dtype(np.int32), pattern.columns, pattern.which)
    check("pattern", np.dtype(np.uint16), pattern.masks)
    return (pattern.block, pattern.pointers, pattern.columns, pattern.which, pattern.masks)


def _refuse_lengths(
    name: str, pattern: BlockPattern, q: NDArray[np.generic], k: NDArray[np.generic]
) -> None:
    if (
        np.ndim(q) != 3
        or np.ndim(k) != 3
        or (q.shape[1], k.shape[1]) != (pattern.rows, pattern.keys)
    ):
        raise ValueError(
            f"{name}: found q {q.shape}, k {k.shape} and a pattern of {pattern.rows} queries and "
            f"{pattern.keys} keys; expected q (H, queries, D) and k (H, keys, D)"
        )


_run_f32 = attention_plain.attention_blocks_f32
_run_i8 = attention_plain.attention_blocks_i8
if host_features().issuperset(SIMD):  # elsewhere the tiles do not even compile
    from kernels import attention_float, attention_integer

    _run_f32 = attention_float.attention_blocks_f32
    _run_i8 = attention_integer.attention_blocks_i8
