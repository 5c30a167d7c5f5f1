"""The weights and activations of the cases: quantised, pruned and packed as kernels take them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cosim.guard  # noqa: F401 (the check is the import)
from kernels.registry import Matrix

F32 = NDArray[np.float32]
I8 = NDArray[np.int8]
U8 = NDArray[np.uint8]
_SHRINKS = np.linspace(0.3, 1.0, 15, dtype=np.float32)


@dataclass(frozen=True)
class Codes:
    """Activations as a kernel takes them: ``x`` (rows, k or bytes) and a scale per row."""

    x: NDArray[Any]
    scale: F32


def gaussian(n: int, k: int, seed: int) -> F32:
    """Return weights (n, k) whose outputs have about the variance of the inputs."""
    generator = np.random.default_rng([seed, n, k])
    return generator.standard_normal((n, k), dtype=np.float32) / np.float32(np.sqrt(k))


def activations(rows: int, k: int, seed: int) -> F32:
    """Return activations (rows, k) of variance 1."""
    generator = np.random.default_rng([seed, rows, k, 1])
    return generator.standard_normal((rows, k), dtype=np.float32)


def codes_by_row(weight: F32, bits: int) -> Matrix:
    """Quantise with one symmetric scale per row, the best of 15 in squared error.

    Codes lie in [-(2**(bits-1) - 1), 2**(bits-1) - 1]. The largest value as the limit, the usual
    choice for 8 bits, would round most of a row to zero with 2 bits.
    """
    limit = 2 ** (bits - 1) - 1
    largest = np.abs(weight).max(axis=1, keepdims=True)
    scale, least = largest / limit, np.full((weight.shape[0], 1), np.inf, np.float32)
    for shrink in _SHRINKS:
        step = np.maximum(largest * shrink / limit, np.finfo(np.float32).tiny)
        error = weight - np.clip(np.rint(weight / step), -limit, limit) * step
        total = np.einsum("ij,ij->i", error, error)[:, np.newaxis]
        scale = np.where(total < least, step, scale)
        least = np.minimum(total, least)
    codes = np.clip(np.rint(weight / scale), -limit, limit).astype(np.int8)
    return Matrix(codes, np.ascontiguousarray(scale, np.float32), None, weight.shape[1])


def codes_by_group(weight: F32, bits: int, group: int) -> Matrix:
    """Quantise groups of columns between their extremes: a scale and an int8 zero point each.

    A code of two's complement stands for ``(code - zero_point) * scale``.
    """
    n, k = weight.shape
    if k % group:
        raise ValueError(f"codes_by_group: found {k} columns, expected a multiple of {group}")
    grouped = weight.reshape(n, k // group, group)
    low = np.minimum(grouped.min(axis=2), 0.0)
    high = np.maximum(grouped.max(axis=2), 0.0)
    least = -(2 ** (bits - 1))
    scale = np.maximum((high - low) / (2**bits - 1), np.finfo(np.float32).tiny)
    scale = scale.astype(np.float32)
    zero = np.clip(least - np.rint(low / scale), least, -least - 1)
    codes = np.rint(grouped / scale[..., np.newaxis]) + zero[..., np.newaxis]
    codes = np.clip(codes, least, -least - 1).astype(np.int8).reshape(n, k)
    return Matrix(codes, scale, zero.astype(np.int8), group)


def signs(weight: F32) -> Matrix:
    """One bit a weight, scale the mean magnitude of the row (Rastegari et al. 2016, eq. 6)."""
    scale = np.abs(weight).mean(axis=1, keepdims=True).astype(np.float32)
    return Matrix(np.where(weight >= 0, 1, -1).astype(np.int8), scale, None, weight.shape[1])


def pruned(weight: F32, sparsity: float, block: tuple[int, int] = (1, 1)) -> F32:
    """Set the blocks (outputs, columns) with the least sum of squares to zero.

    >>> pruned(np.array([[1.0, 3.0], [2.0, 4.0]], np.float32), 0.5).tolist()
    [[0.0, 3.0], [0.0, 4.0]]
    """
    n, k = weight.shape
    a, b = block
    if n % a or k % b:
        raise ValueError(f"pruned: found {n} x {k}, expected multiples of {a} x {b}")
    squares = np.square(weight).reshape(n // a, a, k // b, b).sum(axis=(1, 3))
    order = np.argsort(squares, axis=None, kind="stable")
    keep = np.ones(squares.size, np.bool_)
    keep[order[: round(sparsity * squares.size)]] = False
    mask = np.repeat(np.repeat(keep.reshape(squares.shape), a, axis=0), b, axis=1)
    return np.where(mask, weight, np.float32(0.0))


def pruned_n_of_m(weight: F32, n_kept: int, m: int) -> F32:
    """Keep the ``n_kept`` largest of every ``m`` consecutive columns of a row.

    >>> pruned_n_of_m(np.array([[1.0, -4.0, 3.0, 2.0]], np.float32), 2, 4).tolist()
    [[0.0, -4.0, 3.0, 0.0]]
    """
    n, k = weight.shape
    parts = weight.reshape(n, k // m, m)
    ranks = np.argsort(np.argsort(-np.abs(parts), axis=2, kind="stable"), axis=2, kind="stable")
    return np.where(ranks < n_kept, parts, np.float32(0.0)).reshape(n, k)


def value_range(activation: str) -> int:
    """Largest code of an integer activation: 127 for i8, 63 for i7."""
    return {"i8": 127, "i7": 63}[activation]


def level_of(x: F32) -> float:
    """Mean of the values that are not negative: what a bit 1 of ``u1`` is worth."""
    return float(x[x >= 0].mean())


def quantized(x: F32, activation: str) -> Codes:
    """Activations as a kernel of ``activation`` takes them, with a scale per row.

    ``i8`` and ``i7`` are codes of the largest magnitude of a row; ``b1`` are packed signs with the
    mean magnitude as scale, ``u1`` packed bits of values from zero on, worth ``level_of``.
    """
    if activation == "f32":
        return Codes(x, np.zeros(0, np.float32))
    if activation in {"i8", "i7"}:
        limit = value_range(activation)
        scale = (np.abs(x).max(axis=1) / limit).astype(np.float32)
        return Codes(np.rint(x / scale[:, np.newaxis]).astype(np.int8), scale)
    bits = x >= 0
    scale = np.abs(x).mean(axis=1)
    if activation == "u1":
        scale = np.full(x.shape[0], level_of(x), np.float32)
    packed: U8 = np.packbits(bits, axis=1, bitorder="little")
    return Codes(packed, scale.astype(np.float32))
