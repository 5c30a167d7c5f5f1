"""Torch functions that `torch.export` keeps as one call each, because the IR has one op for them.

In eager mode they compute; in an export they stand for themselves, with symbolic lengths. None of
them has a gradient.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from cosim.patterns import from_text


def _like(like: Tensor, values: Tensor) -> Tensor:
    return values.to(device=like.device, dtype=like.dtype)


@torch.library.custom_op("cosim::rel_shift", mutates_args=())
def rel_shift(x: Tensor) -> Tensor:
    """Return scores by key, [..., T, S], of scores by relative position, [..., T, T + S - 1].

    out[i, j] = x[i, T - 1 - i + j] (Dai et al. 2019, appendix B). ValueError when S is below 1.
    """
    rows, columns = x.shape[-2:]
    keys = columns - rows + 1
    if keys < 1:
        raise ValueError(f"rel_shift: found {tuple(x.shape)}, expected [..., T, T + S - 1]")
    i = torch.arange(rows, device=x.device)[:, None]
    j = torch.arange(keys, device=x.device)[None, :]
    index = (rows - 1 - i + j).expand(*x.shape[:-2], rows, keys)
    return x.gather(-1, index)


@rel_shift.register_fake
def _(x: Tensor) -> Tensor:
    rows, columns = x.shape[-2:]
    return x.new_empty((*x.shape[:-2], rows, columns - rows + 1))


def _sinusoids(at: Tensor, width: int) -> Tensor:
    """Return the rows [1, len(at), width] of positions `at`, computed in float64.

    Vaswani et al. 2017, section 3.5: even columns are sines, odd ones cosines.
    """
    if width < 2 or width % 2:
        raise ValueError(f"positions: found width {width}, expected an even number")
    pairs = torch.arange(0, width, 2, dtype=torch.float64, device=at.device)
    angles = at[:, None] * torch.exp(pairs * (-math.log(10000.0) / width))
    return torch.stack((angles.sin(), angles.cos()), dim=-1).reshape(1, len(at), width)


@torch.library.custom_op("cosim::relative_positions", mutates_args=())
def relative_positions(like: Tensor, width: int) -> Tensor:
    """Return sinusoids [1, 2 T - 1, width] of the distances T - 1, ..., -(T - 1).

    T = like.shape[1]; the distance is that of a query to a key before it, as ESPnet's
    RelPositionalEncoding orders them.
    """
    length = like.shape[1]
    at = torch.arange(length - 1, -length, -1, dtype=torch.float64, device=like.device)
    return _like(like, _sinusoids(at, width))


@relative_positions.register_fake
def _(like: Tensor, width: int) -> Tensor:
    return like.new_empty((1, 2 * like.shape[1] - 1, width))


@torch.library.custom_op("cosim::positions", mutates_args=())
def positions(like: Tensor, start: int, length: int, width: int) -> Tensor:
    """Return sinusoids [1, length, width] of the positions start, ..., start + length - 1."""
    at = torch.arange(start, start + length, dtype=torch.float64, device=like.device)
    return _like(like, _sinusoids(at, width))


@positions.register_fake
def _(like: Tensor, start: int, length: int, width: int) -> Tensor:  # noqa: ARG001
    return like.new_empty((1, length, width))


@torch.library.custom_op("cosim::relative_buckets", mutates_args=())
def relative_buckets(like: Tensor, buckets: int, furthest: int) -> Tensor:
    """Return the bucket [2 T - 1] of each distance key - query from -(T - 1) to T - 1.

    T = like.shape[1]. Half of the buckets are for keys behind the query; of each half, one half
    holds a distance each, the other grows with the logarithm up to `furthest` (Raffel et al. 2020,
    section 2.1, both directions).
    """
    half = buckets // 2
    exact = half // 2
    if exact < 1 or furthest <= exact:
        raise ValueError(
            f"relative_buckets: found {buckets} buckets up to {furthest}, expected at least 4 "
            "buckets and a distance above a quarter of them"
        )
    length = like.shape[1]
    distance = torch.arange(1 - length, length, device=like.device)
    apart = distance.abs()
    grown = torch.log(apart.clamp(min=1).double() / exact) / math.log(furthest / exact)
    far = (exact + (grown * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(apart < exact, apart, far) + (distance > 0) * half


@relative_buckets.register_fake
def _(like: Tensor, buckets: int, furthest: int) -> Tensor:  # noqa: ARG001
    return like.new_empty((2 * like.shape[1] - 1,), dtype=torch.int64)


@torch.library.custom_op("cosim::first", mutates_args=())
def first(x: Tensor, axis: int, length: int) -> Tensor:
    """Return the first `length` positions of an axis, where torch cannot prove that there are any.

    After halving and doubling a length, torch.export cannot compare the two. ValueError when there
    are fewer.
    """
    if x.shape[axis] < length:
        raise ValueError(f"first: found {tuple(x.shape)}, expected {length} on axis {axis}")
    return x.narrow(axis, 0, length).clone()


@first.register_fake
def _(x: Tensor, axis: int, length: int) -> Tensor:
    shape = list(x.shape)
    shape[axis] = length
    return x.new_empty(shape)


@lru_cache(maxsize=4)
def _seen(pattern: str, queries: int, keys: int) -> Tensor:
    return torch.from_numpy(from_text(pattern).seen(queries, keys))


@torch.library.custom_op("cosim::block_attention", mutates_args=())
def block_attention(q: Tensor, k: Tensor, v: Tensor, pattern: str) -> Tensor:
    """Return attention over the keys that a pattern keeps: [..., T, E] of q, k, v [..., T or S, D].

    `pattern` is the text of `cosim.patterns.AttentionPattern`. The scale is D ** -0.5; a query that
    sees no key gets zeros. Computed densely here: this is the reference.
    """
    seen = _seen(pattern, q.shape[-2], k.shape[-2]).to(q.device)
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    weights = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)
    result: Tensor = weights.masked_fill(~seen.any(dim=-1, keepdim=True), 0.0) @ v
    return result


@block_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, pattern: str) -> Tensor:  # noqa: ARG001
    return q.new_empty((*q.shape[:-1], v.shape[-1]))


def dense_attention_flops() -> dict[object, Callable[..., int]]:
    """Return what `torch.utils.flop_counter` needs to count `block_attention` in its dense form."""

    def count(
        q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: object, **__: object
    ) -> int:
        *heads, queries, depth = q
        return 2 * math.prod(heads) * queries * k[-2] * (depth + v[-1])

    return {torch.ops.cosim.block_attention: count}
