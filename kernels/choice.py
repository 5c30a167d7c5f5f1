"""Which stored form of a weight matrix a linear layer should read, and why."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels import encodings
from kernels.encodings import Binary, BitPacked, Dense, Encoding, Half, matrix_shape
from kernels.jit import host_features
from kernels.patterns import choose_values
from kernels.registry import Kernel, lookup
from kernels.sparse_speeds import DEFAULT_BREAK_EVEN, Speed

ACTIVATIONS = ("f32", "i8", "i7", "b1", "u1")
"""float32; codes in [-127, 127]; codes in [-63, 63]; bits of +1 and -1; bits of 1 and 0."""
BIT_ACTIVATIONS = ("b1", "u1")
WIDER = {1: (2, 3, 4, 8), 2: (2, 3, 4, 8), 3: (3, 4, 8), 4: (4, 8), 8: (8,)}
"""Widths that hold codes of so many bits, nearest first."""


@dataclass(frozen=True)
class Choice:
    """A kernel and the reason for it; ``is_fallback`` if zeros or codes are not used as such."""

    kernel: Kernel
    reason: str
    is_fallback: bool


def choose(
    encoding: Encoding,
    *,
    rows: int,
    activation: str,
    table: Sequence[Speed] = DEFAULT_BREAK_EVEN,
) -> Choice:
    """Return the kernel for ``rows`` activation rows at a time.

    ``table`` says how fast sparse forms are. Raises ValueError when no form of the encoding is
    exact for the activation.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"prepare_linear: activation: found {activation!r}, "
            f"expected one of {', '.join(ACTIVATIONS)}"
        )
    forms = list(_forms(encoding, rows, activation, table))
    for form in forms:
        found = lookup("linear", values=form.values, activation=activation)
        if found and host_features():
            return Choice(found[0], form.reason, form.is_fallback)
        if found:
            reason = f"{form.reason}; plain loops, as AVX2 and FMA are absent or off"
            return Choice(found[0], reason, is_fallback=True)
    name = encodings.kind(encoding)
    if not forms:
        found_values = "float values" if encodings.scales(encoding) is None else "codes"
        raise ValueError(
            f"prepare_linear: a {name} encoding of {found_values} has no exact product with "
            f"{activation} activations; expected {_expected(activation)}"
        )
    tried = ", ".join(form.values for form in forms)
    raise ValueError(
        f"prepare_linear: no kernel of this CPU reads a {name} encoding with {activation} "
        f"activations; looked for {tried}"
    )


def is_grouped(encoding: Encoding) -> bool:
    """Tell whether codes need more than one factor per output: group scales or zero points."""
    scale = encodings.scales(encoding)
    return scale is not None and (
        scale.shape[1] > 1 or getattr(encoding, "zero_point", None) is not None
    )


def _expected(activation: str) -> str:
    return "one-bit weights" if activation in BIT_ACTIVATIONS else "codes with scales"


@dataclass(frozen=True)
class _Form:
    """A stored form that gives the exact result, and why it is taken."""

    values: str
    reason: str
    is_fallback: bool = False


def _forms(
    encoding: Encoding, rows: int, activation: str, table: Sequence[Speed]
) -> Iterator[_Form]:
    """Yield the forms that give the exact result, best first."""
    bits = encodings.value_bits(encoding)
    if encodings.scales(encoding) is None:
        if activation == "f32":
            yield from _float_forms(encoding, rows, table)
        return
    if bits == 1:
        yield _Form("b1", "one-bit weights")
    if activation in BIT_ACTIVATIONS:
        return
    suffix = "_group" if is_grouped(encoding) else ""
    kind = f"{bits}-bit codes" + (" with group scales or zero points" if suffix else "")
    how = "float activations" if activation == "f32" else "exact integer sums"
    reason, skips_no_zeros = f"{kind}, {how}", False
    if not isinstance(encoding, Dense | BitPacked | Binary):
        if suffix:
            why = "sparse kernels know one scale per output: dense"
        else:
            dense, codes = f"i{bits}", encodings.codes(encoding)
            values, why = choose_values(
                codes, rows, activation=activation, dense=dense, table=table
            )
            if values != dense:
                yield _Form(values, f"{reason}, {why}")
        reason, skips_no_zeros = f"{reason}, {why}", True
    for width in WIDER[bits]:
        held = "" if width == bits else f", held in {width}"
        yield _Form(f"i{width}{suffix}", f"{reason}{held}", skips_no_zeros)
    if activation == "f32":
        yield _Form("f32", f"{reason}, widened to float beforehand", is_fallback=True)


def _float_forms(encoding: Encoding, rows: int, table: Sequence[Speed]) -> Iterator[_Form]:
    """Yield dense or sparse float values, whichever is faster where zeros are left out."""
    is_half = encodings.value_bits(encoding) == 16
    reason = f"{encodings.kind(encoding)} of float values"
    if is_half:
        reason += " of 16 bits, widened to float beforehand"
    if isinstance(encoding, Dense | Half):
        yield _Form("f32", reason, is_half)
        return
    values, why = choose_values(_matrix(encoding), rows, table=table)
    yield _Form(values, f"{reason}, {why}", is_fallback=is_half or values == "f32")
    yield _Form("f32", reason, is_fallback=True)


def _matrix(encoding: Encoding) -> NDArray[np.float32]:
    return encodings.decode(encoding).reshape(matrix_shape(encoding.shape))
