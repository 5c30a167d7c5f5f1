"""The programme a machine runs: loads, steps and stores of a workload, decided before time starts.

A `Group` is one op with the element-wise ops fused behind it. What it does is a `Pattern`, which
groups of equal shape share: steps in order, each with the loads it waits for and the loads it is
the last to use, all relative to the tensors read and written. The group says which tensors these
are. All byte counts are fixed here, the machine only adds time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from hwmodels.array import Split
from hwmodels.memory import Descriptor
from hwmodels.residency import Kept
from hwmodels.workload import WorkItem

Port = Literal["input", "weight"]
UnitName = Literal["array", "vector", "dma"]


@dataclass(eq=False, slots=True)
class Load:
    """One descriptor of tensor number `source` into an operand buffer.

    Step number `step` of its group waits for it. It needs `credit_bytes` of the streaming part (0:
    it goes to the kept part). What stays in the cells of the array takes `shift_cycles` array
    cycles from there into them, where that goes on behind the step before.
    """

    port: Port
    source: int
    descriptor: Descriptor
    credit_bytes: int
    shift_cycles: int = 0
    step: int = 0


@dataclass(eq=False, slots=True)
class Store:
    """One descriptor of result number `target` out of the output buffer."""

    target: int
    descriptor: Descriptor


@dataclass(eq=False, slots=True)
class Step:
    """A run of folds, or of vector work, that needs no further operand once it has begun.

    `loads` must be there before it; `releases` are free after it. `array` are array cycles,
    `vector` (op within the group, vector cycles) of vector and fused ops. `opens_bytes` of the
    output buffer must be free before it; behind it follow the fused ops and the `stores`, then
    `closes_bytes` are free.
    """

    loads: list[Load] = field(default_factory=list)
    releases: list[Load] = field(default_factory=list)
    array: Split | None = None
    vector: tuple[tuple[int, int], ...] = ()
    opens_bytes: int = 0
    closes_bytes: int = 0
    stores: list[Store] = field(default_factory=list)


@dataclass(frozen=True)
class Pattern:
    """The steps of a group, and their sums.

    `loads` are those of all steps by port. `dram_read` and `loaded` are bytes per source, from
    memory and into the buffer; `dram_written` bytes and `stores` numbers per target. `work` are all
    array cycles, `head_cycles` the vector cycles of the group's first op. `held` are the most bytes
    of the streaming part of each buffer that a step needs at once.
    """

    steps: tuple[Step, ...] = ()
    loads: dict[Port, tuple[Load, ...]] = field(default_factory=lambda: {"input": (), "weight": ()})
    dram_read: tuple[int, ...] = ()
    loaded: tuple[int, ...] = ()
    dram_written: tuple[int, ...] = ()
    stores: tuple[int, ...] = ()
    work: Split = field(default_factory=Split)
    head_cycles: int = 0
    held: dict[Port, int] = field(default_factory=lambda: {"input": 0, "weight": 0})


@dataclass(eq=False, slots=True)
class Written:
    """A tensor that one group writes to memory: how many stores of it are still to finish."""

    stores: int = 0


@dataclass(frozen=True)
class Exchange:
    """What was planned to be written to memory so far, by id, on all cores together.

    `waits` names the parts that a tensor consists of, where cores wrote it part by part.
    """

    written: dict[str, Written] = field(default_factory=dict)
    waits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def of(self, ref_id: str) -> tuple[Written, ...]:
        """Return the writes to memory that a load of a tensor has to wait for."""
        names = self.waits.get(ref_id, (ref_id,))
        return tuple(self.written[name] for name in names if name in self.written)


@dataclass(eq=False, slots=True)
class Source:
    """A tensor that a group reads, at `address` in memory.

    Its loads start when group `after_group` is done (-1: at once) and the tensors `after` are in
    memory.
    """

    address: int
    after_group: int
    after: tuple[Written, ...]


@dataclass(eq=False, slots=True)
class Target:
    """A tensor that a group writes, at `address` in memory."""

    address: int
    written: Written


@dataclass(eq=False, slots=True)
class Group:
    """One op and the ops fused behind it: item numbers, unit, what to do and with which tensors.

    `spills` are kept tensors that are written to memory whole before the first step, to make room.
    Behind its ops it does the first pass of the items `ahead`, which are heads of later groups.
    """

    items: tuple[int, ...]
    unit: UnitName
    pattern: Pattern = field(default_factory=Pattern)
    sources: tuple[Source, ...] = ()
    targets: tuple[Target, ...] = ()
    spills: list[tuple[Target, Descriptor]] = field(default_factory=list)
    ahead: tuple[int, ...] = ()

    @property
    def workers(self) -> tuple[int, ...]:
        """Numbers of all items that the group works for."""
        return self.items + self.ahead


@dataclass(slots=True)
class Tally:
    """Counts of one op that do not depend on time. Fields as in `stats.Traffic`.

    `array_macs` of price `array_action` run on the array, which makes `array_speed` of them per
    cycle at best; `array_rescales` in its accumulators. `dequantized` weights are converted at its
    edge. `is_stretched`: words take more than a cycle, or scale groups or
    chunks part the sum. `indices_decoded` and `words_moved` are those of the array's policy for
    zeros.
    """

    dram_read: int = 0
    dram_write: int = 0
    input_buffer_read: int = 0
    input_buffer_write: int = 0
    weight_buffer_read: int = 0
    weight_buffer_write: int = 0
    output_buffer_read: int = 0
    output_buffer_write: int = 0
    partial_sums_read: int = 0
    partial_sums_written: int = 0
    array_macs: int = 0
    array_rescales: int = 0
    dequantized: int = 0
    indices_decoded: int = 0
    words_moved: int = 0
    vector_macs: int = 0
    vector_operations: int = 0
    mapping: str = ""
    array_action: str = ""
    array_speed: float = 0.0
    is_stretched: bool = False


@dataclass(frozen=True)
class Plan:
    """A whole workload: groups in order, counts per item, constants left on chip at the end."""

    items: Sequence[WorkItem]
    groups: Sequence[Group]
    tallies: Sequence[Tally]
    kept: Kept
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
