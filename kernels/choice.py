"""Which stored form of a weight matrix a linear layer should read, and why."""

from collections.abc import Iterator

from kernels import encodings, sparse
from kernels.encodings import Bitmap, Csr, Encoding
from kernels.jit import host_features
from kernels.registry import Kernel, lookup

ACTIVATIONS = ("f32", "i8", "i7", "b1", "u1")
"""float32; codes in [-127, 127]; codes in [-63, 63]; bits of +1 and -1; bits of 1 and 0."""
BIT_ACTIVATIONS = ("b1", "u1")
WIDER = {2: (2, 3, 4, 8), 3: (3, 4, 8), 4: (4, 8), 8: (8,)}
"""Widths that hold codes of so many bits, nearest first."""


def choose(encoding: Encoding, *, rows: int, activation: str) -> tuple[Kernel, str]:
    """Return the kernel for ``rows`` activation rows at a time, and the reason.

    Raises ValueError when no form of the encoding is exact for the activation.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"prepare_linear: activation: found {activation!r}, "
            f"expected one of {', '.join(ACTIVATIONS)}"
        )
    forms = list(_forms(encoding, rows, activation))
    for values, reason in forms:
        found = lookup("linear", values=values, activation=activation)
        if found:
            absent = "" if host_features() else "; plain loops, as AVX2 and FMA are absent or off"
            return found[0], reason + absent
    name = encodings.kind(encoding)
    if not forms:
        found_values = "float values" if encodings.value_bits(encoding) == 32 else "codes"
        raise ValueError(
            f"prepare_linear: a {name} encoding of {found_values} has no exact product with "
            f"{activation} activations; expected {_expected(activation)}"
        )
    tried = ", ".join(values for values, _ in forms)
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


def _forms(encoding: Encoding, rows: int, activation: str) -> Iterator[tuple[str, str]]:
    """Yield stored forms that give the exact result, best first, with the reason for each."""
    bits = encodings.value_bits(encoding)
    name = encodings.kind(encoding)
    if bits == 32:
        if activation == "f32":
            yield from _float_forms(encoding, rows, f"{name} of float values")
        return
    if bits == 1:
        yield "b1", "one-bit weights"
        if activation in BIT_ACTIVATIONS:
            return
    elif activation in BIT_ACTIVATIONS:
        return
    grouped = is_grouped(encoding)
    kind = f"{bits}-bit codes" + (" with group scales or zero points" if grouped else "")
    how = "float activations" if activation == "f32" else "exact integer sums"
    for width in WIDER[max(bits, 2)]:
        held = "" if width == bits else f" held in {width}"
        yield f"i{width}_group" if grouped else f"i{width}", f"{kind}{held}, {how}"
    if activation == "f32":
        yield from _float_forms(encoding, rows, f"{kind} widened to float beforehand")


def _float_forms(encoding: Encoding, rows: int, reason: str) -> Iterator[tuple[str, str]]:
    """Dense or sparse float values, whichever is faster for an encoding that leaves zeros out."""
    if isinstance(encoding, Csr | Bitmap):
        values, why = sparse.choose_values(encodings.density(encoding), rows)
        reason = f"{reason}, {why}"
        yield values, reason
    yield "f32", reason
