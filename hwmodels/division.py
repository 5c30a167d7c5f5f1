"""A workload divided over cores: what each computes, what it reads of others, and what that costs.

A tensor that one core writes and only the same core reads, part by part, may stay on its chip. As
soon as some core reads another part than it wrote, all parts go to memory, where whoever reads them
waits for all of them: that is the only barrier. A divided tensor lies in memory part after part.

- A GEMM is divided over its result columns, or over its products (heads) where there are several
  and the chip asks for it or there are fewer columns than cores. Each core reads all activations.
- An element-wise op follows the tensor it works on, so that epilogues stay with their product. Ops
  that reduce over rows are divided by rows, ops that reduce over a tensor run on the first core.
- A transfer follows the tensor it reads; what nobody wrote is moved by the first core.
- Parts are as even as whole positions allow, and no part of ceil(n / cores) columns takes more
  folds than whole column blocks dealt out to the cores would: ceil(ceil(n / cores) / C) folds.
- Stored bits, zeros and indices included, are divided in proportion to positions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import prod
from typing import NamedTuple

from hwmodels.architecture import Split
from hwmodels.vector import FUNCTIONS
from hwmodels.workload import Gemm, Nonzero, TensorRef, Transfer, VectorOp, WorkItem, Workload


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
    shape = (*ref.shape[:-1], part.size) if part.axis == "columns" else (elements,)
    return replace(
        ref,
        id=part_name(ref, part),
        shape=shape,
        stored_bits=part.of(ref.stored_bits),
        index_bits=part.of(ref.index_bits),
        reserved_bits=part.of(ref.reserved_bits),
    )


@dataclass(frozen=True)
class CoreWork:
    """What one core does of a workload, and which number each of its items has in the whole."""

    workload: Workload
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Divided:
    """A workload on several cores.

    `origins` says of which tensor each part is, and from which byte on. `waits` names the parts
    that must be in memory before a tensor that no core wrote in this form can be read.
    """

    cores: tuple[CoreWork, ...]
    origins: Mapping[str, tuple[str, int]]
    waits: Mapping[str, tuple[str, ...]]


def divide(workload: Workload, *, count: int, split: Split) -> Divided:
    """Return the work of each of `count` cores; one core, or `utterances`, has all of it.

    Multiply-accumulates, elements and bytes moved are conserved; only activations that several
    cores read are read several times.
    """
    if count == 1 or split == "utterances":
        rest = CoreWork(Workload(workload.name, ()), ())
        whole = CoreWork(workload, tuple(range(len(workload.items))))
        return Divided((whole, *[rest] * (count - 1)), {}, {})
    divider = _Divider(count, is_by_head=split == "heads")
    for number, item in enumerate(workload.items):
        if isinstance(item, Gemm):
            divider.gemm(number, item)
        elif isinstance(item, VectorOp):
            divider.vector(number, item)
        else:
            divider.transfer(number, item)
    return divider.finish(workload.name)


@dataclass
class _Divider:
    """Walks a workload in order, knowing which core wrote which part of every tensor."""

    count: int
    is_by_head: bool
    items: list[list[tuple[int, WorkItem]]] = field(init=False)
    parts: dict[str, list[Part | None]] = field(default_factory=dict)  # of the last write, by core
    makers: dict[str, int] = field(default_factory=dict)  # who wrote it last
    written: dict[str, dict[str, None]] = field(default_factory=dict)  # names of all parts
    read: dict[str, set[str]] = field(default_factory=dict)
    exchanged: set[str] = field(default_factory=set)
    origins: dict[str, tuple[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.items = [[] for _ in range(self.count)]

    def shares(self, axis: str, total: int) -> list[Part | None]:
        """Return the parts of `total` positions by core, None where nothing is left for one."""
        edges = [-(-total * core // self.count) for core in range(self.count + 1)]
        return [Part(axis, *span, total) if span[0] < span[1] else None for span in pairwise(edges)]

    def gemm(self, number: int, gemm: Gemm) -> None:
        """Divide a GEMM over its products or over its columns."""
        is_few = gemm.n < self.count <= gemm.count
        is_by_product = gemm.count > 1 and (self.is_by_head or is_few)
        total = gemm.count if is_by_product else gemm.n
        results: list[Part | None] = []
        for core, share in enumerate(self.shares("products", total)):
            if share is None:
                results.append(None)
                continue
            if is_by_product:
                a, w = _products(gemm, gemm.a, share), _products(gemm, gemm.w, share)
                results.append(_products(gemm, gemm.result, share))
                sizes = {"count": share.size}
            else:
                a, w = WHOLE, _columns(gemm, gemm.w, share, is_weight=True)
                results.append(_columns(gemm, gemm.result, share))
                sizes = {"n": share.size}
            item = replace(
                gemm,
                a=self.reading(gemm.a, a, core),
                w=self.reading(gemm.w, w, core),
                result=self.part(gemm.result, results[-1] or WHOLE),
                nonzero=_zeros(gemm, share, is_by_product=is_by_product),
                **sizes,
            )
            self.items[core].append((number, item))
        self.write(number, gemm.result, results)

    def vector(self, number: int, op: VectorOp) -> None:
        """Let an op follow what it works on, or divide its rows, or leave it to the first core."""
        scope = FUNCTIONS[op.function].scope
        main = self._main(number, op)
        if scope == "element" and main is not None:
            self._follow(number, op, main)
            return
        whole_rows, left = divmod(op.elements, op.row_length)
        rows = whole_rows if not left and (scope == "row" or whole_rows > 1) else op.elements
        is_small = any(ref.elements < rows for ref in op.writes)
        if scope == "tensor" or (scope == "row" and left) or is_small:
            self._alone(number, op)
            return
        width = op.elements // rows
        for core, share in enumerate(self.shares("rows", rows)):
            if share is not None:
                self._vector_part(number, op, core, share, width=width)
        for ref in op.writes:
            shares = self.shares("rows", rows)
            self.write(number, ref, [s and _rows(op, ref, s, width, other="written") for s in shares])

    def _main(self, number: int, op: VectorOp) -> TensorRef | None:
        """Return what an op works on: the product it is fused to, or the first that a core made."""
        found = [
            ref
            for ref in op.reads
            if ref.elements == op.elements and ref.id in self.parts and not ref.is_part
        ]
        if op.is_fused:
            found.sort(key=lambda ref: self.makers[ref.id] != number - 1)
        return found[0] if found else None

    def _vector_part(
        self, number: int, op: VectorOp, core: int, share: Part, *, width: int
    ) -> None:
        """Give a core its rows of an op, `width` elements each."""
        reads = (self.reading(r, _rows(op, r, share, width, other="read"), core) for r in op.reads)
        item = replace(
            op,
            elements=share.size * width,
            row_length=min(op.row_length, share.size * width),
            reads=tuple(dict.fromkeys(reads)),
            writes=tuple(
                self.part(ref, _rows(op, ref, share, width, other="written")) for ref in op.writes
            ),
            is_fused=False,
        )
        self.items[core].append((number, item))

    def _follow(self, number: int, op: VectorOp, main: TensorRef) -> None:
        """Divide an element-wise op as the tensor it works on was written."""
        parts = list(self.parts[main.id])
        for core, part in enumerate(parts):
            if part is None:
                continue
            is_by_column = part.axis == "columns" and op.row_length == part.total
            reads = (self.reading(ref, _along(ref, part, main), core) for ref in op.reads)
            item = replace(
                op,
                elements=part.of(op.elements),
                row_length=part.size if is_by_column else min(op.row_length, part.of(op.elements)),
                reads=tuple(dict.fromkeys(reads)),
                writes=tuple(self.part(ref, _written(ref, part, main)) for ref in op.writes),
                is_fused=op.is_fused and self.makers[main.id] == number - 1,
            )
            self.items[core].append((number, item))
        for ref in op.writes:
            self.write(number, ref, [part and _written(ref, part, main) for part in parts])

    def transfer(self, number: int, transfer: Transfer) -> None:
        """Let a transfer follow the largest tensor it reads that a core wrote."""
        known = [ref for ref in transfer.reads if ref.id in self.parts and not ref.is_part]
        if not known:
            self._alone(number, transfer)
            return
        main = max(known, key=lambda ref: ref.size_bytes)
        parts = list(self.parts[main.id])
        for core, part in enumerate(parts):
            if part is None:
                continue
            item = replace(
                transfer,
                reads=tuple(
                    self.reading(ref, _along(ref, part, main), core) for ref in transfer.reads
                ),
                writes=tuple(self.part(ref, _written(ref, part, main)) for ref in transfer.writes),
                read_bytes=part.of(transfer.read_bytes),
                write_bytes=part.of(transfer.write_bytes),
            )
            self.items[core].append((number, item))
        for ref in transfer.writes:
            self.write(number, ref, [part and _written(ref, part, main) for part in parts])

    def _alone(self, number: int, item: VectorOp | Transfer) -> None:
        """Leave an item to the first core."""
        for ref in item.reads:
            self.reading(ref, WHOLE, 0)
        self.items[0].append((number, item))
        for ref in item.writes:
            self.write(number, ref, [WHOLE, *[None] * (self.count - 1)])

    def part(self, ref: TensorRef, part: Part) -> TensorRef:
        """Return a part of a tensor, and note where it lies."""
        found = cut(ref, part)
        if found.id != ref.id:
            self.origins[found.id] = ref.id, ref.size_bytes * part.first // part.total
        return found

    def reading(self, ref: TensorRef, part: Part, core: int) -> TensorRef:
        """Return a part that a core reads; unless it is what the core wrote, all go to memory."""
        found = self.part(ref, part)
        if ref.id in self.parts:
            own = self.parts[ref.id][core]
            if own is None or part_name(ref, own) != found.id:
                self.exchanged.add(ref.id)
        self.read.setdefault(ref.id, set()).add(found.id)
        return found

    def write(self, number: int, ref: TensorRef, parts: list[Part | None]) -> None:
        """Note which part of a tensor each core has written, as item `number` of the workload."""
        self.parts[ref.id] = parts
        self.makers[ref.id] = number
        names = self.written.setdefault(ref.id, {})
        names.update((part_name(ref, part), None) for part in parts if part is not None)

    def finish(self, name: str) -> Divided:
        """Return the work of the cores; what they exchange is written like an output."""
        cores = []
        for found in self.items:
            items = tuple(self._exchange(item) for _, item in found)
            cores.append(CoreWork(Workload(name, items), tuple(number for number, _ in found)))
        waits = {
            read: tuple(names)
            for ref_id, names in self.written.items()
            for read in self.read.get(ref_id, ())
            if read not in names
        }
        return Divided(tuple(cores), self.origins, waits)

    def _exchange(self, item: WorkItem) -> WorkItem:
        """Return an item that writes to memory what other cores read."""
        if isinstance(item, Gemm):
            return replace(item, result=self._open(item.result))
        return replace(item, writes=tuple(self._open(ref) for ref in item.writes))

    def _open(self, ref: TensorRef) -> TensorRef:
        origin = self.origins.get(ref.id, (ref.id, 0))[0]
        if ref.kind != "activation" or origin not in self.exchanged:
            return ref
        return replace(ref, kind="output")


def _products(gemm: Gemm, ref: TensorRef, share: Part) -> Part:
    """Return where some products of a GEMM have their part of an operand or of the result."""
    shape = _squeezed(ref.shape)
    sides = {gemm.m, gemm.n, gemm.k}
    per_head, left = divmod(shape[-1], gemm.count)
    if prod(shape[:-2]) == gemm.count and len(shape) > 2:
        return share.times(ref.elements // gemm.count)
    if not left and {per_head, prod(shape[:-1])} <= sides and len(shape) > 1:
        return share.times(per_head, axis="columns")
    if shape[0] % gemm.count == 0 and ref.elements % gemm.count == 0:
        return share.times(ref.elements // gemm.count)  # channels before positions
    return share


def _columns(gemm: Gemm, ref: TensorRef, share: Part, *, is_weight: bool = False) -> Part:
    """Return where some result columns of a GEMM have their weights or their results."""
    shape = _squeezed(ref.shape)
    is_row = gemm.count == 1 and shape[0] == gemm.n and ref.elements % gemm.n == 0
    if is_row and (is_weight or shape[-1] != gemm.n):
        return share.times(ref.elements // gemm.n)
    if shape[-1] == gemm.n and not (is_weight and gemm.count > 1):
        return share.times(1, axis="columns")
    return share._replace(axis="columns of products")


def _zeros(gemm: Gemm, share: Part, *, is_by_product: bool) -> Nonzero | float | None:
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


def _rows(op: VectorOp, ref: TensorRef, share: Part, width: int, *, other: str) -> Part:
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


def _along(ref: TensorRef, part: Part, main: TensorRef) -> Part:
    """Return what an op on a part of `main` needs of another tensor that it reads."""
    found = _written(ref, part, main)
    if found.axis != "written":
        return found
    return found._replace(axis="read") if ref.elements >= main.elements else WHOLE


def _written(ref: TensorRef, part: Part, main: TensorRef) -> Part:
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
