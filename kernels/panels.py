"""Run-time forms of weight matrices, and the linear layer and embedding that read them.

A panel is never stored and never counted: choosing another kernel changes nothing that a chip is
charged for. ``prepare_linear`` picks the kernel and says why in ``LinearPanel.reason``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels import (  # (some only register kernels)
    dense,  # noqa: F401
    encodings,
    generic,  # noqa: F401
    lowbit,  # noqa: F401
    sparse,
    sparse_rows,  # noqa: F401
    widen,  # noqa: F401
)
from kernels.encodings import Bitmap, Csr, Encoding, matrix_shape
from kernels.jit import ENTRIES, host_features
from kernels.registry import KERNELS, Kernel, lookup

F32 = NDArray[np.float32]
FEW_ROWS = 4
"""Up to this many activation rows, low-bit weights are widened in registers, not beforehand."""

_NONE = np.zeros(0, np.float32)


@dataclass(frozen=True, eq=False)
class LinearPanel:
    """A weight matrix ``(n, k)`` ready for one kernel.

    ``scale`` is float32 ``(n)``, or empty where the layout holds plain float values.
    """

    kernel: str
    reason: str
    n: int
    k: int
    activation: str
    arguments: tuple[Any, ...]
    scale: F32
    run: Any

    @property
    def nbytes(self) -> int:
        """Bytes that the arrays of the panel take in host memory."""
        return self.scale.nbytes + sum(getattr(item, "nbytes", 0) for item in self.arguments)


def prepare_linear(
    encoding: Encoding,
    *,
    rows: int,
    activation: str = "f32",
    kernel_size: int = 1,
    share: Sequence[LinearPanel] = (),
) -> LinearPanel:
    """Choose a kernel for ``rows`` activation rows at a time and lay the weights out for it.

    ``activation`` is "f32" or "i8". ``kernel_size`` above 1 takes conv weights ``(N, C, size)``
    and orders their columns ``(size, C)``, as an overlapping view of time-major input has them.
    ``share`` names panels of the same constant; one of the same layout gives its arrays.
    Raises ValueError when the encoding has no exact form for the activation.

    >>> panel = prepare_linear(encodings.encode_dense(np.eye(3, dtype=np.float32)), rows=2)
    >>> out = np.empty((2, 3), np.float32)
    >>> linear(panel, np.ones((2, 3), np.float32), out)
    >>> out.tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    n, k = matrix_shape(encoding.shape)
    if activation not in {"f32", "i8"}:
        raise ValueError(f"prepare_linear: activation: found {activation!r}, expected 'f32', 'i8'")
    if rows < 1 or kernel_size < 1 or k % kernel_size or n * k == 0:
        raise ValueError(
            f"prepare_linear: found rows {rows}, kernel_size {kernel_size} for a constant of shape "
            f"{encoding.shape}; expected sizes of at least 1 and kernel_size a divisor of {k}"
        )
    values, reason = _choose_values(encoding, rows, activation)
    row = lookup("linear", values=values, activation=activation)[0]
    if not host_features():
        reason += "; plain loops, as AVX2 and FMA are absent or switched off"
    arguments = _shared(share, row, n, k)
    if arguments is None:
        arguments = row.layout.pack(_ordered(_table(encoding, values), kernel_size))
    scale = _NONE if values.startswith("f32") else _row_scale(encoding, n)
    return LinearPanel(row.name, reason, n, k, activation, arguments, scale, row.run.ready())


def _choose_values(encoding: Encoding, rows: int, activation: str) -> tuple[str, str]:
    """Which values the layout holds (f32, f32_csr, f32_mask, i8, i4), and why."""
    bits = encodings.value_bits(encoding)
    name = encodings.kind(encoding)
    if activation == "i8":
        scale = encodings.scales(encoding)
        if scale is None or scale.shape[1] != 1:
            found = "float values" if scale is None else f"{scale.shape[1]} scales per row"
            raise ValueError(
                f"prepare_linear: a {name} encoding with {found} has no exact integer form; "
                "expected codes with one scale per row or per tensor"
            )
        return _code_kind(bits, activation), f"{bits}-bit codes, exact int32 sums"
    if bits == 32:
        return _float_values(encoding, rows, f"{name} of float values")
    if encodings.scales(encoding).shape[1] != 1:
        reason = f"{bits}-bit codes with group scales widened to float beforehand"
        return _float_values(encoding, rows, reason)
    if rows > FEW_ROWS:
        reason = f"{bits}-bit codes widened to float beforehand for {rows} rows"
        return _float_values(encoding, rows, reason)
    kind = _code_kind(bits, activation)
    return kind, f"{bits}-bit codes widened in registers for {rows} rows"


def _float_values(encoding: Encoding, rows: int, reason: str) -> tuple[str, str]:
    """Dense or sparse float values, whichever is faster for an encoding that leaves zeros out."""
    if not isinstance(encoding, Csr | Bitmap):
        return "f32", reason
    values, why = sparse.choose_values(encodings.density(encoding), rows)
    return values, f"{reason}, {why}"


def _code_kind(bits: int, activation: str) -> str:
    """Smallest stored form that a kernel of this CPU reads: i4 for codes of up to 4 bits."""
    has_nibbles = bits <= 4 and lookup("linear", values="i4", activation=activation)
    return "i4" if has_nibbles else "i8"


def _table(encoding: Encoding, values: str) -> NDArray[Any]:
    if values.startswith("f32"):
        return encodings.decode(encoding).reshape(matrix_shape(encoding.shape))
    return encodings.codes(encoding)


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


def linear(
    panel: LinearPanel,
    x: NDArray[np.float32] | NDArray[np.int8],
    out: F32,
    *,
    x_scale: F32 | None = None,
    bias: F32 | None = None,
) -> None:
    """Write ``x (T, K) @ w.T + bias`` into ``out (T, N)``.

    The inner strides are one element; rows of ``x`` may overlap and ``out`` may be a view of
    longer rows. Integer panels take int8 codes in [-127, 127] and ``x_scale`` of shape (T) or (1).
    ValueError or TypeError says what does not fit.
    """
    try:
        bad = panel.run(
            x,
            *panel.arguments,
            panel.scale,
            _NONE if x_scale is None else x_scale,
            _NONE if bias is None else bias,
            out,
        )
    except TypeError as error:
        raise TypeError(_misfit(panel, x, out, x_scale, bias)) from error
    if bad:
        raise ValueError(_misfit(panel, x, out, x_scale, bias, status=bad))


def accumulate(panel: LinearPanel, x: NDArray[np.int8], out: NDArray[np.int32]) -> None:
    """Write the exact integer sums of an integer panel, without scales, into ``out (T, N)``."""
    entry = KERNELS[panel.kernel].accumulate
    if entry is None:
        raise ValueError(f"accumulate: kernel {panel.kernel} has no integer sums")
    bad = entry(x, *panel.arguments, out)
    if bad:
        raise ValueError(_misfit(panel, x, out, None, None, status=bad))


def _misfit(
    panel: LinearPanel,
    x: NDArray[Any],
    out: NDArray[Any],
    x_scale: F32 | None,
    bias: F32 | None,
    *,
    status: int = 1,
) -> str:
    if status == 2:
        return f"linear ({panel.kernel}): found the code -128 in x, expected codes in [-127, 127]"

    def told(array: NDArray[Any] | None) -> str:
        return "none" if array is None else f"{array.dtype} {array.shape} strides {array.strides}"

    codes = panel.activation == "i8"
    return (
        f"linear ({panel.kernel}): found x {told(x)}, out {told(out)}, x_scale {told(x_scale)}, "
        f"bias {told(bias)}; expected x {'int8' if codes else 'float32'} (T, {panel.k}) and out "
        f"(T, {panel.n}) with unit inner stride, "
        f"{'x_scale float32 (T) or (1), ' if codes else ''}bias float32 ({panel.n}) or none"
    )


def embedding(panel: LinearPanel, ids: NDArray[np.int64], out: F32) -> None:
    """Gather and dequantise rows ``ids (R)`` of the panel's matrix into ``out (R, K)``."""
    if ids.size and (int(ids.min()) < 0 or int(ids.max()) >= panel.n):
        raise ValueError(
            f"embedding: found ids [{ids.min()}, {ids.max()}], expected [0, {panel.n - 1}]"
        )
    if out.shape != (ids.size, panel.k):
        raise ValueError(f"embedding: out: found {out.shape}, expected {(ids.size, panel.k)}")
    layout = KERNELS[panel.kernel].layout
    gathered = layout.rows(panel.arguments, ids)[:, : panel.k]
    if panel.scale.size:
        np.multiply(gathered, panel.scale[ids, None], out=out)
    else:
        out[...] = gathered


def compile_all() -> None:
    """Compile every kernel that this CPU can run, so that no later call waits for it."""
    from kernels import attention, conv, pointwise  # noqa: F401, PLC0415 (register their entries)

    unusable = {id(row.run) for row in KERNELS.values() if not row.is_usable()}
    unusable |= {id(row.accumulate) for row in KERNELS.values() if not row.is_usable()}
    for made in ENTRIES:
        if id(made) not in unusable:
            made.ready()
