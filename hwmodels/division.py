"""A workload divided over cores: what each computes, what it reads of others, and what that costs.

A tensor that one core writes and only the same core reads, part by part, may stay on its chip. As
soon as some core reads another part than it wrote, all parts go to memory, where whoever reads them
waits for all of them: that is the only barrier.

- A GEMM is divided over its result columns, for which each core reads all activations, or over its
  products: the groups of a convolution always, heads where the chip asks for it, and whatever has
  fewer columns than there are cores.
- An element-wise op follows the tensor it works on, so that epilogues stay with their product. Ops
  that reduce over rows are divided by rows, ops that reduce over a tensor run on the first core.
- A transfer follows the tensor it reads; what nobody wrote is moved by the first core.
- Parts are as even as whole positions allow, and no part of ceil(n / cores) columns takes more
  folds than whole column blocks dealt out to the cores would: ceil(ceil(n / cores) / C) folds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

from hwmodels.architecture import Split
from hwmodels.layout import Layout, Placement
from hwmodels.parts import (
    WHOLE,
    Part,
    cut,
    of_columns,
    of_products,
    of_rows,
    part_name,
    read_along,
    written_along,
    zeros_of,
)
from hwmodels.vector import FUNCTIONS
from hwmodels.workload import Gemm, TensorRef, Transfer, VectorOp, WorkItem, Workload


@dataclass(frozen=True)
class CoreWork:
    """What one core does of a workload.

    `numbers` are those that its items have in the whole; `after` the last items of other cores that
    each reads something of, -1 for none.
    """

    workload: Workload
    numbers: tuple[int, ...]
    after: tuple[int, ...]

    def is_apart(self, head: int, index: int) -> bool:
        """Whether an item reads what other cores make behind `head`, and cannot be fused to it."""
        return self.after[index] >= self.numbers[head]


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
        rest = CoreWork(Workload(workload.name, ()), (), ())
        numbers = range(len(workload.items))
        whole = CoreWork(workload, tuple(numbers), tuple(-1 for _ in numbers))
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
    items: list[list[tuple[int, int, WorkItem]]] = field(init=False)
    latest: int = -1  # maker of what the item at hand reads of other cores
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
        is_by_product = gemm.count > 1 and (self.is_by_head or gemm.kind == "conv" or is_few)
        total = gemm.count if is_by_product else gemm.n
        results: list[Part | None] = []
        for core, share in enumerate(self.shares("products", total)):
            if share is None:
                results.append(None)
                continue
            if is_by_product:
                a, w = of_products(gemm, gemm.a, share), of_products(gemm, gemm.w, share)
                results.append(of_products(gemm, gemm.result, share))
            else:
                a, w = WHOLE, of_columns(gemm, gemm.w, share, is_weight=True)
                results.append(of_columns(gemm, gemm.result, share))
            item = replace(
                gemm,
                a=self.reading(gemm.a, a, core),
                w=self.reading(gemm.w, w, core),
                result=self.part(gemm.result, results[-1] or WHOLE),
                nonzero=zeros_of(gemm, share, is_by_product=is_by_product),
                window_elements=(share if is_by_product else WHOLE).of(gemm.window_elements),
                count=share.size if is_by_product else gemm.count,
                n=gemm.n if is_by_product else share.size,
            )
            self._give(core, number, item)
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
        shares = self.shares("rows", rows)
        for ref in op.writes:
            parts = [one and of_rows(op, ref, one, width, other="written") for one in shares]
            self.write(number, ref, parts)

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
        reads = (
            self.reading(r, of_rows(op, r, share, width, other="read"), core) for r in op.reads
        )
        item = replace(
            op,
            elements=share.size * width,
            row_length=min(op.row_length, share.size * width),
            reads=tuple(dict.fromkeys(reads)),
            writes=tuple(
                self.part(ref, of_rows(op, ref, share, width, other="written")) for ref in op.writes
            ),
            is_fused=False,
        )
        self._give(core, number, item)

    def _follow(self, number: int, op: VectorOp, main: TensorRef) -> None:
        """Divide an element-wise op as the tensor it works on was written."""
        parts = list(self.parts[main.id])
        for core, part in enumerate(parts):
            if part is None:
                continue
            is_by_column = part.axis == "columns" and op.row_length == part.total
            reads = (self.reading(ref, read_along(ref, part, main), core) for ref in op.reads)
            item = replace(
                op,
                elements=part.of(op.elements),
                row_length=part.size if is_by_column else min(op.row_length, part.of(op.elements)),
                reads=tuple(dict.fromkeys(reads)),
                writes=tuple(self.part(ref, written_along(ref, part, main)) for ref in op.writes),
                is_fused=op.is_fused and self.makers[main.id] == number - 1,
            )
            self._give(core, number, item)
        for ref in op.writes:
            self.write(number, ref, [part and written_along(ref, part, main) for part in parts])

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
                    self.reading(ref, read_along(ref, part, main), core) for ref in transfer.reads
                ),
                writes=tuple(
                    self.part(ref, written_along(ref, part, main)) for ref in transfer.writes
                ),
                read_bytes=part.of(transfer.read_bytes),
                write_bytes=part.of(transfer.write_bytes),
            )
            self._give(core, number, item)
        for ref in transfer.writes:
            self.write(number, ref, [part and written_along(ref, part, main) for part in parts])

    def _alone(self, number: int, item: VectorOp | Transfer) -> None:
        """Leave an item to the first core."""
        for ref in item.reads:
            self.reading(ref, WHOLE, 0)
        self._give(0, number, item)
        for ref in item.writes:
            self.write(number, ref, [WHOLE, *[None] * (self.count - 1)])

    def _give(self, core: int, number: int, item: WorkItem) -> None:
        """Give a core its part of an item."""
        self.items[core].append((number, self.latest, item))
        self.latest = -1

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
                self.latest = max(self.latest, self.makers[ref.id])
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
            items = tuple(self._exchange(item) for _, _, item in found)
            numbers = tuple(number for number, _, _ in found)
            after = tuple(latest for _, latest, _ in found)
            cores.append(CoreWork(Workload(name, items), numbers, after))
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


def with_parts(layout: Layout, divided: Divided, burst_bytes: int) -> Layout:
    """Return a layout that also knows in which burst the parts of divided tensors begin."""
    if not divided.origins:
        return layout
    placements = dict(layout.placements)
    for name, (whole, first_byte) in divided.origins.items():
        place = layout.placements[whole]
        offset = first_byte // burst_bytes * burst_bytes
        room = place.size_bytes - offset
        placements[name] = Placement(place.base + offset, room, place.layout)
    return Layout(placements)
