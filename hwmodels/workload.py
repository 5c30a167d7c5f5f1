"""The contract between a program and a chip: tensors by reference and the work done on them.

A workload knows shapes, stored bits and true zero patterns; it knows no chip, no tiling and no
address. Dependencies follow from the references: an op waits for the ops that wrote what it reads.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Literal

import numpy as np
from numpy.typing import NDArray

TensorKind = Literal["constant", "activation", "state", "input", "output"]
Number = Literal["f32", "f16", "bf16", "i32", "i8", "u8", "i4", "i2", "i1", "u1"]
NUMBER_BITS: dict[Number, int] = {
    "f32": 32,
    "f16": 16,
    "bf16": 16,
    "i32": 32,
    "i8": 8,
    "u8": 8,
    "i4": 4,
    "i2": 2,
    "i1": 1,
    "u1": 1,
}


@dataclass(frozen=True)
class Runs:
    """How the matrices of several products lie in one tensor, in elements.

    Each matrix is in runs of `elements`, `pitch` apart; the first runs of two matrices in a row lie
    `apart`. Heads of a layer lie so: a frame holds a run of every head.
    """

    elements: int
    pitch: int
    apart: int


@dataclass(frozen=True)
class TensorRef:
    """One tensor as memory holds it.

    Fields: `shape` in elements; `stored_bits` of payload, scales and zero points; `index_bits` of
    sparse indices; `reserved_bits` is the room the layout keeps (a cache is reserved whole while an
    op reads `past + 1` rows of it, any tensor while an op reads a part of it; 0 means `size_bits`).
    An aliased constant is one `id`.
    """

    id: str
    kind: TensorKind
    shape: tuple[int, ...]
    stored_bits: int
    index_bits: int = 0
    reserved_bits: int = 0
    digest: str = ""
    runs: Runs | None = None

    @property
    def size_bits(self) -> int:
        """Bits that move when the whole tensor moves."""
        return self.stored_bits + self.index_bits

    @cached_property
    def size_bytes(self) -> int:
        """Bytes that move when the whole tensor moves, rounded up."""
        return -(-self.size_bits // 8)

    @cached_property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @cached_property
    def room_bytes(self) -> int:
        """Bytes that memory keeps for the tensor."""
        return -(-max(self.size_bits, self.reserved_bits) // 8)

    @cached_property
    def is_part(self) -> bool:
        """Whether memory holds more of the tensor than this."""
        return self.reserved_bits > self.size_bits


@dataclass(frozen=True, eq=False)
class Nonzero:
    """Where a weight matrix is not zero.

    `mask` is `uint8[n, ceil(k / 8)]`: bit j of byte i of a row (least significant first) stands for
    k = 8 i + j. `digest` names the pattern.
    """

    mask: NDArray[np.uint8]
    digest: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Nonzero) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


@dataclass(frozen=True)
class Gemm:
    """`count` independent products result[m, n] = a[m, k] w[n, k]^T.

    `a` and `w` name whole tensors (all `count` products together). For a convolution `a` is the
    activation before im2col, so it may hold fewer than `count * m * k` elements, and
    `window_elements` are those of all its windows one after the other, without padding (0 for other
    products). `nonzero` is the pattern of all of `w` (`count * n` rows, product after product),
    None for dense, or a bare density in (0, 1] for hand-written lists (the output then says
    `assumed uniform`). `scale_group` is the run of k under one scale (0: all k).
    `a_density` is the share of activations that are not zero, None where nobody knows it.
    """

    name: str
    kind: str
    m: int
    n: int
    k: int
    a: TensorRef
    w: TensorRef
    result: TensorRef
    a_number: Number
    w_number: Number
    accumulator: Number
    count: int = 1
    nonzero: Nonzero | float | None = None
    scale_group: int = 0
    has_zero_point: bool = False
    a_density: float | None = None
    window_elements: int = 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the dense product."""
        return self.count * self.m * self.n * self.k

    @cached_property
    def reads(self) -> tuple[TensorRef, ...]:
        """Operands."""
        return (self.a, self.w)

    @cached_property
    def writes(self) -> tuple[TensorRef, ...]:
        """Results."""
        return (self.result,)

    @cached_property
    def refs(self) -> tuple[TensorRef, ...]:
        """Operands and results."""
        return (*self.reads, *self.writes)


@dataclass(frozen=True)
class VectorOp:
    """A function over `elements` elements, rows of `row_length` for reductions.

    `function` is a row of the vector unit's table (add, mul, gelu, softmax, layer_norm,
    dynamic_quantize_row, dynamic_quantize_tensor, dequantize, bias, ...). `is_fused` marks an
    epilogue of the op before it: it works on values that are still on chip.
    """

    name: str
    kind: str
    function: str
    elements: int
    row_length: int
    reads: tuple[TensorRef, ...]
    writes: tuple[TensorRef, ...]
    is_fused: bool = False

    @cached_property
    def refs(self) -> tuple[TensorRef, ...]:
        """Operands and results."""
        return (*self.reads, *self.writes)


@dataclass(frozen=True)
class Transfer:
    """Bytes that move without arithmetic: a gather of embedding rows, a cache append.

    `read_bytes` and `write_bytes` are what really moves, at most the size of the tensors named.
    """

    name: str
    kind: str
    reads: tuple[TensorRef, ...]
    writes: tuple[TensorRef, ...]
    read_bytes: int
    write_bytes: int

    @cached_property
    def refs(self) -> tuple[TensorRef, ...]:
        """Operands and results."""
        return (*self.reads, *self.writes)


WorkItem = Gemm | VectorOp | Transfer


@dataclass(frozen=True)
class Workload:
    """Ordered work of one call of one graph, e.g. `encoder` or `step` at past = 7."""

    name: str
    items: tuple[WorkItem, ...]

    def tensors(self) -> Iterator[TensorRef]:
        """Yield each tensor once, in order of first use."""
        seen: set[str] = set()
        for item in self.items:
            for ref in item.refs:
                if ref.id not in seen:
                    seen.add(ref.id)
                    yield ref

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all dense products."""
        return sum(item.macs for item in self.items if isinstance(item, Gemm))
