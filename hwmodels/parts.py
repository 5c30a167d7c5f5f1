"""Parts of tensors: which positions of each a core has, what they are called, what they hold.

A divided tensor lies in memory part after part. Stored bits, zeros and indices included, are
divided in proportion to positions.
"""

from dataclasses import replace
from math import prod
from typing import NamedTuple

from hwmodels.workload import Gemm, Nonzero, TensorRef, VectorOp


class Part(NamedTuple):
    """Positions [first, stop) of `total` along an axis of a tensor.

    `run` counts elements in order, `columns` the last axis. Under any other name it is as much of
    the tensor, in an order that only parts of that name share.
    """

    axis: str
    first: int
    stop: int
    total: int

    @property
    def size(self) -> int:
        """Number of positions."""
        return self.stop - self.first

    @property
    def is_whole(self) -> bool:
        """Whether this is all of the tensor."""
        return self.size == self.total

    def of(self, number: int) -> int:
        """Return how many of `number` things fall into this part; all parts sum to `number`."""
        return number * self.stop // self.total - number * self.first // self.total

    def times(self, number: int, *, axis: str = "run") -> "Part":
        """Return the part along an axis that has `number` positions for each of these."""
        return Part(axis, self.first * number, self.stop * number, self.total * number)


WHOLE = Part("run", 0, 1, 1)


def part_name(ref: TensorRef, part: Part) -> str:
    """Return the id of a part of a tensor; equal parts have equal ids, the whole keeps its own.

    Example:
        >>> x = TensorRef("x", "activation", (5, 12), 480)
        >>> part_name(x, Part("columns", 0, 4, 12)), part_name(x, WHOLE)
        ('x[columns 0:4 of 12]', 'x')

    """
    if part.is_whole:
        return ref.id
    seen = f"({ref.elements})" if ref.is_part and ref.kind != "state" else ""
    is_row = part.axis == "columns" and part.total == ref.elements
    axis = "run" if is_row else part.axis
    return f"{ref.id}{seen}[{axis} {part.first}:{part.stop} of {part.total}]"


def cut(ref: TensorRef, part: Part) -> TensorRef:
    """Return a part of a tensor as a tensor of its own; all parts sum to its elements and bits."""
    if part.is_whole:
        return ref
    elements = part.of(ref.elements)
    is_by_column = part.axis == "columns" and ref.shape[-1] == part.total
    shape = (*ref.shape[:-1], part.size) if is_by_column else (elements,)
    return replace(
        ref,
        id=part_name(ref, part),
        shape=shape,
        stored_bits=part.of(ref.stored_bits),
        index_bits=part.of(ref.index_bits),
        reserved_bits=part.of(ref.reserved_bits),
    )


def of_products(gemm: Gemm, ref: TensorRef, share: Part) -> Part:
    """Return where some products of a GEMM have their part of an operand or of the result."""
    if len(ref.shape) > 2 and prod(ref.shape[:-2]) == gemm.count:
        return share.times(ref.elements // gemm.count)
    shape = _squeezed(ref.shape)
    sides = {gemm.m, gemm.n, gemm.k}
    per_head, left = divmod(shape[-1], gemm.count)
    if not left and {per_head, prod(shape[:-1])} <= sides and len(shape) > 1:
        return share.times(per_head, axis="columns")
    if shape[0] % gemm.count == 0 and ref.elements % gemm.count == 0:
        return share.times(ref.elements // gemm.count)  # channels before positions
    return share


def of_columns(gemm: Gemm, ref: TensorRef, share: Part, *, is_weight: bool = False) -> Part:
    """Return where some result columns of a GEMM have their weights or their results."""
    shape = _squeezed(ref.shape)
    is_row = gemm.count == 1 and shape[0] == gemm.n and ref.elements % gemm.n == 0
    if is_row and (is_weight or shape[-1] != gemm.n):
        return share.times(ref.elements // gemm.n)
    if shape[-1] == gemm.n and not (is_weight and gemm.count > 1):
        return share.times(1, axis="columns")
    return share._replace(axis="columns of products")


def zeros_of(gemm: Gemm, share: Part, *, is_by_product: bool) -> Nonzero | float | None:
    """Return the zero pattern of a part of the weights."""
    if not isinstance(gemm.nonzero, Nonzero) or share.is_whole:
        return gemm.nonzero
    digest = f"{gemm.nonzero.digest}[{share.first}:{share.stop} of {share.total}]"
    if is_by_product:
        rows = gemm.nonzero.mask[share.first * gemm.n : share.stop * gemm.n]
    else:
        products = gemm.nonzero.mask.reshape(gemm.count, gemm.n, -1)
        rows = products[:, share.first : share.stop].reshape(gemm.count * share.size, -1)
    return Nonzero(rows, digest)


def of_rows(op: VectorOp, ref: TensorRef, share: Part, width: int, *, other: str) -> Part:
    """Return what some rows of an op, `width` elements each, read or write of a tensor.

    `other` names parts of which only the size is known.
    """
    if ref.elements == op.elements:
        is_in_order = _squeezed(ref.shape)[-1] == op.row_length
        return share.times(width) if is_in_order else share._replace(axis=other)
    if ref.elements == share.total:
        return share.times(1)
    if ref.kind == "constant" or ref.elements < share.total:
        return WHOLE
    return share._replace(axis=other)


def read_along(ref: TensorRef, part: Part, main: TensorRef) -> Part:
    """Return what an op on a part of `main` needs of another tensor that it reads."""
    found = written_along(ref, part, main)
    if found.axis != "written":
        return found
    return found._replace(axis="read") if ref.elements >= main.elements else WHOLE


def written_along(ref: TensorRef, part: Part, main: TensorRef) -> Part:
    """Return what an op on a part of `main` writes of another tensor."""
    shape = _squeezed(main.shape)
    rows, width = prod(shape[:-1]), shape[-1]
    if part.is_whole:
        return WHOLE
    if _squeezed(ref.shape) == shape:
        return part
    if part.axis == "columns" and ref.elements == width:
        return part.times(1)
    if part.axis == "run" and ref.elements == rows and part.first % width == part.stop % width == 0:
        return Part("run", part.first // width, part.stop // width, rows)
    return part._replace(axis="written")


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1) or (1,)
