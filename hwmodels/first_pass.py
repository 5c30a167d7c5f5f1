"""First passes of functions that need a whole tensor, taken while the tensor is being made.

The largest magnitude of a tensor, or the sum of each channel, is known when the op that makes the
tensor is done: what is left reads it once less.
"""

from collections.abc import Mapping, Sequence

from hwmodels.fusion import Apart, Groups
from hwmodels.mapping import Room
from hwmodels.vector import VectorFunction
from hwmodels.workload import Gemm, TensorRef, Transfer, VectorOp, WorkItem


def first_passes(
    items: Sequence[WorkItem],
    groups: Groups,
    functions: Mapping[str, VectorFunction],
    limits: Room,
    is_apart: Apart,
) -> dict[int, tuple[int, ...]]:
    """Return by group number the items whose first pass follows that group, as later heads.

    They are those that need more of their one operand than `limits` lets a chunk hold, and find the
    operand in the order in which it was made.
    """
    waiting = {
        group[0]: head
        for group, head in ((group, items[group[0]]) for group in groups)
        if isinstance(head, VectorOp) and _needs_more(head, functions, limits)
    }
    passed = {ref.id for head in waiting.values() for ref in head.reads}
    makers: dict[str, int] = {}
    found: dict[int, tuple[int, ...]] = {}
    for number, group in enumerate(groups if waiting else ()):
        head = waiting.get(group[0])
        if head is not None:
            maker = _maker(head, makers)
            if maker is not None and not is_apart(groups[maker][0], group[0]):
                found[maker] = (*found.get(maker, ()), group[0])
        for index in group:
            item = items[index]
            for ref in item.writes:
                if ref.id in passed:
                    makers.pop(ref.id, None)
                    if _is_whole(ref, item):
                        makers[ref.id] = number
    return found


def _needs_more(op: VectorOp, functions: Mapping[str, VectorFunction], limits: Room) -> bool:
    """Whether an op passes several times over more than a chunk."""
    function = functions[op.function]
    if function.passes < 2 or function.scope == "element":
        return False
    if function.scope == "tensor":
        return True
    rows = max(1, op.elements // op.row_length)
    read = sum(ref.size_bytes for ref in op.reads if ref.kind != "constant")
    written = sum(ref.size_bytes for ref in op.writes)
    return -(-read // rows) > limits.input_bytes or -(-written // rows) > limits.output_bytes


def _maker(op: VectorOp, makers: Mapping[str, int]) -> int | None:
    """Return the group that makes all that an op passes over, None where there is no such group."""
    passed = [ref for ref in op.reads if ref.kind != "constant"]
    if len(passed) != 1 or not _is_whole(passed[0], op):
        return None
    return makers.get(passed[0].id)


def _is_whole(ref: TensorRef, item: WorkItem) -> bool:
    """Whether a tensor is what an op makes or passes over, element by element."""
    if isinstance(item, Transfer) or ref.is_part:
        return False
    elements = item.count * item.m * item.n if isinstance(item, Gemm) else item.elements
    return ref.elements == elements
