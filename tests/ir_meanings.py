"""What each op on floats means, in plain numpy: the table of `ir_interpreter`.

Computed in float64 from the definitions and rounded once to float32.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cosim import expr
from cosim.ir import Op
from cosim.patterns import from_text

Array = NDArray[np.generic]


def number(op: Op, name: str) -> float:
    return float(str(op.attribute(name)))


def windows(op: Op, x: Array, taps: int) -> Array:
    """Return x (batch, channels, length) as rows (batch, frames, channels * taps)."""
    padding, stride = op.integer("padding"), op.integer("stride")
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding)))
    starts = range(0, padded.shape[2] - taps + 1, stride)
    rows = [padded[:, :, start : start + taps].reshape(len(x), -1) for start in starts]
    return np.stack(rows, axis=1)


def _linear(_op: Op, operands: list[Array]) -> Array:
    x, weight, *bias = operands
    y = x.astype(np.float64) @ weight.astype(np.float64).T
    return (y + bias[0] if bias else y).astype(np.float32)


def _conv1d(op: Op, operands: list[Array]) -> Array:
    x, weight, *bias = operands
    groups = op.get("groups", 1)
    parts = [
        _linear(op, [windows(op, part, weight.shape[2]), filters.reshape(len(filters), -1)])
        for part, filters in zip(
            np.split(x, groups, axis=1), np.split(weight, groups, axis=0), strict=True
        )
    ]
    y = np.concatenate(parts, axis=2).astype(np.float64)
    return (y + bias[0] if bias else y).astype(np.float32).transpose(0, 2, 1)


def _conv2d(op: Op, operands: list[Array]) -> Array:
    """Sum over the taps of both axes, one tap at a time."""
    x, weight, *bias = operands
    padding, stride, groups = op.integer("padding"), op.integer("stride"), op.get("groups", 1)
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), *[(padding, padding)] * 2))
    filters, depth, high, wide = weight.shape
    rows = (x.shape[2] - high) // stride + 1
    columns = (x.shape[3] - wide) // stride + 1
    y = np.zeros((len(x), filters, rows, columns))
    for n in range(filters):
        first = n // (filters // groups) * depth
        for c in range(depth):
            for i in range(high):
                for j in range(wide):
                    lines = slice(i, i + stride * (rows - 1) + 1, stride)
                    places = slice(j, j + stride * (columns - 1) + 1, stride)
                    y[:, n] += float(weight[n, c, i, j]) * x[:, first + c, lines, places]
        if bias:
            y[:, n] += float(bias[0][n])
    return y.astype(np.float32)


def _normal(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    centred = x - x.mean(axis=axes, keepdims=True)
    return centred / np.sqrt(np.square(centred).mean(axis=axes, keepdims=True) + eps)


def _layer_norm(op: Op, operands: list[Array]) -> Array:
    x, weight, bias = (value.astype(np.float64) for value in operands)
    return (_normal(x, (-1,), number(op, "eps")) * weight + bias).astype(np.float32)


def _by_channel(x: Array, values: Array) -> Array:
    return values.astype(np.float64).reshape(-1, *[1] * (x.ndim - 2))


def _group_norm(op: Op, operands: list[Array]) -> Array:
    x, weight, bias = operands
    rows = x.astype(np.float64).reshape(len(x), op.integer("groups"), -1)
    y = _normal(rows, (-1,), number(op, "eps")).reshape(x.shape)
    return (y * _by_channel(x, weight) + _by_channel(x, bias)).astype(np.float32)


def _batch_norm(op: Op, operands: list[Array]) -> Array:
    x, *statistics = operands
    weight, bias, mean, variance = (_by_channel(x, value) for value in statistics)
    y = (x.astype(np.float64) - mean) / np.sqrt(variance + number(op, "eps"))
    return (y * weight + bias).astype(np.float32)


def _gelu(_op: Op, operands: list[Array]) -> Array:
    x = operands[0].astype(np.float64)
    erf = np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2))
    return (x / 2 * (1 + erf)).astype(np.float32)


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def _glu(op: Op, operands: list[Array]) -> Array:
    values, gates = np.split(operands[0], 2, axis=op.integer("axis"))
    return (values * _sigmoid(gates)).astype(np.float32)


def _affine(op: Op, operands: list[Array]) -> Array:
    x = operands[0].astype(np.float64)
    return (x * number(op, "scale") + number(op, "shift")).astype(np.float32)


def _attention(op: Op, operands: list[Array]) -> Array:
    """Softmax over the keys that are kept; a query that keeps none gets zeros."""
    q, k, v, *bias = (value.astype(np.float64) for value in operands)
    scores = q @ np.swapaxes(k, -1, -2) * number(op, "scale")
    for values in bias:
        scores = scores + values
    kept = np.ones(scores.shape[-2:], bool)
    if pattern := str(op.get("pattern", "")):
        kept = from_text(pattern).seen(*scores.shape[-2:])
    scores = np.where(kept, scores, -np.inf)
    highest = scores.max(axis=-1, keepdims=True)
    weights = np.exp(scores - np.where(np.isfinite(highest), highest, 0))
    total = weights.sum(axis=-1, keepdims=True)
    return (weights / np.where(total > 0, total, 1) @ v).astype(np.float32)


def _matmul(_op: Op, operands: list[Array]) -> Array:
    a, b = (value.astype(np.float64) for value in operands)
    return (a @ b).astype(np.float32)


def _pad(op: Op, operands: list[Array]) -> Array:
    widths = [(0, 0)] * operands[0].ndim
    widths[op.integer("axis")] = op.integer("before"), op.integer("after")
    return np.pad(operands[0], widths)


def _rel_shift(_op: Op, operands: list[Array]) -> Array:
    (x,) = operands
    rows, columns = x.shape[-2:]
    keys = columns - rows + 1
    lines = [x[..., i, rows - 1 - i : rows - 1 - i + keys] for i in range(rows)]
    return np.stack(lines, axis=-2)


def _joined(op: Op, operands: list[Array]) -> Array:
    return np.concatenate(operands, axis=op.integer("axis"))


def _rounded(function) -> object:
    return lambda _op, xs: function(*(x.astype(np.float64) for x in xs)).astype(np.float32)


MEANINGS = {
    "transpose": lambda op, xs: xs[0].transpose([int(str(a)) for a in op.attribute("order")]),
    "embedding": lambda _op, xs: xs[1][xs[0]],
    "linear": _linear,
    "conv1d": _conv1d,
    "conv2d": _conv2d,
    "matmul": _matmul,
    "attention": _attention,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "batch_norm": _batch_norm,
    "gelu": _gelu,
    "relu": _rounded(lambda x: np.maximum(x, 0)),
    "silu": _rounded(lambda x: x * _sigmoid(x)),
    "tanh": _rounded(np.tanh),
    "sigmoid": _rounded(_sigmoid),
    "glu": _glu,
    "affine": _affine,
    "add": _rounded(np.add),
    "sub": _rounded(np.subtract),
    "mul": _rounded(np.multiply),
    "sum": _rounded(lambda x: x.sum(axis=-1)),
    "pad": _pad,
    "repeat": lambda op, xs: np.repeat(xs[0], op.integer("times"), axis=op.integer("axis")),
    "rel_shift": _rel_shift,
    "concat": _joined,
    "cache_append": _joined,
}


def _shape(op: Op, lengths: Mapping[str, int]) -> list[int]:
    return [expr.evaluate(dim, lengths) for dim in op.attribute("shape")]


def _positions(op: Op, _none: list[Array], lengths: Mapping[str, int]) -> Array:
    """Rows of sines and cosines in turn, of wavelengths from 2 pi to 10000 times 2 pi."""
    _, rows, width = _shape(op, lengths)
    start, step = (rows - 1) // 2, -1
    if op.attribute("kind") == "absolute":
        start, step = expr.evaluate(op.attribute("start"), lengths), 1
    table = np.empty((1, rows, width))
    for row in range(rows):
        for column in range(width):
            angle = (start + step * row) / 10000 ** (column // 2 * 2 / width)
            table[0, row, column] = math.cos(angle) if column % 2 else math.sin(angle)
    return table.astype(np.float32)


def _relative_buckets(op: Op, _none: list[Array], lengths: Mapping[str, int]) -> Array:
    (count,) = _shape(op, lengths)
    half = op.integer("buckets") // 2
    exact = half // 2
    found = []
    for distance in range(-(count // 2), count // 2 + 1):
        bucket = apart = abs(distance)
        if apart >= exact:
            far = math.log(apart / exact) / math.log(op.integer("furthest") / exact)
            bucket = min(half - 1, exact + int(far * (half - exact)))
        found.append(bucket + (half if distance > 0 else 0))
    return np.array(found, np.int64)


def _slice(op: Op, operands: list[Array], lengths: Mapping[str, int]) -> Array:
    start, stop = (expr.evaluate(op.attribute(key), lengths) for key in ("start", "stop"))
    run = slice(start, stop, op.get("step", 1))
    return operands[0][(slice(None),) * op.integer("axis") + (run,)]


SHAPED = {
    "reshape": lambda op, xs, lengths: xs[0].reshape(_shape(op, lengths)),
    "expand": lambda op, xs, lengths: np.broadcast_to(xs[0], _shape(op, lengths)),
    "slice": _slice,
    "positions": _positions,
    "relative_buckets": _relative_buckets,
}
"""Ops whose attributes hold lengths."""
