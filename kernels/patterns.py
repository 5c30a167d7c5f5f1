"""Which form of a sparse matrix pays off: speeds measured by pattern and density, and the choice.

The zeros themselves decide: a matrix is looked at in every form that could hold it, and the form
whose density promises the most speed is taken, or the dense kernel if none promises any.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.blocks import panel_columns
from kernels.csr import blocks_of
from kernels.exact import LARGEST_MAGNITUDES, magnitudes
from kernels.jit import host_features
from kernels.registry import SIMD
from kernels.sparse_speeds import DEFAULT_BREAK_EVEN, Speed

FORMS = ("csr", "narrow", "mask", "16x1", "8x1", "4x4")
"""Scattered nonzeros for many rows, for few, under masks; columns that outputs share; squares."""


def densities(table: NDArray[Any]) -> dict[str, float]:
    """Share of weights ``(n, k)`` that each form keeps, zeros between nonzeros included.

    >>> {form: round(found, 3) for form, found in densities(np.eye(16)).items()}
    {'csr': 0.062, 'narrow': 0.062, 'mask': 0.062, '16x1': 1.0, '8x1': 0.5, '4x4': 0.25}
    """
    nonzero = table != 0
    single = float(nonzero.mean())
    square = blocks_of(nonzero, 4).any(axis=(2, 3))
    return {
        "csr": single,
        "narrow": single,
        "mask": single,
        "16x1": float(panel_columns(nonzero, 16).mean()),
        "8x1": float(panel_columns(nonzero, 8).mean()),
        "4x4": float(square.mean()),
    }


def speed(
    values: str, activation: str, rows: int, density: float, table: Sequence[Speed]
) -> float | None:
    """Speed of a form relative to the dense float kernel, or None where it was not measured.

    The entry for the next larger number of rows counts, or the one for the largest if that is the
    largest of the table: a form that was measured for few rows only is one for few rows. Time
    grows linearly between measured densities, and in proportion beyond them; it never falls below
    that of the least measured density.
    """
    found = [row for row in table if (row.values, row.activation) == (values, activation)]
    enough = [row for row in found if row.rows >= rows]
    most = max(table, key=_rows_of).rows
    if not found or (not enough and max(found, key=_rows_of).rows < most):
        return None
    row = min(enough, key=_rows_of) if enough else max(found, key=_rows_of)
    seconds = [1 / one for one in row.speeds]
    largest = row.densities[-1]
    return 1 / (float(np.interp(density, row.densities, seconds)) * max(1.0, density / largest))


def _rows_of(row: Speed) -> int:
    return row.rows


def _speed_of_dense(dense: str, activation: str, rows: int, table: Sequence[Speed]) -> float:
    found = speed(dense, activation, rows, 1.0, table)
    if found is None:
        known = sorted({f"{row.values} with {row.activation}" for row in table})
        raise ValueError(
            f"no speed of the dense form {dense} with {activation} activations in the table; "
            f"found {', '.join(known)}"
        )
    return found


def break_even(
    values: str,
    activation: str,
    rows: int,
    *,
    dense: str = "f32",
    table: Sequence[Speed] = DEFAULT_BREAK_EVEN,
) -> float:
    """Return the density below which a form beats the ``dense`` one: 0 never, 1 always.

    >>> 0.5 < break_even("f32_16x1", "f32", 499) <= 1
    True
    """
    rival = _speed_of_dense(dense, activation, rows, table)
    steps = np.linspace(0.01, 1, 100)
    wins = [d for d in steps if (speed(values, activation, rows, d, table) or 0.0) > rival]
    return float(max(wins, default=0.0))


def choose_values(
    matrix: NDArray[Any],
    rows: int,
    *,
    activation: str = "f32",
    dense: str = "f32",
    table: Sequence[Speed] = DEFAULT_BREAK_EVEN,
) -> tuple[str, str]:
    """Return the stored form for ``rows`` activation rows at a time, and why.

    ``matrix`` is ``(n, k)`` float32 values or int8 codes, ``dense`` the form that is taken if no
    sparse one is faster: f32, i8, i4, i3 or i2. Sparse codes are summed as floats, so a matrix
    whose sums might not be exact in them (kernels.exact) stays dense.

    >>> matrix = np.kron(np.eye(8), np.ones((16, 16))).astype(np.float32)
    >>> choose_values(matrix, 499)[0]
    'f32_16x1'
    """
    if not host_features().issuperset(SIMD):
        return dense, "the sparse kernels need AVX2 and FMA: dense"
    kind = "f32" if matrix.dtype == np.float32 else "i8"
    forms = {f"{kind}_{form}" for form in FORMS}
    if not any(row.activation == activation and row.values in forms for row in table):
        return dense, f"no sparse form of {kind} values takes {activation} activations: dense"
    if kind == "i8" and magnitudes(matrix) > LARGEST_MAGNITUDES:
        why = f"magnitudes of an output's codes sum to {magnitudes(matrix)}"
        return dense, f"{why}, more than {LARGEST_MAGNITUDES} for exact float sums: dense"
    found = densities(matrix)
    rival = _speed_of_dense(dense, activation, rows, table)
    gains = {}
    for form in FORMS:
        known = speed(f"{kind}_{form}", activation, rows, found[form], table)
        if known is not None and found[form] < 1:
            gains[form] = known / rival
    if not gains:
        return dense, f"no form measured for {rows} rows leaves zeros out: dense"
    best = max(gains, key=gains.__getitem__)
    limit = break_even(f"{kind}_{best}", activation, rows, dense=dense, table=table)
    told = f"density {found[best]:.2f} as {best}"
    if gains[best] <= 1:
        return dense, f"{told} above the break-even {limit:.2f} at {rows} rows: dense"
    why = f"{told} below the break-even {limit:.2f} at {rows} rows"
    return f"{kind}_{best}", f"{why}: about {gains[best]:.1f} times the dense kernel"
