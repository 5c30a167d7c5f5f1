"""The table of kernels: what each computes, from which encoding, and what it needs of the CPU."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.jit import Entry, host_features

Arguments = tuple[Any, ...]
SIMD = ("avx2", "fma")


@dataclass(frozen=True, eq=False)
class Matrix:
    """What a layout packs: float32 values or int8 codes ``(n, k)``.

    Codes stand for ``(code - zero_point) * scale``, where scale float32 and zero_point (int8 or
    float32, None for zero) are ``(n or 1, groups)``: ``group`` consecutive codes share one. Float
    values have no scale.
    """

    values: NDArray[Any]
    scale: NDArray[np.float32] | None = None
    zero_point: NDArray[Any] | None = None
    group: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs n and steps k."""
        return (self.values.shape[0], self.values.shape[1])


@dataclass(frozen=True, eq=False)
class Layout:
    """A run-time form of a weight matrix: how to make it, how to read rows back.

    ``pack`` returns the arguments that follow ``x`` in the kernel's call; ``rows`` takes these and
    row ids and returns float32 ``(R, k)`` before the scale of the row.
    """

    name: str
    pack: Callable[[Matrix], Arguments]
    rows: Callable[[Arguments, NDArray[np.int64]], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Kernel:
    """One row: an op on one kind of stored values, run by a numba entry.

    ``run(x, *layout arguments, *finish)`` returns a status of ``kernels.finish``, where the types
    of ``finish`` are ``kernels.finish.FINISH``.
    """

    name: str
    op: str
    values: str  # what the layout stores: f32, i8, i4_group, f32_csr, ...
    activation: str  # f32, i8 or i7 codes, b1 or u1 packed bits
    reference: str
    requires: tuple[str, ...]
    layout: Layout
    run: Entry

    def is_usable(self) -> bool:
        """Tell whether this CPU has the instructions that the kernel needs."""
        return host_features().issuperset(self.requires)


_TABLE: dict[str, Kernel] = {}
KERNELS: Mapping[str, Kernel] = MappingProxyType(_TABLE)


def kernel(
    name: str,
    *,
    op: str,
    values: str,
    activation: str,
    layout: Layout,
    requires: tuple[str, ...] = (),
) -> Callable[[Entry], Entry]:
    """Register an entry; its numpy meaning is the function of that op in ``kernels.reference``."""

    def register(run: Entry) -> Entry:
        if name in _TABLE:
            raise ValueError(f"kernel {name!r} is registered twice")
        reference = f"{op}_{activation}"
        _TABLE[name] = Kernel(name, op, values, activation, reference, requires, layout, run)
        return run

    return register


def lookup(op: str, *, values: str, activation: str) -> list[Kernel]:
    """Kernels that this CPU can run, fastest family first (those that need more of the CPU)."""
    found = [
        row
        for row in _TABLE.values()
        if row.op == op and row.values == values and row.activation == activation
    ]
    return sorted(filter(Kernel.is_usable, found), key=lambda row: -len(row.requires))
