"""Run-time forms of weight matrices, and the linear layer and embedding that read them.

A panel is never stored and never counted: choosing another kernel changes nothing that a chip is
charged for. ``prepare_linear`` picks the kernel and says why in ``LinearPanel.reason``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels import (  # (some only register kernels)
    binary,  # noqa: F401
    binary_signs,  # noqa: F401
    blocks,  # noqa: F401
    dense,  # noqa: F401
    encodings,
    generic,  # noqa: F401
    lowbit,  # noqa: F401
    sparse,  # noqa: F401
    sparse_rows,  # noqa: F401
    widen,  # noqa: F401
)
from kernels.arguments import FLOATS, on_threads, require, told
from kernels.choice import BIT_ACTIVATIONS, choose
from kernels.encodings import Encoding, matrix_shape
from kernels.finish import FORBIDDEN_CODE, NAN_SCALE
from kernels.finish_rows import ACTIVATIONS, GLU, QUANTIZE_ROW, QUANTIZE_STATIC, RAW
from kernels.jit import ENTRIES, Entry
from kernels.operands import ACTIVATION_TYPES, BYTES, check_embedding, check_linear, overlap
from kernels.registry import KERNELS, Kernel, Matrix, lookup
from kernels.sparse_speeds import DEFAULT_BREAK_EVEN, Speed

F32 = NDArray[np.float32]
I8 = NDArray[np.int8]

STEPS = {**ACTIVATIONS, "glu": GLU}
"""What may follow the bias of a linear layer, by name."""
QUANTIZE = {"none": 0, "row": QUANTIZE_ROW, "static": QUANTIZE_STATIC}
"""How the outputs may be requantised: a scale per row from its largest value, or a given one."""


_NONE = np.zeros(0, np.float32)
_NO_ROWS = np.zeros((0, 0), np.float32)
_NO_CODES = np.zeros((0, 0), np.int8)


@dataclass(frozen=True, eq=False)
class LinearPanel:
    """A weight matrix ``(n, k)`` ready for one kernel.

    ``scale`` is float32 ``(n)``, or empty where the layout holds plain values. ``is_fallback``
    says that zeros or codes of the encoding are not used as such; ``reason`` tells why.
    """

    kernel: str
    reason: str
    n: int
    k: int
    activation: str
    arguments: tuple[Any, ...]
    scale: F32
    run: Entry
    is_fallback: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes that the arrays of the panel take in host memory."""
        return self.scale.nbytes + sum(getattr(item, "nbytes", 0) for item in self.arguments)

    @property
    def x_columns(self) -> int:
        """Elements of one activation row: k, or the bytes that hold k bits."""
        return -(-self.k // 8) if self.activation in BIT_ACTIVATIONS else self.k


def prepare_linear(
    encoding: Encoding,
    *,
    rows: int,
    activation: str = "f32",
    kernel_size: int = 1,
    share: Sequence[LinearPanel] = (),
    table: Sequence[Speed] = DEFAULT_BREAK_EVEN,
) -> LinearPanel:
    """Choose a kernel for ``rows`` activation rows at a time and lay the weights out for it.

    ``activation`` is one of ``kernels.choice.ACTIVATIONS``. ``kernel_size`` above 1 takes conv
    weights ``(N, C, size)`` and orders their columns ``(size, C)``, as an overlapping view of
    time-major input has them. ``share`` names panels of the same constant; one of the same layout
    gives its arrays. ``table`` says how fast sparse forms are. Raises ValueError when the encoding
    has no exact form for the activation.

    >>> panel = prepare_linear(encodings.encode_dense(np.eye(3, dtype=np.float32)), rows=2)
    >>> out = np.empty((2, 3), np.float32)
    >>> linear(panel, np.ones((2, 3), np.float32), out)
    >>> out.tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    n, k = matrix_shape(encoding.shape)
    if rows < 1 or kernel_size < 1 or k % kernel_size or n * k == 0:
        raise ValueError(
            f"prepare_linear: found rows {rows}, kernel_size {kernel_size} for a constant of shape "
            f"{encoding.shape}; expected sizes of at least 1 and kernel_size a divisor of {k}"
        )
    chosen = choose(encoding, rows=rows, activation=activation, table=table)
    row = chosen.kernel
    arguments = _shared(share, row, n, k)
    if arguments is None:
        arguments = row.layout.pack(_matrix(encoding, row.values, kernel_size))
    plain = row.values.startswith("f32") or row.values.endswith("_group")  # scales are inside
    scale = _NONE if plain else _row_scale(encoding, n)
    return LinearPanel(
        row.name,
        chosen.reason,
        n,
        k,
        activation,
        arguments,
        scale,
        row.run,
        chosen.is_fallback,
    )


def _matrix(encoding: Encoding, values: str, kernel_size: int) -> Matrix:
    """Return what the layout packs, columns in the order of time-major windows."""
    n, k = matrix_shape(encoding.shape)
    if values.startswith("f32"):
        table = encodings.decode(encoding).reshape(n, k)
        return Matrix(_ordered(table, kernel_size), group=k)
    codes = encodings.codes(encoding)
    scales = encodings.scales(encoding)
    if scales is not None and scales.shape[1] > 1 and kernel_size > 1:
        raise ValueError(
            f"prepare_linear: found group scales on a convolution of {kernel_size} steps, expected "
            "one scale per output"
        )
    return Matrix(
        _ordered(codes, kernel_size),
        scales,
        getattr(encoding, "zero_point", None),
        getattr(encoding, "group", k),
    )


def _ordered(table: NDArray[Any], kernel_size: int) -> NDArray[Any]:
    n, k = table.shape
    if kernel_size == 1:
        return table
    return table.reshape(n, k // kernel_size, kernel_size).transpose(0, 2, 1).reshape(n, k)


def _row_scale(encoding: Encoding, n: int) -> F32:
    return np.ascontiguousarray(np.broadcast_to(encodings.scales(encoding)[:, 0], (n,)))


def _shared(share: Sequence[LinearPanel], row: Kernel, n: int, k: int) -> tuple[Any, ...] | None:
    for panel in share:
        if (panel.n, panel.k) == (n, k) and KERNELS[panel.kernel].layout is row.layout:
            return panel.arguments
    return None


def bind(
    panel: LinearPanel,
    x: NDArray[Any],
    out: F32 | None = None,
    *,
    x_scale: F32 | None = None,
    bias: F32 | None = None,
    activation: str = "none",
    residual: F32 | None = None,
    codes: I8 | None = None,
    codes_scale: F32 | None = None,
    quantize: str = "none",
    threads: int = 1,
) -> Callable[[], None]:
    """Return the call of ``linear`` on these arrays, for making it many times."""
    if activation not in STEPS or quantize not in QUANTIZE:
        raise ValueError(
            f"linear: found activation {activation!r} and quantize {quantize!r}, "
            f"expected one of {', '.join(STEPS)} and one of {', '.join(QUANTIZE)}"
        )
    arrays = (
        panel.scale,
        _NONE if x_scale is None else x_scale,
        _NONE if bias is None else bias,
        _NO_ROWS if residual is None else residual,
        _NO_ROWS if out is None else out,
        _NO_CODES if codes is None else codes,
        _NONE if codes_scale is None else codes_scale,
    )
    return _bound(panel, x, arrays, STEPS[activation] | QUANTIZE[quantize], threads)


def linear(
    panel: LinearPanel,
    x: NDArray[Any],
    out: F32 | None = None,
    *,
    x_scale: F32 | None = None,
    bias: F32 | None = None,
    activation: str = "none",
    residual: F32 | None = None,
    codes: I8 | None = None,
    codes_scale: F32 | None = None,
    quantize: str = "none",
    threads: int = 1,
) -> None:
    """Write ``activation(x (T, K) @ w.T + bias) + residual`` into ``out (T, N)``.

    The inner strides are one element; rows of ``x`` may overlap and ``out`` may be a view of
    longer rows. Codes and bits take ``x_scale`` of shape (T) or (1); bits are packed, ``(T,
    ceil(K / 8))`` uint8. ``activation`` is a key of ``STEPS``; "glu" halves N. ``quantize`` "row"
    writes int8 ``codes (T, N)`` and their ``codes_scale (T)``, "static" reads ``codes_scale (1)``;
    ``out`` may then be absent. The result does not depend on ``threads``. ValueError or TypeError
    says what does not fit.
    """
    bind(
        panel,
        x,
        out,
        x_scale=x_scale,
        bias=bias,
        activation=activation,
        residual=residual,
        codes=codes,
        codes_scale=codes_scale,
        quantize=quantize,
        threads=threads,
    )()


def linear_bits(
    panel: LinearPanel,
    x: NDArray[np.uint8],
    packed: NDArray[np.uint8],
    *,
    x_scale: F32,
    threshold: F32,
    bias: F32 | None = None,
    threads: int = 1,
) -> None:
    """Write the bits of ``x @ w.T + bias >= threshold (N)`` into ``packed (T, ceil(N / 8))``.

    For panels of one-bit weights and packed activations: a layer of signs behind another one, for
    which no float output is kept. The first output is bit 0 of a byte.
    """
    found = lookup("linear_bits", values="b1", activation=panel.activation)
    if not found or panel.k < 1 or KERNELS[panel.kernel].layout is not found[0].layout:
        raise ValueError(
            f"linear_bits: found a panel of {panel.kernel}, expected one-bit weights and x"
        )
    name = f"linear_bits ({found[0].name})"
    for array, dimensions in ((x, 2), (packed, 2)):
        require(name, BYTES, dimensions, array)
    biases = _NONE if bias is None else bias
    require(name, FLOATS, 1, x_scale, threshold, biases)
    if not packed.flags.writeable or overlap(packed, x):
        raise ValueError(f"{name}: found results in read-only memory or in that of x")
    run = on_threads(found[0].run, threads)
    status = run(x, *panel.arguments, panel.scale, x_scale, biases, threshold, packed, threads)
    if status:
        given = ", ".join(told(array) for array in (x, x_scale, biases, threshold, packed))
        raise ValueError(
            f"{name}: found x, x_scale, bias, threshold, packed {given}; expected "
            f"(T, {panel.x_columns}), (T) or (1), ({panel.n}) or (0), ({panel.n}) and "
            f"(T, {-(-panel.n // 8)}), without NaN"
        )


def accumulate(
    panel: LinearPanel, x: NDArray[Any], out: NDArray[np.int32], *, threads: int = 1
) -> None:
    """Write the exact integer sums of a panel of codes, without scales, into ``out (T, N)``."""
    if panel.scale.size == 0 or panel.activation == "f32":
        raise ValueError(f"accumulate: kernel {panel.kernel} has no integer sums")
    if out.dtype != np.int32:
        raise TypeError(f"accumulate: out: found {out.dtype}, expected int32")
    as_floats = out.view(np.float32)
    arrays = (_NONE, _NONE, _NONE, _NO_ROWS, as_floats, _NO_CODES, _NONE)
    _bound(panel, x, arrays, RAW, threads)()


def _bound(
    panel: LinearPanel, x: NDArray[Any], arrays: tuple[Any, ...], steps: int, threads: int
) -> Callable[[], None]:
    where = f"linear ({panel.kernel})"
    check_linear(where, panel.activation, x, arrays[1:], threads=threads)
    run = on_threads(panel.run, threads)
    arguments = (x, *panel.arguments, *arrays, steps, threads)

    def call() -> None:
        try:
            status = run(*arguments)
        except TypeError as error:
            raise TypeError(_misfit(panel, x, arrays)) from error
        if status:
            raise ValueError(_misfit(panel, x, arrays, status=status))

    return call


def _misfit(
    panel: LinearPanel, x: NDArray[Any], arrays: tuple[Any, ...], *, status: int = 1
) -> str:
    if status == FORBIDDEN_CODE:
        limit = 63 if panel.activation == "i7" else 127
        return (
            f"linear ({panel.kernel}): found a code of x outside [-{limit}, {limit}], "
            f"expected {panel.activation} codes"
        )
    if status == NAN_SCALE:
        return f"linear ({panel.kernel}): found NaN in a scale, expected numbers"

    def told(array: NDArray[Any]) -> str:
        if array.size == 0:
            return "none"
        return f"{array.dtype} {array.shape} strides {array.strides}"

    names = ("x_scale", "bias", "residual", "out", "codes", "codes_scale")
    found = ", ".join(
        f"{name} {told(array)}" for name, array in zip(names, arrays[1:], strict=True)
    )
    kind = ACTIVATION_TYPES[panel.activation]
    scaled = "" if panel.activation == "f32" else "x_scale float32 (T) or (1), "
    return (
        f"linear ({panel.kernel}): found x {told(x)}, {found}; expected x {kind} (T, "
        f"{panel.x_columns}) and out (T, {panel.n}) with unit inner stride, aligned, {scaled}"
        f"bias float32 ({panel.n}) or none"
    )


def embedding(panel: LinearPanel, ids: NDArray[np.int64], out: F32) -> None:
    """Gather and dequantise rows ``ids (R)`` of the panel's matrix into ``out (R, K)``."""
    check_embedding(ids, out, n=panel.n, k=panel.k)
    layout = KERNELS[panel.kernel].layout
    gathered = layout.rows(panel.arguments, ids)[:, : panel.k]
    if panel.scale.size:
        np.multiply(gathered, panel.scale[ids, None], out=out)
    else:
        out[...] = gathered


def compile_all() -> float:
    """Compile every kernel that this CPU can run, so that no later call waits; return CPU seconds.

    That is the one-thread form of all of them: a program needs a part only.
    """
    from kernels import (  # noqa: PLC0415 (they register their entries)
        attention,  # noqa: F401
        binarize,  # noqa: F401
        conv,  # noqa: F401
        depthwise,  # noqa: F401
        elementwise,  # noqa: F401
        matmul,  # noqa: F401
        norms,  # noqa: F401
        pointwise,  # noqa: F401
    )

    started = process_time()
    unusable = {id(row.run) for row in KERNELS.values() if not row.is_usable()}
    for made in ENTRIES:
        if id(made) not in unusable:
            made.ready()
    return process_time() - started
