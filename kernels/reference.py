"""What every kernel means, in plain numpy: the one oracle of the tests."""

import math

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
I8 = NDArray[np.int8]


def linear_f32(x: F32, w: F32, bias: F32 | None = None) -> F32:
    """``x (T, K) @ w (N, K).T + bias (N)``, summed in float64 and rounded once."""
    y = x.astype(np.float64) @ w.astype(np.float64).T
    return (y if bias is None else y + bias).astype(np.float32)


def linear_accumulators(x: I8, w: I8) -> NDArray[np.int32]:
    """Exact sums of ``x (T, K)`` and ``w (N, K)`` codes; OverflowError outside int32."""
    total = x.astype(np.int64) @ w.astype(np.int64).T
    if total.size and np.abs(total).max() > np.iinfo(np.int32).max:
        raise OverflowError("the sum of products does not fit int32")
    return total.astype(np.int32)


def linear_i8(x: I8, w: I8, x_scale: F32, w_scale: F32, bias: F32 | None = None) -> F32:
    """``float32(acc) * x_scale * w_scale + bias``, every step rounded to float32, in this order."""
    y = linear_accumulators(x, w).astype(np.float32) * x_scale[:, None] * w_scale[None, :]
    return y if bias is None else y + bias


def linear_i7(x: I8, w: I8, x_scale: F32, w_scale: F32, bias: F32 | None = None) -> F32:
    """``linear_i8`` of activation codes in [-63, 63]; ValueError for others."""
    if x.size and np.abs(x.astype(np.int64)).max() > 63:
        raise ValueError("linear_i7: found a code outside [-63, 63]")
    return linear_i8(x, w, x_scale, w_scale, bias)


def attention_f32(q: F32, k: F32, v: F32, scale: float) -> F32:
    """Softmax(scale q k^T) v over heads: q (H, T, D), k and v (H, S, D) -> (T, H * D)."""
    scores = np.float64(scale) * (q.astype(np.float64) @ k.astype(np.float64).transpose(0, 2, 1))
    e = np.exp(scores - scores.max(axis=2, keepdims=True))
    y = (e / e.sum(axis=2, keepdims=True)) @ v.astype(np.float64)
    return y.transpose(1, 0, 2).reshape(q.shape[1], -1).astype(np.float32)


def scores_i8(q: I8, k: I8) -> NDArray[np.int32]:
    """Exact scores (H, T, S) of codes q (H, T, D) and k (H, S, D)."""
    return (q.astype(np.int64) @ k.astype(np.int64).transpose(0, 2, 1)).astype(np.int32)


def context_i8(p: NDArray[np.uint8], v: I8) -> NDArray[np.int32]:
    """Exact sums (H, T, D) of probability codes p (H, T, S) and value codes v (H, S, D)."""
    return (p.astype(np.int64) @ v.astype(np.int64)).astype(np.int32)


def attention_i8(
    q: I8, q_scale: F32, k: I8, k_scale: F32, v: I8, v_scale: F32, scale: float
) -> F32:
    """Attention on codes: exact scores, float softmax, probabilities as u8 codes, exact sums.

    ``q_scale`` is (H, T), ``k_scale`` (H, S), ``v_scale`` (H). Probabilities are not normalised
    before they are rounded: the code of exp(s - max) is rint(255 exp(s - max) + carried), at most
    255, where what was left of the key 32 places before is carried (error diffusion, Floyd and
    Steinberg 1976, along the keys: many small probabilities keep their sum). The sum that divides
    the context is that of the codes. Returns (T, H * D).
    """
    codes = probability_codes(q, q_scale, k, k_scale, scale)
    total = codes.sum(axis=2, dtype=np.int64)
    y = context_i8(codes, v) * (v_scale.astype(np.float64)[:, None, None] / total[:, :, None])
    return y.transpose(1, 0, 2).reshape(q.shape[1], -1).astype(np.float32)


def probability_codes(q: I8, q_scale: F32, k: I8, k_scale: F32, scale: float) -> NDArray[np.uint8]:
    """Codes (H, T, S) of unnormalised probabilities, rounded as `attention_i8` says."""
    factor = q_scale.astype(np.float64)[:, :, None] * k_scale.astype(np.float64)[:, None, :]
    scores = scores_i8(q, k) * factor * scale
    shares = 255.0 * np.exp(scores - scores.max(axis=2, keepdims=True))
    codes = np.zeros(shares.shape, np.uint8)
    carried = np.zeros((*shares.shape[:2], 32))
    for s in range(0, shares.shape[2], 32):
        part = shares[:, :, s : s + 32]
        share = np.minimum(part + carried[:, :, : part.shape[2]], 255.0)
        codes[:, :, s : s + 32] = np.rint(share)
        carried[:, :, : part.shape[2]] = share - np.rint(share)
    return codes


def layer_norm(x: F32, gamma: F32, beta: F32, eps: float) -> F32:
    """(x - mean) / sqrt(variance + eps) * gamma + beta over the last axis, in float64."""
    x64 = x.astype(np.float64)
    centred = x64 - x64.mean(axis=1, keepdims=True)
    variance = (centred * centred).mean(axis=1, keepdims=True)
    return (centred / np.sqrt(variance + eps) * gamma + beta).astype(np.float32)


def gelu(x: F32) -> F32:
    """Exact GELU, x / 2 (1 + erf(x / sqrt 2)), in float64."""
    x64 = x.astype(np.float64)
    erf = np.vectorize(math.erf, otypes=[np.float64])(x64 / math.sqrt(2.0))
    return (0.5 * x64 * (1.0 + erf)).astype(np.float32)


def softmax(x: F32) -> F32:
    """Take exp(x - max) over its sum along the last axis, in float64."""
    x64 = x.astype(np.float64)
    e = np.exp(x64 - x64.max(axis=1, keepdims=True))
    return (e / e.sum(axis=1, keepdims=True)).astype(np.float32)


def relu(x: F32) -> F32:
    """Larger of x and 0; NaN stays NaN."""
    return np.maximum(x, np.float32(0.0))


def silu(x: F32) -> F32:
    """Sigmoid-weighted x, x / (1 + exp(-x)), in float64."""
    x64 = x.astype(np.float64)
    with np.errstate(over="ignore"):
        return (x64 / (1.0 + np.exp(-x64))).astype(np.float32)


def add(a: F32, b: F32) -> F32:
    """Sum of two matrices, or a matrix and one row."""
    return a + b


def quantize_rows(x: F32, absmax: F32) -> tuple[I8, F32]:
    """Codes rint(x * (127 / absmax)), scales absmax / 127, every step rounded to float32.

    ``absmax`` is float32 (R). Below 2**-100 it counts as 0: codes 0, scale 1. Where it is NaN or
    infinite the codes are 0 and the scale is NaN.
    """
    finite = np.isfinite(absmax)
    usable = finite & (absmax >= np.float32(2.0**-100))
    safe = np.where(usable, absmax, np.float32(1.0))
    codes = np.rint(x * (np.float32(127.0) / safe)[:, None])
    codes = np.where(usable[:, None], np.clip(codes, -127, 127), 0).astype(np.int8)
    scale = np.where(usable, safe / np.float32(127.0), np.float32(1.0))
    return codes, np.where(finite, scale, np.float32(np.nan))


def dynamic_quantize_row(x: F32) -> tuple[I8, F32]:
    """Codes and scale (R) of each row of x (R, K) by its own largest magnitude."""
    return quantize_rows(x, np.abs(x).max(axis=1))


def dynamic_quantize_tensor(x: F32) -> tuple[I8, F32]:
    """Codes and scale (1) of x (R, K) by its largest magnitude."""
    codes, scale = quantize_rows(x.reshape(1, -1), np.abs(x).max(keepdims=True).reshape(1))
    return codes.reshape(x.shape), scale


def tanh(x: F32) -> F32:
    """Hyperbolic tangent, in float64."""
    return np.tanh(x.astype(np.float64)).astype(np.float32)


def sigmoid(x: F32) -> F32:
    """1 / (1 + exp(-x)), in float64."""
    with np.errstate(over="ignore"):
        return (1.0 / (1.0 + np.exp(-x.astype(np.float64)))).astype(np.float32)


def glu(x: F32) -> F32:
    """First half of each row times the sigmoid of its second half, in float64."""
    a, gate = np.split(x.astype(np.float64), 2, axis=1)
    with np.errstate(over="ignore"):
        return (a / (1.0 + np.exp(-gate))).astype(np.float32)


def static_quantize(x: F32, scale: F32) -> I8:
    """Codes clip(rint(x / scale), -127, 127), the quotient in float32; NaN becomes -128."""
    steps = x / scale
    codes = np.clip(np.rint(np.nan_to_num(steps, nan=0.0)), -127, 127)
    return np.where(np.isnan(steps), -128, codes).astype(np.int8)


def group_norm(x: F32, gamma: F32, beta: F32, eps: float, groups: int) -> F32:
    """(x - mean) / sqrt(variance + eps) * gamma + beta, in float64, of x (T, C).

    Mean and variance are over all times and the C / groups neighbouring channels of a group.
    """
    frames, channels = x.shape
    x64 = x.astype(np.float64).reshape(frames, groups, channels // groups)
    centred = x64 - x64.mean(axis=(0, 2), keepdims=True)
    variance = (centred * centred).mean(axis=(0, 2), keepdims=True)
    normal = (centred / np.sqrt(variance + eps)).reshape(frames, channels)
    return (normal * gamma + beta).astype(np.float32)


def batch_norm(x: F32, mean: F32, factor: F32, shift: F32) -> F32:
    """(x - mean) * factor + shift of x (T, C) with one of each a channel, in float64."""
    return ((x.astype(np.float64) - mean) * factor + shift).astype(np.float32)


def conv1d(x: F32, w: F32, bias: F32, stride: int, padding: int, groups: int) -> F32:
    """Convolution over time of x (T, C) with w (N, C / groups, size) -> (frames, N), in float64."""
    filters, depth, size = w.shape
    padded = np.pad(x.astype(np.float64), ((padding, padding), (0, 0)))
    frames = (len(padded) - size) // stride + 1
    out = np.empty((frames, filters))
    each = filters // groups
    for t in range(frames):
        window = padded[t * stride : t * stride + size]
        for n in range(filters):
            part = window[:, n // each * depth : (n // each + 1) * depth]
            out[t, n] = (part * w[n].T).sum()
    return (out + bias).astype(np.float32)


def conv2d(x: F32, w: F32, bias: F32, stride: int, padding: int) -> F32:
    """Convolution of x (H, W, C) with w (N, C, size, size) -> (H', W', N), in float64."""
    filters, _, size, _ = w.shape
    padded = np.pad(x.astype(np.float64), ((padding, padding), (padding, padding), (0, 0)))
    height, width = ((n - size) // stride + 1 for n in padded.shape[:2])
    out = np.empty((height, width, filters))
    for i in range(height):
        for j in range(width):
            at, to = i * stride, j * stride
            window = padded[at : at + size, to : to + size].transpose(2, 0, 1)
            out[i, j] = (w * window).sum(axis=(1, 2, 3))
    return (out + bias).astype(np.float32)


def rel_shift(scores: F32) -> F32:
    """Scores (T, 2 T - 1) by relative position -> (T, T) by key: out[i, j] = x[i, T - 1 - i + j].

    Dai et al. 2019 (Transformer-XL), appendix B; column c stands for the distance T - 1 - c.
    """
    frames = len(scores)
    return np.array([[scores[i, frames - 1 - i + j] for j in range(frames)] for i in range(frames)])


# --- attention over some keys ---------------------------------------------------------------


def attention_masked(
    q: F32,
    k: F32,
    v: F32,
    scale: float,
    mask: NDArray[np.bool_] | None = None,
    bias: F32 | None = None,
) -> F32:
    """Softmax(scale q k^T + bias) v over the keys of ``mask`` (T, S) alone, in float64.

    Arrays as ``attention_f32`` has them, ``bias`` (H or 1, T, S). A query without keys gets zeros.
    """
    scores = np.float64(scale) * (q.astype(np.float64) @ k.astype(np.float64).transpose(0, 2, 1))
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    largest = scores.max(axis=2, keepdims=True)
    e = np.exp(scores - np.where(np.isneginf(largest), 0.0, largest))
    norm = e.sum(axis=2, keepdims=True)
    y = (e / np.where(norm == 0.0, 1.0, norm)) @ v.astype(np.float64)
    return y.transpose(1, 0, 2).reshape(q.shape[1], -1).astype(np.float32)


# --- one-bit values -------------------------------------------------------------------------


def unpack_signs(packed: NDArray[np.uint8], k: int) -> I8:
    """Packed bits (R, ceil(k / 8)), bit 0 first, as int8 codes (R, k): 1 is +1 and 0 is -1."""
    bits = np.unpackbits(packed, axis=1, count=k, bitorder="little")
    return np.where(bits == 1, 1, -1).astype(np.int8)


def linear_b1(
    x: NDArray[np.uint8], w: I8, x_scale: F32, w_scale: F32, bias: F32 | None = None
) -> F32:
    """``linear_i8`` of packed bits x (T, ceil(K / 8)) that mean +1 and -1, and codes w (N, K)."""
    return linear_i8(unpack_signs(x, w.shape[1]), w, x_scale, w_scale, bias)


def linear_u1(
    x: NDArray[np.uint8], w: I8, x_scale: F32, w_scale: F32, bias: F32 | None = None
) -> F32:
    """``linear_i8`` of packed bits x (T, ceil(K / 8)) that mean 1 and 0, and codes w (N, K)."""
    bits = np.unpackbits(x, axis=1, count=w.shape[1], bitorder="little")
    return linear_i8(bits.astype(np.int8), w, x_scale, w_scale, bias)


def binarize_signed(
    x: F32, threshold: F32, level: float | None = None
) -> tuple[NDArray[np.uint8], F32]:
    """Packed bits of x (R, K) >= threshold (K), and what they are worth per row.

    That is ``level``, or the mean of |x - threshold| when None (XNOR-Net, Rastegari et al. 2016),
    with the difference rounded to float32 and the sum in float64. NaN in a difference makes it NaN.
    """
    distance = np.abs(x - threshold).astype(np.float64)
    mean = distance.mean(axis=1).astype(np.float32)
    scale = mean if level is None else np.full(len(x), level, np.float32)
    flags = np.packbits(x >= threshold, axis=1, bitorder="little")
    return flags, np.where(np.isnan(mean), np.float32(np.nan), scale)


def binarize_unsigned(x: F32, threshold: F32, level: float) -> tuple[NDArray[np.uint8], F32]:
    """Packed bits that round(clip((x - threshold) / level, 0, 1)) gives, and ``level`` per row.

    Half rounds to even, 0 (BiT, Liu et al. 2022). The difference is rounded to float32, nothing
    else is. NaN in a difference makes the scale of its row NaN.
    """
    above = (x - threshold).astype(np.float64)
    steps = above / np.float64(np.float32(level))
    flags = np.rint(np.clip(np.where(np.isnan(steps), 0.0, steps), 0.0, 1.0)) > 0
    scale = np.where(np.isnan(above).any(axis=1), np.float32(np.nan), np.float32(level))
    return np.packbits(flags, axis=1, bitorder="little"), scale.astype(np.float32)


def level_of(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of each row of x >= 0 (last axis) weighted by itself: sum x^2 / sum x, 0 for zeros.

    Of probabilities it is sum p^2: N that are alike, beside zeros, have the level 1 / N.
    """
    total = x.sum(axis=-1)
    return np.square(x).sum(axis=-1) / np.where(total > 0, total, 1.0)


def binarize_steps(x: F32) -> tuple[NDArray[np.uint8], F32]:
    """Packed bits of x (R, K) > level / 2, and the level of each row (``level_of`` max(x, 0))."""
    level = level_of(np.maximum(x, 0.0).astype(np.float64)).astype(np.float32)
    return np.packbits(x > level[:, None] / 2, axis=1, bitorder="little"), level


def attention_b1(
    q: NDArray[np.uint8],
    q_scale: F32,
    k: NDArray[np.uint8],
    k_scale: F32,
    v: NDArray[np.uint8],
    v_scale: F32,
    scale: float,
    depth: int,
    level: float = 0.0,
) -> F32:
    """Attention on signs, probabilities as 0 or one level: all sums of both products are integers.

    Packed bits q (H, T, ceil(depth / 8)), k and v (H, S, ...) mean +1 and -1, times ``q_scale``
    (H, T), ``k_scale`` (H, S), and one scale for all values of a head: the mean over S of
    ``v_scale`` (H, S); an axis of scales may have length 1. With a = ``level``, or where that is 0
    the ``level_of`` a row of probabilities p, these become a clip(round(p / a), 0, 1), half to
    even (BiT, Liu et al. 2022). Returns (T, H * depth).
    """
    heads, rows, _ = q.shape
    signs = [unpack_signs(x.reshape(-1, x.shape[2]), depth) for x in (q, k, v)]
    q_signs, k_signs, v_signs = (x.reshape(heads, -1, depth).astype(np.int64) for x in signs)
    factor = q_scale.astype(np.float64)[:, :, None] * k_scale.astype(np.float64)[:, None, :]
    scores = (q_signs @ k_signs.transpose(0, 2, 1)) * factor * scale
    e = np.exp(scores - scores.max(axis=2, keepdims=True))
    p = e / e.sum(axis=2, keepdims=True)
    step = level_of(p) if level == 0 else np.full((heads, rows), level)
    ones = (np.rint(np.clip(p / step[:, :, None], 0, 1)) > 0).astype(np.int64)
    worth = v_scale.astype(np.float64).mean(axis=1)[:, None, None]
    y = (ones @ v_signs) * (step[:, :, None] * worth)
    return y.transpose(1, 0, 2).reshape(rows, heads * depth).astype(np.float32)


def linear_bits_b1(
    x: NDArray[np.uint8], w: I8, x_scale: F32, w_scale: F32, bias: F32 | None, threshold: F32
) -> NDArray[np.uint8]:
    """Packed bits (T, ceil(N / 8)) of ``linear_b1`` >= threshold (N)."""
    y = linear_b1(x, w, x_scale, w_scale, bias)
    return np.packbits(y >= threshold, axis=1, bitorder="little")


def linear_bits_u1(
    x: NDArray[np.uint8], w: I8, x_scale: F32, w_scale: F32, bias: F32 | None, threshold: F32
) -> NDArray[np.uint8]:
    """Packed bits (T, ceil(N / 8)) of ``linear_u1`` >= threshold (N)."""
    y = linear_u1(x, w, x_scale, w_scale, bias)
    return np.packbits(y >= threshold, axis=1, bitorder="little")


def subtract(a: F32, b: F32) -> F32:
    """Difference of two arrays that are broadcast together."""
    return a - b


def multiply(a: F32, b: F32) -> F32:
    """Product of two arrays that are broadcast together."""
    return a * b


def add_scaled(a: F32, b: F32, factor: float) -> F32:
    """Sum ``a + factor * b``, the product rounded before the sum."""
    return a + np.float32(factor) * b


def affine(x: F32, scale: float, shift: float) -> F32:
    """``x * scale + shift``, the product rounded before the sum."""
    return x * np.float32(scale) + np.float32(shift)


def row_sums(x: F32) -> F32:
    """Sum over the last axis in float64, rounded once."""
    return x.sum(axis=-1, dtype=np.float64).astype(np.float32)


def matmul(a: F32, b: F32, scale: float) -> F32:
    """Product ``a @ b`` summed in float64, times ``scale``, rounded once."""
    return (a.astype(np.float64) @ b.astype(np.float64) * np.float32(scale)).astype(np.float32)
