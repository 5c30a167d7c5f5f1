"""Which ops run as one group, so that what passes between them stays on chip.

A vector op follows the op before it, tile by tile, when it works on the elements which that op has
just made: element-wise functions always do, functions of rows where each chunk of the group is
whole rows. Only what is read from elsewhere is loaded, only what is needed later is stored.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from hwmodels.mapping import Room
from hwmodels.vector import FUNCTIONS, VectorFunction
from hwmodels.workload import Gemm, TensorRef, VectorOp, WorkItem

Groups = tuple[tuple[int, ...], ...]
Apart = Callable[[int, int], bool]  # whether an item waits for others that come behind a head

# Rows of these run across positions, which a product makes one after the other.
ACROSS_POSITIONS = ("group_norm",)


def never_apart(_head: int, _index: int) -> bool:
    """Whether an item cannot be in the group of a head: on a single core, none."""
    return False


def is_epilogue(item: WorkItem) -> bool:
    """Whether the program marks an op as one that follows the op before it tile by tile."""
    if not isinstance(item, VectorOp) or not item.is_fused:
        return False
    return FUNCTIONS[item.function].scope == "element"


def marked_groups(items: Sequence[WorkItem], is_apart: Apart = never_apart) -> Groups:
    """Return item numbers of each op with the element-wise ops that are marked to follow it.

    A marked op that reduces over rows or the tensor cannot follow tile by tile: it stands alone.
    """
    groups: list[list[int]] = []
    for index, item in enumerate(items):
        if groups and is_epilogue(item) and not is_apart(groups[-1][0], index):
            groups[-1].append(index)
        else:
            groups.append([index])
    return tuple(tuple(group) for group in groups)


@dataclass(frozen=True)
class Rules:
    """What decides which ops follow others.

    `limits` are the bytes that one chunk may hold. `pays` says whether a function of rows should
    follow a GEMM and the ops fused behind it, which then makes whole rows at a time.
    """

    functions: Mapping[str, VectorFunction]
    limits: Room
    pays: Callable[[Gemm, Sequence[VectorOp], VectorOp], bool]


def fused_groups(items: Sequence[WorkItem], rules: Rules, is_apart: Apart = never_apart) -> Groups:
    """Return item numbers of each op with all ops that can follow it chunk by chunk."""
    groups: list[list[int]] = []
    chain: Chain | None = None
    for index, item in enumerate(items):
        is_free = chain is not None and not is_apart(groups[-1][0], index)
        if chain is not None and is_free and (is_epilogue(item) or chain.takes(item, rules)):
            groups[-1].append(index)
        else:
            groups.append([index])
            chain = Chain(item)
        chain.add(item, rules.functions)
    return tuple(tuple(group) for group in groups)


def longest_row(items: Sequence[WorkItem]) -> int:
    """Return the elements of the longest row that an op behind the first one reduces, or 0."""
    return max(
        (
            item.row_length
            for item in items[1:]
            if isinstance(item, VectorOp) and FUNCTIONS[item.function].scope == "row"
        ),
        default=0,
    )


@dataclass
class Chain:
    """A group while it grows: its elements, its longest row (0: none), what it reads and writes."""

    head: WorkItem
    row: int = 0
    is_whole_rows: bool = True
    fused: list[VectorOp] = field(default_factory=list)
    last: tuple[TensorRef, ...] = ()
    reads: dict[str, TensorRef] = field(default_factory=dict)
    writes: dict[str, TensorRef] = field(default_factory=dict)

    @property
    def elements(self) -> int:
        """Elements that the chain works on; none where bytes only move."""
        if isinstance(self.head, Gemm):
            return self.head.count * self.head.m * self.head.n
        return self.head.elements if isinstance(self.head, VectorOp) else 0

    def add(self, item: WorkItem, functions: Mapping[str, VectorFunction]) -> None:
        """Let an op be the last of the group."""
        self.reads |= {ref.id: ref for ref in item.reads if ref.id not in self.writes}
        self.writes |= {ref.id: ref for ref in item.writes}
        self.last = item.writes
        if isinstance(item, VectorOp):
            if item is not self.head:
                self.fused.append(item)
            scope = functions[item.function].scope
            if scope == "row":
                self.row = max(self.row, item.row_length)
            is_across = scope == "row" and item.function in ACROSS_POSITIONS
            self.is_whole_rows &= scope != "tensor" and not is_across

    def takes(self, item: WorkItem, rules: Rules) -> bool:
        """Whether an op works on what the group has just made, chunk by chunk."""
        if not isinstance(item, VectorOp) or item.elements != self.elements:
            return False
        made = {ref.id for ref in self.last if _is_whole(ref, self.elements)}
        if not any(ref.id in made and _is_whole(ref, self.elements) for ref in item.reads):
            return False
        scope = rules.functions[item.function].scope
        if scope != "row" or item.function in ACROSS_POSITIONS:
            return scope == "element"
        if isinstance(self.head, Gemm):
            return self._ends_rows(item, rules)
        return isinstance(self.head, VectorOp) and self._takes_rows(item, rules.limits)

    def _ends_rows(self, item: VectorOp, rules: Rules) -> bool:
        """Whether an op follows a GEMM that makes whole rows, if need be for this op."""
        gemm = self.head
        if not isinstance(gemm, Gemm) or gemm.n % item.row_length:
            return False
        return rules.pays(gemm, self.fused, item)

    def _takes_rows(self, item: VectorOp, limits: Room) -> bool:
        """Whether all chunks can be whole rows of an op and of those before it."""
        if not self.is_whole_rows:
            return False
        row, short = max(self.row, item.row_length), min(self.row, item.row_length)
        if (short and row % short) or self.elements % row:
            return False
        rows = self.elements // row
        read = [ref for ref in (*self.reads.values(), *item.reads) if ref.kind != "constant"]
        loaded = {ref.id: ref.size_bytes for ref in read if ref.id not in self.writes}
        stored = self.writes | {ref.id: ref for ref in item.writes}
        return (
            -(-sum(loaded.values()) // rows) <= limits.input_bytes
            and -(-sum(ref.size_bytes for ref in stored.values()) // rows) <= limits.output_bytes
        )


def _is_whole(ref: TensorRef, elements: int) -> bool:
    return ref.elements == elements and not ref.is_part
