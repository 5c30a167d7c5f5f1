"""Softmax attention over heads, float and on integer codes.

The kernels read arrays of any strides with a unit inner one; what does not fit is refused before
anything is written.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels import attention_plain
from kernels.arguments import CODES, FLOATS, require
from kernels.attention_common import BAD_PATTERN, BAD_SCALE, DEEPEST, LONGEST, TOO_LONG
from kernels.jit import Entry, host_features
from kernels.registry import SIMD

F32 = NDArray[np.float32]
I8 = NDArray[np.int8]
I64 = NDArray[np.int64]

COUNTS = np.dtype(np.int64)
NO_BIAS = np.zeros((0, 0, 0), np.float32)
NO_BOUNDS = np.zeros(0, np.int64)


def attention_f32(
    q: F32,
    k: F32,
    v: F32,
    scale: float,
    out: F32,
    *,
    bias: F32 | None = None,
    keys: I64 | None = None,
    threads: int = 1,
) -> None:
    """Write softmax(scale q k^T + bias) v of each head into ``out (T, H * D)``.

    q is ``(H, T, D)``, k and v ``(H, S, D)``, ``bias`` ``(H, T, S)`` or ``(1, T, S)``, all of any
    strides with a unit inner one. ``keys``, int64 ``(T)`` or ``(1)``, says how many keys, from the
    first on, each query sees: 1 to T for causal attention, one number for padded keys. A query
    that sees no key, or only such with a bias of -inf, gets zeros. Results do not depend on the
    number of ``threads``. A NaN shows wherever it takes part, and one among keys or values that
    only some of a group of queries see may show in all of them. ValueError says which shapes or
    strides do not fit; other dtypes and misaligned arrays are a TypeError.

    >>> q = np.ones((1, 2, 8), np.float32)
    >>> v = np.arange(24, dtype=np.float32).reshape(1, 3, 8)
    >>> out = np.empty((2, 8), np.float32)
    >>> attention_f32(q, v * 0, v, 1.0, out, keys=np.array([1, 2]))
    >>> out[:, 0].tolist()
    [0.0, 4.0]
    """
    check("attention_f32", FLOATS, q, k, v, out)
    more = NO_BIAS if bias is None else bias
    bounds = NO_BOUNDS if keys is None else keys
    if more is not NO_BIAS:
        check("attention_f32", FLOATS, more)
    if bounds is not NO_BOUNDS:
        check("attention_f32", COUNTS, bounds)
    status = of_threads(_run_f32, threads)(q, k, v, scale, more, bounds, out, threads)
    if status:
        others = {"bias": more, "keys": bounds}
        raise ValueError(complaint("attention_f32", status, q, k, v, out, others))


def attention_i8(
    q: I8,
    q_scale: F32,
    k: I8,
    k_scale: F32,
    v: I8,
    v_scale: F32,
    scale: float,
    out: F32,
    *,
    keys: I64 | None = None,
    threads: int = 1,
) -> None:
    """Write attention on codes into ``out (T, H * D)``, as ``reference.attention_i8`` defines it.

    Arrays, ``keys`` and ``threads`` as in ``attention_f32``; every int8 is a code. Scales are
    (H, T), (H, S) and (H), or of size 1. ValueError says which shapes or strides do not fit, that
    a scale is NaN or infinite, or that scores could overflow.
    """
    check("attention_i8", CODES, q, k, v)
    check("attention_i8", FLOATS, q_scale, k_scale, v_scale, out)
    q_scales, k_scales = by_row(q_scale), by_row(k_scale)
    bounds = NO_BOUNDS if keys is None else keys
    if bounds is not NO_BOUNDS:
        check("attention_i8", COUNTS, bounds)
    run = of_threads(_run_i8, threads)
    status = run(q, q_scales, k, k_scales, v, v_scale, scale, bounds, out, threads)
    if status:
        others = {"scales": q_scale, "and": k_scale, "and ": v_scale, "keys": bounds}
        raise ValueError(complaint("attention_i8", status, q, k, v, out, others))


def check(name: str, dtype: np.dtype[Any], *arrays: NDArray[Any]) -> None:
    """Raise TypeError or ValueError for what numba would take for plain arrays of ``dtype``.

    The number of axes is part of an entry's signature, so it is left to that.
    """
    for array in arrays:
        is_plain = type(array) is np.ndarray and array.dtype is dtype and array.flags.aligned
        if not is_plain:  # asked for in detail, as that takes time
            require(name, dtype, np.ndim(array), array)


def by_row(scale: F32) -> F32:
    """Scales of two axes from such, or from one scale for all."""
    return scale.reshape(1, 1) if scale.shape == (1,) else scale


def of_threads(run: Entry, threads: int) -> Any:
    """Return the form of an entry for that many threads."""
    return run if threads == 1 else run.ready_parallel()


def complaint(
    name: str,
    status: int,
    q: NDArray[Any],
    k: NDArray[Any],
    v: NDArray[Any],
    out: NDArray[Any],
    others: dict[str, NDArray[Any]],
) -> str:
    """Message for a status other than 0."""
    if status == TOO_LONG:
        return (
            f"{name}: found {k.shape[1]} keys of {k.shape[2]} numbers, expected at most {LONGEST} "
            f"and {DEEPEST}, as sums of codes are kept in 32 bits"
        )
    if status == BAD_SCALE:
        return f"{name}: found scales that are NaN or infinite, or so large that scores overflow"
    if status == BAD_PATTERN:
        return f"{name}: found a broken pattern; expected what attention_blocks.from_rule makes"
    arrays = {"q": q, "k": k, "v": v, "out": out, **others}
    found = ", ".join(
        f"{key} {a.dtype} {a.shape} strides {a.strides}" for key, a in arrays.items() if a.size
    )
    return (
        f"{name}: found {found}; expected q (H, T, D), k and v (H, S, D) and out (T, H * D), none "
        "empty, unit inner strides, bias (H or 1, T, S), keys (T or 1), scales (H, T), (H, S) and "
        "(H) or of size 1, one or more threads"
    )


_run_f32, _run_i8 = attention_plain.attention_f32, attention_plain.attention_i8
if host_features().issuperset(SIMD):  # elsewhere the tiles do not even compile
    from kernels import attention_float, attention_integer

    _run_f32, _run_i8 = attention_float.attention_f32, attention_integer.attention_i8
