"""Which ops run as one group, so that what passes between them stays on chip.

A vector op follows the op before it, tile by tile, when it works on the elements which that op has
just made: element-wise functions always do, functions of rows where each chunk of the group is
whole rows. Only what is read from elsewhere is loaded, only what is needed later is stored.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

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
    follow a GEMM and the ops fused behind it, which then makes whole rows at a time; last it is
    told which ids are read more than once.
    """

    functions: Mapping[str, VectorFunction]
    limits: Room
    pays: Callable[[Gemm, Sequence[VectorOp], VectorOp, Collection[str]], bool]


def fused_groups(
    items: Sequence[WorkItem],
    numbers: Sequence[int],
    chains: dict[int, "Chain"],
    rules: Rules,
    is_apart: Apart = never_apart,
) -> Groups:
    """Return item numbers of each op with all ops that can follow it chunk by chunk.

    `chains` are those that grew under the same rules before, by the number of their first op, and
    take what is new here. `numbers` are those of the items: equal ones share them.
    """
    uses = Counter([ref.id for item in items for ref in item.reads])
    repeated = {ref_id for ref_id, times in uses.items() if times > 1}
    starts: list[int] = []
    chain: Chain | None = None
    for index, number in enumerate(numbers):
        longer = None
        if chain is not None and not is_apart(starts[-1], index):
            key = number, *[ref_id in repeated for ref_id in chain.weighed]
            longer = chain.following.get(key, chain)
            if longer is chain:  # nobody asked before
                takes = chain.takes(items[index], rules, repeated)
                longer = chain.with_op(items[index], rules.functions) if takes else None
                chain.following[key] = longer
        if longer is None:
            starts.append(index)
            longer = chains.get(number)
            if longer is None:
                longer = chains[number] = Chain().with_op(items[index], rules.functions)
        chain = longer
    return tuple(tuple(range(*ends)) for ends in pairwise([*starts, len(items)]))


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
    """A group as it grows: its ops, its longest row (0: none), what it reads and writes.

    `following` says what becomes of it with an op more, None where that op stays apart. Keys are
    the number of the op and, for each of the ids `weighed`, if it is read more than once: those of
    the last results behind a GEMM, where it has to pay that the op follows.
    """

    ops: tuple[WorkItem, ...] = ()
    row: int = 0
    is_whole_rows: bool = True
    reads: dict[str, TensorRef] = field(default_factory=dict)
    writes: dict[str, TensorRef] = field(default_factory=dict)
    weighed: tuple[str, ...] = ()
    following: dict[tuple[int, ...], "Chain | None"] = field(default_factory=dict)

    @property
    def elements(self) -> int:
        """Elements that the chain works on; none where bytes only move."""
        head = self.ops[0]
        if isinstance(head, Gemm):
            return head.count * head.m * head.n
        return head.elements if isinstance(head, VectorOp) else 0

    def with_op(self, item: WorkItem, functions: Mapping[str, VectorFunction]) -> "Chain":
        """Return the chain with an op more, its last."""
        reads = self.reads | {ref.id: ref for ref in item.reads if ref.id not in self.writes}
        writes = self.writes | {ref.id: ref for ref in item.writes}
        row, is_whole_rows = self.row, self.is_whole_rows
        if isinstance(item, VectorOp):
            scope = functions[item.function].scope
            if scope == "row":
                row = max(row, item.row_length)
            is_across = scope == "row" and item.function in ACROSS_POSITIONS
            is_whole_rows &= scope != "tensor" and not is_across
        ops = (*self.ops, item)
        weighed = tuple(ref.id for ref in item.writes) if isinstance(ops[0], Gemm) else ()
        return Chain(ops, row, is_whole_rows, reads, writes, weighed)

    def takes(self, item: WorkItem, rules: Rules, repeated: Collection[str]) -> bool:
        """Whether an op can follow: it works on what the chain has just made, chunk by chunk.

        `repeated` are the ids that are read more than once.
        """
        if is_epilogue(item):
            return True
        if not isinstance(item, VectorOp) or item.elements != self.elements:
            return False
        made = {ref.id for ref in self.ops[-1].writes if _is_whole(ref, self.elements)}
        if not any(ref.id in made and _is_whole(ref, self.elements) for ref in item.reads):
            return False
        scope = rules.functions[item.function].scope
        if scope != "row" or item.function in ACROSS_POSITIONS:
            return scope == "element"
        head = self.ops[0]
        if isinstance(head, Gemm):
            fused = [op for op in self.ops if isinstance(op, VectorOp)]
            return not head.n % item.row_length and rules.pays(head, fused, item, repeated)
        return isinstance(head, VectorOp) and self._takes_rows(item, rules.limits)

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
