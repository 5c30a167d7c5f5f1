"""Cases beside the linear layers: attention, row functions, norms, and the sparse break-even."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cosim.guard  # noqa: F401 (the check is the import)
from cosim.bench import linear, matrices
from cosim.bench.cases import OURS, SHAPES, TORCH, AbsentError, Case, Plan, Run, Side
from cosim.bench.peers import load
from kernels import attention, harness, norms, panels, pointwise
from kernels.harness import Sample

F32 = NDArray[np.float32]

ATTENTIONS = ((8, 64, 100), (12, 64, 499), (12, 64, 1500), (6, 64, 1500))
"""Heads, depth and rows of self-attention in encoders; the last is Whisper tiny's."""
STEP_KEYS = ((6, 64, 64), (6, 64, 1500))
"""Heads, depth and keys that one decoding step of Whisper tiny reads."""
ROW_SHAPES = {"softmax": (12 * 499, 499), "layer_norm": (499, 768)}
ROW_SHAPE = (499, 3072)
"""Row functions of a feed-forward layer, of 12 heads' scores, of a residual stream."""
SPARSITIES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
_DENSE = "ours_dense"
_EPS = 1e-5


def plans() -> Iterator[Plan]:
    """Yield the cases of one thread that are not linear layers."""
    for heads, depth, rows in ATTENTIONS:
        for kernel in ("attention_f32", "attention_i8"):
            make = partial(_attention, kernel, (heads, depth, rows, rows))
            yield Plan(kernel, f"{heads}x{depth}x{rows}-T{rows}", make)
    for heads, depth, keys in STEP_KEYS:
        for kernel in ("attention_f32", "attention_i8"):
            make = partial(_attention, kernel, (heads, depth, 1, keys))
            yield Plan(kernel, f"{heads}x{depth}x{keys}-T1", make)
    for name in ROW_FUNCTIONS:
        rows, width = ROW_SHAPES.get(name, ROW_SHAPE)
        yield Plan(name, f"{width}-T{rows}", partial(_row_function, name, (rows, width)))
    for k, n in SHAPES:
        for rows in (499, 100, 16):
            yield Plan("csr_break_even", f"{k}x{n}-T{rows}", partial(_break_even, (k, n, rows)))


# --- attention --------------------------------------------------------------------------------


def _attention(kernel: str, sizes: tuple[int, int, int, int]) -> Case:
    heads, depth, rows, keys = sizes
    generator = np.random.default_rng([linear.SEED, *sizes])

    def split(count: int) -> F32:
        values = generator.standard_normal((count, heads, depth), dtype=np.float32)
        return values.transpose(1, 0, 2)

    q, k, v = split(rows), split(keys), split(keys)
    out = np.empty((rows, heads * depth), np.float32)
    factor = depth**-0.5
    is_float = kernel == "attention_f32"
    run = (
        partial(attention.attention_f32, q, k, v, factor, out)
        if is_float
        else _attention_codes(q, k, v, factor, out)
    )

    def output() -> F32:
        run()
        return out

    def exact() -> NDArray[np.float64]:
        scores = factor * np.einsum("htd,hsd->hts", q.astype(np.float64), k.astype(np.float64))
        weights = np.exp(scores - scores.max(axis=2, keepdims=True))
        weights /= weights.sum(axis=2, keepdims=True)
        joined: NDArray[np.float64] = np.einsum("hts,hsd->thd", weights, v.astype(np.float64))
        return joined.reshape(rows, heads * depth)

    sides = {OURS: Side([run], output)}
    operations = 4 * heads * rows * keys * depth
    stored = (q.nbytes + k.nbytes + v.nbytes) // (1 if is_float else 4) + out.nbytes
    return Case(
        sides=sides | _torch(lambda torch: _torch_attention(torch, (q, k, v), rows)),
        operations=operations,
        work=operations,
        size_bytes=stored,
        weight_bytes=0,
        limit="fma" if is_float else "pmaddubsw_pmaddwd",
        kernel_used=kernel,
        exact=exact,
    )


def _attention_codes(q: F32, k: F32, v: F32, factor: float, out: F32) -> Run:
    scales = [np.abs(t).max(axis=2) / 127 for t in (q, k)]
    codes = [
        np.rint(t / s[..., np.newaxis]).astype(np.int8) for t, s in zip((q, k), scales, strict=True)
    ]
    step = np.abs(v).max(keepdims=True).reshape(1) / 127
    whole = np.rint(v / step).astype(np.int8)
    return partial(
        attention.attention_i8,
        codes[0],
        scales[0],
        codes[1],
        scales[1],
        whole,
        step,
        factor,
        out,
    )


def _torch_attention(torch: Any, tensors: tuple[F32, ...], rows: int) -> Side:
    a, b, c = (torch.from_numpy(tensor)[None] for tensor in tensors)
    run = partial(torch.nn.functional.scaled_dot_product_attention, a, b, c)
    return Side([run], lambda: run()[0].transpose(0, 1).reshape(rows, -1).numpy())


def _torch(build: Callable[[Any], Side]) -> dict[str, Side]:
    """Return torch's side on one thread, or none where it is not installed."""
    try:
        torch = load("torch", "torch")
    except AbsentError:
        return {}
    torch.set_num_threads(1)
    return {TORCH: build(torch)}


# --- row functions ----------------------------------------------------------------------------


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-x))


def _layer_norm(x: F32, out: F32) -> None:
    width = x.shape[1]
    norms.layer_norm(x, np.ones(width, np.float32), np.zeros(width, np.float32), _EPS, out)


def _exact_softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = e / e.sum(axis=1, keepdims=True)
    return shares


def _exact_norm(x: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = x - x.mean(axis=1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=1, keepdims=True) + _EPS)
    normed: NDArray[np.float64] = centred / deviation
    return normed


Exact = Callable[[NDArray[np.float64]], NDArray[np.float64]]
Peer = Callable[[Any, Any], Any]
ROW_FUNCTIONS: Mapping[str, tuple[Callable[[F32, F32], None], Peer, Exact | None]] = {
    "softmax": (pointwise.softmax, lambda torch, x: torch.softmax(x, 1), _exact_softmax),
    "gelu": (pointwise.gelu, lambda torch, x: torch.nn.functional.gelu(x), None),
    "silu": (
        pointwise.silu,
        lambda torch, x: torch.nn.functional.silu(x),
        lambda x: x * _sigmoid(x),
    ),
    "tanh": (pointwise.tanh, lambda torch, x: torch.tanh(x), np.tanh),
    "layer_norm": (
        _layer_norm,
        lambda torch, x: torch.nn.functional.layer_norm(x, x.shape[1:]),
        _exact_norm,
    ),
}
"""Ours, torch's, and the meaning in float64 (of GELU numpy has none)."""


def _row_function(name: str, sizes: tuple[int, int]) -> Case:
    ours, peer, meaning = ROW_FUNCTIONS[name]
    x = matrices.activations(*sizes, linear.SEED)
    out = np.empty_like(x)
    run = partial(ours, x, out)

    def output() -> F32:
        run()
        return out

    def torch_side(torch: Any) -> Side:
        a = torch.from_numpy(x)
        return Side([lambda: peer(torch, a)], lambda: peer(torch, a).numpy())

    return Case(
        sides={OURS: Side([run], output)} | _torch(torch_side),
        operations=x.size,
        work=x.size,
        size_bytes=x.nbytes + out.nbytes,
        weight_bytes=0,
        limit="",
        kernel_used=name,
        exact=None if meaning is None else lambda: meaning(x.astype(np.float64)),
        notes=("one operation is one element",),
    )


# --- break-even -------------------------------------------------------------------------------


def _break_even(sizes: tuple[int, int, int]) -> Case:
    """Time the sparse float kernel over sparsities against the dense one of ours."""
    k, n, rows = sizes
    weight = matrices.gaussian(n, k, linear.SEED)
    x = matrices.activations(rows, k, linear.SEED)
    out = np.empty((rows, n), np.float32)
    dense, _ = linear.panel_of(linear.FORMS["f32_dense"], weight)
    form = linear.FORMS["csr_50"]
    sides = {_DENSE: Side([panels.bind(dense, x, out)])}
    used = ""
    for sparsity in SPARSITIES:
        panel, _ = linear.panel_of(form, matrices.pruned(weight, sparsity))
        used = panel.kernel
        sides[_at(sparsity)] = Side([panels.bind(panel, x, out)])
    sides[OURS] = sides.pop(_at(0.25))
    operations = 2 * k * n * rows

    def summary(samples: Mapping[str, Sample]) -> dict[str, object]:
        ratios = {
            sparsity: harness.ratio(
                samples[_DENSE], samples[OURS if sparsity == 0.25 else _at(sparsity)]
            ).median
            for sparsity in SPARSITIES
        }
        return {
            "ratio_dense_by_sparsity": {f"{key:.2f}": value for key, value in ratios.items()},
            "break_even_sparsity": break_even(ratios),
        }

    return Case(
        sides=sides,
        operations=operations,
        work=round(operations * 0.75),
        size_bytes=x.nbytes + out.nbytes + dense.nbytes,
        weight_bytes=dense.nbytes,
        limit="fma",
        kernel_used=used,
        notes=("rates are those at 25 % sparsity",),
        summary=summary,
    )


def _at(sparsity: float) -> str:
    return f"ours_{round(100 * sparsity)}_percent"


def break_even(ratios: Mapping[float, float]) -> float | None:
    """Return the least sparsity from which on a sparse kernel is not slower than a dense one.

    Between two measured sparsities the ratio is taken as linear; None if even the last is slower.

    >>> break_even({0.1: 0.9, 0.2: 1.1, 0.3: 1.2})
    0.15
    """
    points = sorted(ratios.items())
    if points[-1][1] < 1:
        return None
    slower = [i for i, (_, value) in enumerate(points) if value < 1]
    if not slower:
        return points[0][0]
    (a, low), (b, high) = points[slower[-1]], points[slower[-1] + 1]
    return round(a + (b - a) * (1 - low) / (high - low), 4)
