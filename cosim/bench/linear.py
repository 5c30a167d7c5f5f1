"""Cases of the linear kernels: one form of weights and activations each, over all shapes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cosim.guard  # noqa: F401 (the check is the import)
from cosim.bench import matrices, peers, peers_ggml, peers_onnx
from cosim.bench.cases import (
    NUMPY,
    OURS,
    QUANTIZING,
    ROWS,
    SHAPES,
    TORCH,
    AbsentError,
    Case,
    Floats,
    Plan,
    Run,
    Side,
)
from cosim.bench.matrices import F32, Codes
from kernels import harness, panels, pointwise
from kernels.binarize import binarize
from kernels.memory import aligned_zeros
from kernels.registry import Matrix, lookup

_REGISTERING = (peers_onnx, peers_ggml)  # imported for the peers that they register
ONE_THREAD = "ours_one_thread"
GROUP = 128
SEED = 0

WHISPER_SHAPES = (
    (384, 384, 1500),
    (384, 1536, 1500),
    (1536, 384, 1500),
    (384, 384, 1),
    (384, 1536, 1),
    (384, 51864, 1),
)
"""Products of Whisper tiny.en (k, n, rows): encoder, decoder step and vocabulary."""
WHISPER_KERNELS = ("f32_dense", "w8a8", "w4a8")
WHISPER_STEP_KERNELS = ("w8a32", "w4a32")


@dataclass(frozen=True)
class Form:
    """One row of the table: what weights become, what activations are, and who else does it.

    ``values`` are names of the registry, of which the first that has a kernel is taken. ``prune``
    sets weights to zero before they are quantised. ``limit`` is a mix of ``kernels.peaks``.
    ``gives_codes`` asks for 8-bit outputs with a given scale instead of floats.
    """

    kernel: str
    values: tuple[str, ...]
    activation: str
    limit: str
    matrix: Callable[[F32], Matrix]
    peers: tuple[str, ...] = ()
    prune: Callable[[F32], F32] | None = None
    gives_codes: bool = False


def plain(weight: F32) -> Matrix:
    """Float values as they are."""
    return Matrix(weight, group=weight.shape[1])


def _codes(bits: int) -> Callable[[F32], Matrix]:
    return partial(matrices.codes_by_row, bits=bits)


def _groups(bits: int) -> Callable[[F32], Matrix]:
    return partial(matrices.codes_by_group, bits=bits, group=GROUP)


_INT8 = ("torch_int8_fbgemm", "torch_int8_onednn", "onnxruntime_int8", "ggml_q8_0")
_INT4 = ("onnxruntime_int4_a8", "ggml_q4_0", "ggml_q4_K")
_INT2 = ("onnxruntime_int2_a8", "ggml_tq2_0")
_WIDE: Mapping[int, tuple[str, ...]] = {
    8: ("quanto_int8",),
    4: ("onnxruntime_int4_a32", "quanto_int4"),
    2: ("quanto_int2",),
}
_CSR = ("scipy_csr", "torch_csr")


def _integer_forms() -> Iterator[Form]:
    sums = "pmaddubsw_pmaddwd"
    yield Form("w8a8", ("i8",), "i8", sums, _codes(8), _INT8)
    yield Form("w8a7", ("i8",), "i7", sums, _codes(8), _INT8)
    for bits, others in ((4, _INT4), (3, ()), (2, _INT2)):
        yield Form(f"w{bits}a8", (f"i{bits}",), "i8", "pmaddubsw", _codes(bits), others)
    for bits, others in ((8, ()), (4, _INT4), (2, _INT2)):
        name, limit = f"w{bits}a8_group{GROUP}", sums if bits == 8 else "pmaddubsw"
        yield Form(name, (f"i{bits}_group",), "i8", limit, _groups(bits), others)
    yield Form("w1a1", ("b1",), "b1", "pshufb", matrices.signs)
    yield Form("w1a1_codes", ("b1",), "b1", "pshufb", matrices.signs, gives_codes=True)
    yield Form("w1u1", ("b1",), "u1", "pshufb", matrices.signs)
    yield Form("w1a8", ("b1",), "i8", "pmaddubsw", matrices.signs)


def _wide_forms() -> Iterator[Form]:
    yield Form("f32_dense", ("f32",), "f32", "fma", plain)
    for bits, others in _WIDE.items():
        yield Form(f"w{bits}a32", (f"i{bits}",), "f32", "fma", _codes(bits), others)
    for bits in _WIDE:
        name, others = f"w{bits}a32_group{GROUP}", _WIDE[4] if bits == 4 else ()
        yield Form(name, (f"i{bits}_group",), "f32", "fma", _groups(bits), others)


def _sparse_forms() -> Iterator[Form]:
    for percent in (50, 80, 90):
        prune = partial(matrices.pruned, sparsity=percent / 100)
        yield Form(f"csr_{percent}", ("f32_csr",), "f32", "fma", plain, _CSR, prune)
        yield Form(f"csr_i8_{percent}", ("i8_csr",), "i8", "fma", _codes(8), (), prune)
    for name, block, held in (
        ("16x1", (16, 1), "16x1"),
        ("8x1", (8, 1), "8x1"),
        ("4x4", (4, 4), "4x4"),
        ("32x32", (32, 32), "16x1"),  # two panels of 16 outputs, runs of 32 steps
    ):
        for percent in (80, 90) if name == "16x1" else (80,):
            prune = partial(matrices.pruned, sparsity=percent / 100, block=block)
            yield Form(f"blk{name}_{percent}", (f"f32_{held}",), "f32", "fma", plain, (), prune)
            yield Form(
                f"blk{name}_i8_{percent}", (f"i8_{held}",), "i8", "fma", _codes(8), (), prune
            )
    two = partial(matrices.pruned_n_of_m, n_kept=2, m=4)
    yield Form("n2m4", ("f32_2of4", "f32_csr"), "f32", "fma", plain, (), two)
    yield Form("n2m4_i8", ("i8_2of4", "i8_csr"), "i8", "fma", _codes(8), (), two)


FORMS: Mapping[str, Form] = {
    form.kernel: form for made in (_wide_forms, _integer_forms, _sparse_forms) for form in made()
}


def plans(threads: int = 1) -> Iterator[Plan]:
    """Yield every linear case; with one row also with cold weights, and Whisper's products."""
    for k, n in SHAPES:
        for rows in ROWS:
            for form in FORMS.values():
                yield _plan(form, (k, n, rows), threads=threads)
                if rows == 1:
                    yield _plan(form, (k, n, rows), threads=threads, is_cold=True)
    for k, n, rows in WHISPER_SHAPES:
        names = (*WHISPER_KERNELS, *(WHISPER_STEP_KERNELS if rows == 1 else ()))
        for name in names:
            yield _plan(FORMS[name], (k, n, rows), threads=threads)


def _plan(form: Form, sizes: tuple[int, int, int], *, threads: int, is_cold: bool = False) -> Plan:
    k, n, rows = sizes
    make = partial(case_of, form, sizes, threads=threads, is_cold=is_cold)
    return Plan(form.kernel, f"{k}x{n}-T{rows}", make, threads, is_cold)


@lru_cache(maxsize=4)
def _weights(n: int, k: int) -> F32:
    return matrices.gaussian(n, k, SEED)


@lru_cache(maxsize=4)
def _activations(rows: int, k: int) -> F32:
    return matrices.activations(rows, k, SEED)


def panel_of(form: Form, weight: F32) -> tuple[panels.LinearPanel, Matrix]:
    """Lay pruned weights (n, k) out for the kernel of a form; AbsentError if there is none here."""
    matrix = form.matrix(weight)
    for values in form.values:
        found = lookup("linear", values=values, activation=form.activation)
        if found:
            break
    else:
        raise AbsentError(
            f"no kernel of this CPU reads {' or '.join(form.values)} weights with "
            f"{form.activation} activations"
        )
    row, (n, k) = found[0], matrix.shape
    inside = row.values.startswith("f32") or row.values.endswith("_group")
    scale = np.zeros(0, np.float32) if inside or matrix.scale is None else matrix.scale[:, 0]
    panel = panels.LinearPanel(
        row.name,
        "chosen by name",
        n,
        k,
        form.activation,
        row.layout.pack(matrix),
        np.ascontiguousarray(scale),
        row.run,
    )
    return panel, matrix


def copied(panel: panels.LinearPanel) -> panels.LinearPanel:
    """Return the same layer in memory of its own, on cache lines as the packed arrays are."""

    def fresh_of(item: Any) -> Any:
        if not isinstance(item, np.ndarray):
            return item
        fresh: NDArray[np.generic] = aligned_zeros(item.shape, item.dtype)
        fresh[...] = item
        return fresh

    return replace(panel, arguments=tuple(fresh_of(item) for item in panel.arguments))


def case_of(
    form: Form, sizes: tuple[int, int, int], *, threads: int = 1, is_cold: bool = False
) -> Case:
    """Build the case of a form at (k, n, rows); AbsentError if its kernel is not there."""
    k, n, rows = sizes
    weight, x = _weights(n, k), _activations(rows, k)
    if form.prune is not None:
        weight = form.prune(weight)
    panel, _ = panel_of(form, weight)
    copies = harness.cold_layers(panel.nbytes) if is_cold else 1
    layers = [panel, *(copied(panel) for _ in range(copies - 1))]
    given = matrices.quantized(x, form.activation)

    def exact() -> NDArray[np.float64]:
        return x.astype(np.float64) @ weight.T.astype(np.float64)

    scale = np.zeros(0, np.float32)
    if form.gives_codes:
        scale = np.array([np.abs(exact()).max() / 127], np.float32)
    out = _Output(rows, n, scale)
    sides = {OURS: Side([out.run(layer, given, threads) for layer in layers], None)}
    sides[OURS] = replace(sides[OURS], output=partial(out.after, sides[OURS].runs[0]))
    notes: list[str] = []
    if threads > 1:
        sides[ONE_THREAD] = Side([out.run(layer, given, 1) for layer in layers])
    if form.activation != "f32":
        try:
            sides[QUANTIZING] = Side(
                [_quantizing(out, layer, x, form.activation, threads) for layer in layers]
            )
        except AbsentError as error:
            notes.append(str(error))
    for name in (TORCH, NUMPY, *form.peers):
        stored = max(1, int(n * k * peers.PEERS[name].stored_bits / 8))
        count = harness.cold_layers(stored) if is_cold else 1
        try:
            sides[name] = peers.side(name, weight, x, threads=threads, copies=count)
        except AbsentError as error:
            notes.append(f"{name}: {error}")
    operations = 2 * k * n * rows
    nonzero = int(np.count_nonzero(weight)) if form.prune is not None else n * k
    return Case(
        sides=sides,
        operations=operations,
        work=2 * nonzero * rows,
        size_bytes=panel.nbytes + given.x.nbytes + out.nbytes,
        weight_bytes=panel.nbytes,
        limit=form.limit,
        kernel_used=panel.kernel,
        exact=exact,
        notes=tuple(notes),
    )


class _Output:
    """Memory for the outputs of our side: floats, or codes of a given scale."""

    def __init__(self, rows: int, n: int, scale: F32) -> None:
        self.scale = scale
        self.codes = np.zeros((rows, n) if scale.size else (0, 0), np.int8)
        self.floats = np.zeros((0, 0) if scale.size else (rows, n), np.float32)

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.floats.nbytes

    def run(self, panel: panels.LinearPanel, given: Codes, threads: int) -> Run:
        x_scale = given.scale if given.scale.size else None
        if self.scale.size:
            return panels.bind(
                panel,
                given.x,
                x_scale=x_scale,
                codes=self.codes,
                codes_scale=self.scale,
                quantize="static",
                threads=threads,
            )
        return panels.bind(panel, given.x, self.floats, x_scale=x_scale, threads=threads)

    def after(self, run: Run) -> Floats:
        run()
        return self.codes * self.scale if self.scale.size else self.floats


def _quantizing(
    out: _Output, panel: panels.LinearPanel, x: F32, activation: str, threads: int
) -> Run:
    """One call that quantises float activations and runs the layer."""
    given = matrices.quantized(x, activation)
    quantize = _quantizer(x, given, activation)
    multiply = out.run(panel, given, threads)

    def run() -> None:
        quantize()
        multiply()

    return run


def _quantizer(x: F32, given: Codes, activation: str) -> Run:
    if activation == "i8":
        return partial(pointwise.dynamic_quantize_row, x, given.x, given.scale)
    if activation == "b1":
        return partial(binarize, x, given.x, given.scale)
    if activation == "u1":
        level = matrices.level_of(x)
        return partial(binarize, x, given.x, given.scale, level=level, is_signed=False)
    raise AbsentError(f"no kernel quantises floats to {activation}")
