"""A time line into cycles: each array cycle of a group belongs to one op and one category."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from hwmodels.plan import Group
from hwmodels.stats import Cycles

Cause = Literal["input", "weight", "output", "dependency"]
Busy = tuple[int, int, int]  # start and end in femtoseconds, item
Wait = tuple[int, int, Cause]  # start and end in femtoseconds, for what


@dataclass
class Record:
    """What happened while one group ran, in femtoseconds.

    `waits` are the times its steps could not begin, `vector` those in which the vector unit worked
    for it. The array works in the rest, and only there.
    """

    start_fs: int = 0
    end_fs: int = 0
    waits: list[Wait] = field(default_factory=list)
    vector: list[Busy] = field(default_factory=list)


def divide(group: Group, record: Record, period_fs: int) -> dict[int, Cycles]:
    """Return the cycles of each item of a group.

    A time is counted as the array clock edge at or after it. Where the array works, its cycles are
    those of the schedule; while it waits and the vector unit works for a fused op, the cycle is
    that op's `vector`; what is left of a wait is a stall. Raises RuntimeError when the parts do not
    sum to the group's time, which would be a fault of the machine.

    Example:
        >>> record = Record(0, 9, waits=[(0, 6, "input")], vector=[(6, 9, 0)])
        >>> divide(Group((0,), "vector"), record, 1)[0].stall_input
        6

    """

    def edge(time_fs: int) -> int:
        return -(-time_fs // period_fs)

    head = group.items[0]
    split = group.pattern.work
    vector = dict.fromkeys(group.workers, 0)
    stalls: dict[Cause, int] = {"input": 0, "weight": 0, "output": 0, "dependency": 0}
    busy = [(edge(start), edge(end), item) for start, end, item in record.vector]
    if group.unit != "array":
        for start, end, item in busy:
            vector[item] += end - start
        busy = []
    first = 0  # of the spans of `busy` that have not ended before
    for start_fs, end_fs, cause in record.waits:
        start, end = edge(start_fs), edge(end_fs)
        stalls[cause] += end - start
        while first < len(busy) and busy[first][1] <= start:
            first += 1
        for busy_start, busy_end, item in _until(busy, first, end):
            shared = min(end, busy_end) - max(start, busy_start)
            vector[item] += shared
            stalls[cause] -= shared
    found = {item: Cycles(vector=cycles) for item, cycles in vector.items()}
    found[head] = Cycles(
        split.compute,
        split.fill,
        split.drain,
        split.weight_load,
        vector[head],
        stalls["input"],
        stalls["weight"],
        stalls["output"],
        stalls["dependency"],
    )
    total = sum(cycles.total for cycles in found.values())
    if total != edge(record.end_fs) - edge(record.start_fs):
        raise RuntimeError(
            f"items {group.items}: the ledger has {total} cycles, the time line "
            f"{edge(record.end_fs) - edge(record.start_fs)}"
        )
    return found


def _until(busy: list[Busy], first: int, end: int) -> Iterator[Busy]:
    """Yield the spans of `busy`, in order of time and apart, from number `first`, before `end`."""
    for number in range(first, len(busy)):
        if busy[number][0] >= end:
            return
        yield busy[number]
