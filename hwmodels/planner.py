"""Workload -> plan: which op runs where, what is loaded, kept, spilled and stored, in order.

The rules, all decided here and charged where they cost:
- Constants pass through the weight buffer, other tensors through the input buffer; the second
  operand of a GEMM passes through the weight buffer whatever it is.
- A tensor that is read again stays on chip when it fits the kept part of its buffer, the least
  recently used going first. Constants count as read again by the next call; states never stay.
- An operand of a GEMM that could stay only once an earlier op of the call is done streams instead,
  if no other op of the call reads it and no more bytes are loaded for that (see `gemm_steps`).
- A result that a later op reads stays in the kept part of the input buffer when it fits; it is
  written to memory only if it must go before its last reader. Other results are written at once,
  also activations that nobody reads again. Outputs and states are always written.
- What lies on chip feeds either unit at its full width, from whichever buffer holds it.
- Only constants survive the end of a call.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from hwmodels.architecture import Architecture
from hwmodels.descriptors import run
from hwmodels.first_pass import first_passes
from hwmodels.fusion import (
    Apart,
    Groups,
    Rules,
    fused_groups,
    longest_row,
    marked_groups,
    never_apart,
)
from hwmodels.fusion_cost import rows_pay
from hwmodels.layout import Layout
from hwmodels.mapping import resident_bytes
from hwmodels.pattern import Patterns, Read, Tensors, Write
from hwmodels.plan import Exchange, Group, Pattern, Port, Source, Tally, Target, UnitName, Written
from hwmodels.residency import Entry, Kept, Pool
from hwmodels.vector import operation_count
from hwmodels.workload import Gemm, TensorRef, VectorOp, WorkItem, Workload

Stay = Literal["yes", "late", "no"]


@dataclass(frozen=True)
class Operand:
    """A tensor that a group reads: `is_here` before any load, `is_kept` once loaded.

    `port` is the buffer it lies in or passes through; its loads wait for `after_group` and `after`.
    """

    ref: TensorRef
    port: Port
    is_here: bool
    is_kept: bool
    after_group: int = -1
    after: tuple[Written, ...] = ()


@dataclass(frozen=True)
class Result:
    """A tensor that a group writes: kept on chip, written to memory, or both."""

    ref: TensorRef
    is_kept: bool
    written: Written | None


@dataclass(frozen=True)
class Extra:
    """An operand of the op numbered `item`, which is charged for it.

    For a fused op, what it reads besides the result: a bias, scales, a residual.
    """

    item: int
    operand: Operand


class Planner:
    """Walks a workload in order, keeping track of what lies on chip."""

    def __init__(
        self,
        workload: Workload,
        architecture: Architecture,
        *,
        patterns: Patterns,
        layout: Layout,
        kept: Kept = (),
        exchange: Exchange | None = None,
        is_apart: Apart = never_apart,
    ) -> None:
        buffers = architecture.buffers
        self.items = workload.items
        self.numbers = tuple(map(patterns.items.of, workload.items))
        self.architecture = architecture
        self.layout = layout
        self.patterns = patterns
        self.tallies: dict[int, Tally] = {}
        self.groups: list[Group] = []
        share = architecture.mapping.resident_share
        self._constants = Pool(resident_bytes(buffers.weight.size_bytes, share), kept)
        self._tensors = Pool(resident_bytes(buffers.input.size_bytes, share))
        self.pools = self._constants, self._tensors
        self._exchange = exchange or Exchange()
        self._members = self._groups(is_apart)
        self.last_readers = _last_readers(workload.items, self._members)
        self._ahead = self._first_passes(is_apart)

    def _groups(self, is_apart: Apart) -> Groups:
        """Return which ops run together."""
        if self.architecture.mapping.fusion == "marked":
            return marked_groups(self.items, is_apart)
        chip, patterns, setting = self.architecture, self.patterns, self.patterns.setting

        def pays(
            gemm: Gemm, fused: Sequence[VectorOp], op: VectorOp, repeated: Collection[str]
        ) -> bool:
            return rows_pay(chip, patterns, gemm, fused=fused, op=op, repeated=repeated)

        rules = Rules(setting.functions, setting.limits, pays)
        return fused_groups(self.items, self.numbers, patterns.chains, rules, is_apart)

    def _first_passes(self, is_apart: Apart) -> dict[int, tuple[int, ...]]:
        """Return by group number the items whose first pass follows that group."""
        if self.architecture.mapping.fusion == "marked":
            return {}
        setting = self.patterns.setting
        return first_passes(self.items, self._members, setting.functions, setting.limits, is_apart)

    def operations_left(self) -> tuple[int, ...]:
        """Return the operations of each pass of the current head that was not taken ahead."""
        head = self.groups[-1].items[0]
        item = self.items[head]
        if not isinstance(item, VectorOp):
            return ()
        operations = self.patterns.setting.functions[item.function].operations
        return (
            operations[1:] if any(head in ahead for ahead in self._ahead.values()) else operations
        )

    def longest_row(self) -> int:
        """Return the longest row that an op fused behind the current head reduces, 0 for none."""
        return longest_row([self.items[index] for index in self.groups[-1].items])

    def begin(self, unit: UnitName) -> Group:
        """Return the next group, without steps."""
        number = len(self.groups)
        group = Group(self._members[number], unit, ahead=self._ahead.get(number, ()))
        self.groups.append(group)
        for index in group.workers:
            if index not in self.tallies:
                self.tallies[index] = Tally()
        return group

    @property
    def number(self) -> int:
        """Number of the group being planned."""
        return len(self.groups) - 1

    def members(self) -> tuple[tuple[int, ...], ...]:
        """Item numbers of all groups."""
        return self._members

    def ahead(self) -> dict[int, tuple[int, ...]]:
        """Return by group number the items whose first pass follows that group."""
        return self._ahead

    @property
    def written(self) -> dict[str, Written]:
        """What was planned to be written to memory so far, by id, on all cores together."""
        return self._exchange.written

    def pinned(self) -> set[str]:
        """Return the ids that the current group reads or writes: they may not leave the chip."""
        items = [self.items[index] for index in self.groups[-1].items]
        return {ref.id for item in items for ref in item.refs}

    def results(self) -> list[TensorRef]:
        """Return what leaves the current group: the last form of each tensor it writes.

        An activation that only its fused ops read stays inside.
        """
        found: dict[str, TensorRef] = {}
        last = ""
        for index in self.groups[-1].items:
            for ref in self.items[index].writes:
                found[ref.id] = ref
                last = ref.id
        return [
            ref
            for ref in found.values()
            if ref.id == last or ref.kind != "activation" or self._is_read_later(ref)
        ]

    def extras(self, pinned: set[str]) -> list[Extra]:
        """Return what the fused ops of the current group read besides its own results."""
        found: dict[str, Extra] = {}
        head, *fused = self.groups[-1].items
        known = {ref.id for ref in self.items[head].refs}
        for index in fused:
            for ref in self.items[index].reads:
                if ref.id not in known and ref.id not in found:
                    port: Port = "weight" if ref.kind == "constant" else "input"
                    found[ref.id] = Extra(index, self.reads(ref, port=port, pinned=pinned))
            known.update(ref.id for ref in self.items[index].writes)
        return list(found.values())

    def tally_fused(self, *, element_bytes: int) -> None:
        """Count what the fused ops of the current group do in the output buffer."""
        for index, op, operations in self._behind():
            tally, is_ahead = self.tallies[index], index in self.groups[-1].ahead
            tally.vector_operations += operation_count(operations, op.elements)
            tally.output_buffer_read += len(operations) * op.elements * element_bytes
            tally.output_buffer_write += 0 if is_ahead else op.elements * element_bytes

    def reads(
        self,
        ref: TensorRef,
        *,
        port: Port,
        pinned: set[str],
        is_reused: bool = False,
        is_streamed: bool = False,
    ) -> Operand:
        """Find or make a place for a tensor that the current group reads.

        `is_reused`: the group itself reads it more than once. One that `is_streamed` does not stay
        unless it is here.
        """
        if here := self.port_of(ref):
            (self._constants if here == "weight" else self._tensors).touch(ref.id, use=self.number)
            return Operand(ref, here, is_here=True, is_kept=True)
        after = self.write_of(ref)
        is_constant = ref.kind == "constant"
        is_worth_it = is_constant or is_reused or self._is_read_later(ref)
        if is_streamed or ref.kind == "state" or ref.is_part or not is_worth_it:
            return Operand(ref, port, is_here=False, is_kept=False, after=after)
        pool = self._constants if is_constant else self._tensors
        gone = pool.insert(ref.id, ref.size_bytes, use=self.number, pinned=pinned)
        if gone is None:
            return Operand(ref, port, is_here=False, is_kept=False, after=after)
        after_group = max((entry.last_use for entry in gone.values()), default=-1)
        if not is_constant:
            after_group = pool.claim_before(ref.size_bytes, use=self.number)
        return Operand(
            ref,
            "weight" if is_constant else "input",
            is_here=False,
            is_kept=True,
            after_group=after_group,
            after=(*after, *self._spill(gone)),
        )

    def may_stay(self, ref: TensorRef, *, pinned: set[str]) -> Stay:
        """Return whether an operand that a group reads more than once is or can be kept on chip.

        `late`: once an earlier group of this call is done, while only the current one reads it.
        """
        if self.port_of(ref):
            return "yes"
        pool = self._constants if ref.kind == "constant" else self._tensors
        gone = pool.leaving(ref.size_bytes, pinned)
        if ref.kind == "state" or ref.is_part or gone is None:
            return "no"
        if self._is_read_later(ref):
            return "yes"
        if ref.kind == "constant":
            return "late" if any(entry.last_use >= 0 for entry in gone.values()) else "yes"
        return "late" if pool.ask_before(ref.size_bytes, use=self.number) >= 0 else "yes"

    def port_of(self, ref: TensorRef) -> Port | None:
        """Return the buffer that keeps a tensor now, None when only memory holds it."""
        if ref.id in self._constants:
            return "weight"
        return "input" if ref.id in self._tensors else None

    def write_of(self, ref: TensorRef) -> tuple[Written, ...]:
        """Return the write to memory that a load of this tensor has to wait for."""
        return self._exchange.of(ref.id)

    def writes(self, refs: Sequence[TensorRef], *, pinned: set[str]) -> tuple[Result, ...]:
        """Find a place for the tensors that the current group writes."""
        results = []
        for ref in refs:
            self._constants.drop(ref.id)
            self._tensors.drop(ref.id)
            self._exchange.written.pop(ref.id, None)
            must_write = ref.kind in ("state", "output")
            gone = None
            if ref.kind != "state" and self._is_read_later(ref):
                gone = self._tensors.insert(
                    ref.id,
                    ref.size_bytes,
                    use=self.number,
                    is_dirty=not must_write,
                    pinned=pinned,
                )
            if gone is not None:
                self._spill(gone)
            written = None
            if gone is None or must_write:
                written = self._exchange.written[ref.id] = Written()
            results.append(Result(ref, gone is not None, written))
        return tuple(results)

    def finish_group(self) -> None:
        """Drop what nobody reads after the current group."""
        number, readers = self.number, self.last_readers
        for index in self.groups[-1].items:
            for ref in self.items[index].refs:
                if ref.kind != "constant" and readers.get(ref.id, -1) <= number:
                    self._tensors.drop(ref.id)

    def tensors(
        self, reads: Sequence[Extra], results: Sequence[Result], writes: Sequence[Write] = ()
    ) -> Tensors:
        """Return what a pattern has to know of the current group's tensors and fused ops.

        `writes` describe the results where they are not written whole.
        """
        return Tensors(
            tuple(_read(extra.operand) for extra in reads),
            tuple(writes or (_write(result) for result in results)),
            tuple((operations, op.elements) for _, op, operations in self._behind()),
        )

    def _behind(self) -> Iterator[tuple[int, VectorOp, tuple[int, ...]]]:
        """Yield number, op and operations of each pass of all that follows the current head."""
        group = self.groups[-1]
        for index in group.workers[1:]:
            item = self.items[index]
            if isinstance(item, VectorOp):
                operations = self.patterns.setting.functions[item.function].operations
                yield index, item, operations[:1] if index in group.ahead else operations

    def bind(self, pattern: Pattern, reads: Sequence[Extra], results: Sequence[Result]) -> None:
        """Let the current group do `pattern` with these tensors, and charge what it moves."""
        group = self.groups[-1]
        group.pattern = pattern
        group.sources = tuple(
            Source(self.address(one.ref), one.after_group, one.after)
            for one in (extra.operand for extra in reads)
        )
        for extra, moved, loaded in zip(reads, pattern.dram_read, pattern.loaded, strict=True):
            tally = self.tallies[extra.item]
            tally.dram_read += moved
            if extra.operand.port == "input":
                tally.input_buffer_write += loaded
            else:
                tally.weight_buffer_write += loaded
        group.targets = tuple(
            Target(self.address(result.ref), result.written or Written()) for result in results
        )
        for target, stores in zip(group.targets, pattern.stores, strict=True):
            target.written.stores += stores
        self.tallies[group.items[0]].dram_write += sum(pattern.dram_written)

    def address(self, ref: TensorRef) -> int:
        """Return where a tensor begins in memory."""
        return self.layout.base(ref)

    def counts(self) -> list[Tally]:
        """Return the counts of each item, once all are planned."""
        return [self.tallies[index] for index in range(len(self.items))]

    def kept_constants(self) -> Kept:
        """Return the constants on chip, least recently used first."""
        return self._constants.kept()

    def is_read_after(self, ref: TensorRef, number: int) -> bool:
        """Whether a group behind that with `number` reads a tensor."""
        return self.last_readers.get(ref.id, -1) > number

    def _is_read_later(self, ref: TensorRef) -> bool:
        return self.is_read_after(ref, self.number)

    def _spill(self, gone: dict[str, Entry]) -> tuple[Written, ...]:
        """Write to memory what only the chip holds; return the writes to wait for."""
        waits = []
        for ref_id, entry in gone.items():
            if not entry.is_dirty:
                continue
            item = self.groups[-1].items[0]
            written = self._exchange.written[ref_id] = Written(stores=1)
            address = self.layout.placements[ref_id].base
            descriptor = run(entry.size_bytes, first=0, stop=1, total=1, requester="output")
            moved = self.patterns.setting.channels.moved_bytes(descriptor)
            self.tallies[item].dram_write += moved
            self.tallies[item].input_buffer_read += entry.size_bytes
            self.groups[-1].spills.append((Target(address, written), descriptor))
            waits.append(written)
        return tuple(waits)


def _read(operand: Operand) -> Read:
    ref = operand.ref
    return Read(
        operand.port,
        ref.size_bytes,
        ref.elements,
        ref.kind == "constant",
        operand.is_here,
        operand.is_kept,
        ref.runs,
    )


def _write(result: Result) -> Write:
    return Write(result.ref.size_bytes, result.ref.elements, result.written is not None)


def _last_readers(items: Sequence[WorkItem], members: Sequence[Sequence[int]]) -> dict[str, int]:
    """Return the number of the last group that reads each tensor.

    What a group reads of its own results does not count.
    """
    readers: dict[str, int] = {}
    for number, group in enumerate(members):
        own: set[str] = set()
        for index in group:
            item = items[index]
            for ref in item.reads:
                if ref.id not in own:
                    readers[ref.id] = number
            if index != group[-1]:
                own.update([ref.id for ref in item.writes])
    return readers
